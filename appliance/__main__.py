"""The command, as ``appliance`` and ``python -m appliance``: what must hold before the rest is loaded."""

import signal
import sys
from typing import NoReturn

INTERRUPTED = 130


def run() -> NoReturn:
    if sys.argv[1:2] == ["run"]:
        for one in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(one, signal.SIG_IGN)  # until the supervisor listens: else they end the process
    try:
        from appliance import cli  # noqa: PLC0415  # takes a quarter of a second
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    cli.run()


if __name__ == "__main__":
    run()
