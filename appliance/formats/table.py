"""A line a call, for people.

Everything between the columns was written by whoever sent the traffic: control characters, and those that
turn the direction of writing, are shown as escapes and never reach the terminal.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Final

from appliance.formats import FormatOptions
from appliance.message import url
from appliance.model import NANOSECONDS, Endpoint, HttpExchange, HttpMessage

_MILLISECOND: Final = 1_000_000
_KILO: Final = 1024
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # Unicode general categories
_FLAWS_AT_LEAST: Final = 16
# name, columns, aligned to the right
_COLUMNS: Final = (
    ("time", 12, False),
    ("client", 21, False),
    ("server", 21, False),
    ("vni", 8, True),
    ("method", 7, False),
    ("url", 0, False),  # what is left
    ("code", 4, True),
    ("asks", 6, True),
    ("says", 6, True),
    ("ms", 6, True),
    ("flaws", 0, False),
)
_NARROWEST: Final = 140


class Format:
    def __init__(self, width: int) -> None:
        width = max(width, _NARROWEST)
        rest = width - sum(size + 1 for _, size, _ in _COLUMNS)
        self._flaws = max(rest // 3, _FLAWS_AT_LEAST)
        self._url = rest - self._flaws

    def begin(self) -> bytes:
        return self._line([name for name, _, _ in _COLUMNS])

    def write(self, exchange: HttpExchange) -> bytes:
        key = exchange.flow.key
        client, server = (key.a, key.b) if exchange.client == 0 else (key.b, key.a)
        request, response = exchange.request, exchange.response
        first = request or response
        between = (response.ts - request.ts) // _MILLISECOND if request and response else None
        return self._line(
            [
                _clock(first.ts) if first else "",
                _endpoint(client),
                _endpoint(server),
                "" if key.vni is None else str(key.vni),
                _text(request.head.start[0]) if request else "-",
                url(request).removeprefix("http://") if request else "-",
                str(response.status) if response else "-",
                _size(request),
                _size(response),
                "" if between is None else str(between),
                " ".join(exchange.flaws),
            ]
        )

    def end(self) -> bytes:
        return b""

    def _line(self, cells: list[str]) -> bytes:
        parts = []
        for (name, size, right), cell in zip(_COLUMNS, cells, strict=True):
            columns = size or (self._url if name == "url" else self._flaws)
            text = visible(cell)
            if len(text) > columns and name != "flaws":  # the last column may run over
                text = text[: columns - 1] + "…"
            parts.append(text.rjust(columns) if right else text.ljust(columns))
        return (" ".join(parts).rstrip() + "\n").encode()


def build(options: FormatOptions) -> Format:
    return Format(options.width)


def visible(text: str) -> str:
    """Text that cannot move a terminal's cursor, colour it or turn it around."""
    if text.isascii() and text.isprintable():  # common case
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _UNSAFE else c for c in text)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"  # noqa: PLR2004


def _clock(ts: int) -> str:
    """UTC, to the millisecond."""
    seconds, rest = divmod(ts, NANOSECONDS)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S}.{rest // _MILLISECOND:03d}"
    except (OverflowError, ValueError, OSError):  # a capture may claim any time
        return "?"


def _endpoint(end: Endpoint) -> str:
    address = end.text()
    return f"[{address}]:{end.port}" if ":" in address else f"{address}:{end.port}"


def _size(side: HttpMessage | None) -> str:
    if side is None:
        return "-"
    size = side.content.length
    mark = "" if side.content.complete else "+"
    return f"{size}{mark}" if size < 10 * _KILO else f"{size // _KILO}k{mark}"


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")
