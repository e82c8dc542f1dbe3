"""Send a capture to a stand-in database on this machine and show what it got (part of ``make demo``).

python -m examples.send CAPTURE
"""

from __future__ import annotations

import asyncio
import os
import sys

from aiohttp import web

from examples.resurface import Resurface

SHOWN = 8  # pairs of the first message
WIDTH = 100


async def send(capture: str) -> int:
    server = Resurface()
    runner = web.AppRunner(server.application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    environment = {
        **os.environ,
        "USAGE_LOGGERS_URL": f"http://127.0.0.1:{runner.addresses[0][1]}/message",
        "USAGE_LOGGERS_RULES": r"include standard\nallow_http_url",
    }
    command = [sys.executable, "-m", "appliance", "replay", "--sink", "resurface", capture]
    appliance = await asyncio.create_subprocess_exec(*command, env=environment)
    code = await appliance.wait()
    await runner.cleanup()
    got, refused = len(server.messages), len(server.faults)
    print(f"\nthe stand-in database got {got} messages, {refused} refused; the first:")
    for key, value in (server.messages or [[]])[0][:SHOWN]:
        print(f"  {key}: {value[:WIDTH]}{'...' if len(value) > WIDTH else ''}")
    return code or bool(server.faults)


if __name__ == "__main__":
    sys.exit(asyncio.run(send(sys.argv[1])))
