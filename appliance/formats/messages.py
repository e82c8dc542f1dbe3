"""What a Resurface database is sent: one JSON array of [key, value] pairs a line (message.py)."""

from __future__ import annotations

import orjson

from appliance.formats import FormatOptions
from appliance.message import message
from appliance.model import HttpExchange


class Format:
    def __init__(self, host: str) -> None:
        self._host = host

    def begin(self) -> bytes:
        return b""

    def write(self, exchange: HttpExchange) -> bytes:
        return orjson.dumps(message(exchange, self._host), option=orjson.OPT_APPEND_NEWLINE)

    def end(self) -> bytes:
        return b""


def build(options: FormatOptions) -> Format:
    return Format(options.host)
