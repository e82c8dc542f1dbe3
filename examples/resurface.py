"""A stand-in for a Resurface database: takes uploads as strictly as the real one's parser, and keeps them.

    python examples/resurface.py --port 7701 --print

It answers 204, or what it is told to: ``--fail 503:2`` twice 503, ``--stall 5`` only after five seconds.
Not for production: it keeps everything in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import zlib
from dataclasses import dataclass, field

from aiohttp import web

LIMIT = 64 << 20  # octets of an upload, packed or not
PLAIN = {"request_method", "request_url", "response_code", "request_body", "response_body", "host"}
MILLISECONDS = {"now", "response_time_millis"}
INTERVALS = {"interval", "interval_millis"}
PREFIXES = ("request_header:", "response_header:", "request_param:", "session_field:", "custom_field:")
SLOPPY = ("request_h", "response_h", "request_p", "session_", "custom_")  # cut by length: must be exact


class InvalidError(ValueError):
    """An upload that the real parser would not take."""


@dataclass
class Resurface:
    """Tell it what to do next in ``failures`` and ``stall``; look at what came in ``messages``."""

    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # status and headers, one each
    stall: float = 0.0  # seconds before every answer
    show: bool = False
    messages: list[list[tuple[str, str]]] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=LIMIT)
        application.router.add_post("/message", self.message)
        application.router.add_get("/saturated", self.saturated)
        return application

    async def saturated(self, _: web.Request) -> web.Response:
        return web.Response(text="false\n")

    async def message(self, request: web.Request) -> web.Response:
        self.requests.append(dict(request.headers))
        body = await request.read()
        await asyncio.sleep(self.stall)
        if self.failures:
            status, headers = self.failures.pop(0)
            return web.Response(status=status, headers=headers)
        try:
            found = messages(
                request.headers.get("Content-Type"), request.headers.get("Content-Encoding"), body
            )
        except InvalidError as error:
            self.faults.append(str(error))
            sys.stderr.write(f"refused: {error}\n")
            return web.Response(status=400)
        self.messages += found
        if self.show:
            sys.stdout.writelines(f"{json.dumps(one, ensure_ascii=False)}\n" for one in found)
            sys.stdout.flush()
        return web.Response(status=204)


def messages(content_type: str | None, encoding: str | None, body: bytes) -> list[list[tuple[str, str]]]:
    """The messages of one upload. Raises InvalidError."""
    if content_type not in {"application/ndjson; charset=UTF-8", "application/json; charset=UTF-8"}:
        raise InvalidError(f"Content-Type {content_type}")
    if encoding not in {None, "deflated", "identity"}:
        raise InvalidError(f"Content-Encoding {encoding}")
    if encoding == "deflated":
        body = unpacked(body)
    if not body:
        raise InvalidError("empty upload")
    return [message(line) for line in body.removesuffix(b"\n").split(b"\n")]


def unpacked(body: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        body = stream.decompress(body, LIMIT)
    except zlib.error:
        raise InvalidError("not a zlib stream") from None
    if not stream.eof or stream.unused_data:
        raise InvalidError("not one whole zlib stream")
    return body


def message(line: bytes) -> list[tuple[str, str]]:
    try:
        pairs = json.loads(line.decode())
    except ValueError:
        raise InvalidError("a line is no JSON in UTF-8") from None
    if not isinstance(pairs, list) or not pairs:
        raise InvalidError("a line is no array of pairs")
    return [pair(one) for one in pairs]


def pair(one: object) -> tuple[str, str]:
    if not (isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], str)):
        raise InvalidError("a pair is not two texts")
    key, value = one
    if key in MILLISECONDS and not value.lstrip("-").isdigit():
        raise InvalidError(f"{key} is no integer")
    if key in INTERVALS:
        number(key, value)
    elif key not in PLAIN | MILLISECONDS and not key.startswith(PREFIXES):
        raise InvalidError(f"unknown key {key}")
    if key.startswith(SLOPPY) and (not key.startswith(PREFIXES) or key.partition(":")[2][:1] == " "):
        raise InvalidError(f"prefix of {key}")
    if key != key.lower():
        raise InvalidError(f"capitals in {key}")
    return key, value


def number(key: str, value: str) -> None:
    try:
        float(value)
    except ValueError:
        raise InvalidError(f"{key} is no number") from None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=7701)
    parser.add_argument("--fail", default="", metavar="STATUS[:TIMES]", help="answer this first")
    parser.add_argument("--stall", type=float, default=0.0, metavar="SECONDS", help="before every answer")
    parser.add_argument("--print", action="store_true", dest="show", help="every message, a line each")
    arguments = parser.parse_args()
    status, _, times = arguments.fail.partition(":")
    failures: list[tuple[int, dict[str, str]]] = [(int(status), {})] * int(times or 1) if status else []
    server = Resurface(failures, arguments.stall, arguments.show)
    web.run_app(server.application(), host="127.0.0.1", port=arguments.port)


if __name__ == "__main__":
    main()
