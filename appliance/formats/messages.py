"""What a Resurface database is sent: one JSON array of [key, value] pairs a line, after the rules."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from appliance.formats import FormatOptions
from appliance.model import HttpExchange, Message


class Format:
    def __init__(self, publish: Callable[[HttpExchange], Message | None]) -> None:
        self._publish = publish

    def begin(self) -> bytes:
        return b""

    def write(self, exchange: HttpExchange) -> bytes:
        message = self._publish(exchange)
        return b"" if message is None else orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE)

    def end(self) -> bytes:
        return b""


def build(options: FormatOptions) -> Format:
    return Format(options.publish)
