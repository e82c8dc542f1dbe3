"""A line a call, for people, as wide as the terminal: a narrow one has fewer columns.

Everything between the columns was written by whoever sent the traffic: control characters, and those that
turn the direction of writing, are shown as escapes and never reach the terminal.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Final, NamedTuple

from appliance.formats import FormatOptions
from appliance.message import url
from appliance.model import NANOSECONDS, Endpoint, HttpExchange, HttpMessage

_MILLISECOND: Final = 1_000_000
_KILO: Final = 1024
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # Unicode general categories
_FLAWS_AT_LEAST: Final = 16
_URL_AT_LEAST: Final = 24


class _Column(NamedTuple):
    name: str
    size: int  # 0: a share of what is left
    right: bool
    rank: int  # the higher, the sooner it gives way to the URL in a narrow terminal; 0: never


_COLUMNS: Final = (
    _Column("time", 12, False, 0),
    _Column("client", 21, False, 3),
    _Column("server", 21, False, 2),
    _Column("vni", 8, True, 4),
    _Column("method", 7, False, 0),
    _Column("url", 0, False, 0),
    _Column("code", 4, True, 0),
    _Column("asks", 6, True, 6),  # octets of the request's body
    _Column("says", 6, True, 5),  # of the response's
    _Column("ms", 6, True, 1),  # from the request to the response
    _Column("flaws", 0, False, 0),
)


class Format:
    def __init__(self, width: int) -> None:
        columns = list(_COLUMNS)
        for column in sorted(_COLUMNS, key=lambda one: -one.rank):
            if column.rank and _rest(columns, width) < _URL_AT_LEAST + _FLAWS_AT_LEAST:
                columns.remove(column)
        rest = max(_rest(columns, width), _URL_AT_LEAST + _FLAWS_AT_LEAST)
        flaws = max(rest // 3, _FLAWS_AT_LEAST)
        sizes = {"url": rest - flaws, "flaws": flaws}
        self._columns = [
            (number, sizes.get(one.name, one.size), one.right)
            for number, one in enumerate(_COLUMNS)
            if one in columns
        ]

    def begin(self) -> bytes:
        return self._line([one.name for one in _COLUMNS])

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
                url(request, query=True).removeprefix("http://") if request else "-",
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
        last = len(cells) - 1  # may run over: a flaw's name is never cut
        parts = [
            _fit(visible(cells[number]), size, right=right, cut=number != last)
            for number, size, right in self._columns
        ]
        return (" ".join(parts).rstrip() + "\n").encode()


def build(options: FormatOptions) -> Format:
    return Format(options.width)


def _rest(columns: list[_Column], width: int) -> int:
    """What the columns of fixed size leave to the others, a blank between all."""
    return width - sum(one.size for one in columns) - len(columns) + 1


def _fit(text: str, size: int, *, right: bool, cut: bool) -> str:
    used = _columns(text)
    if cut and used > size:
        text = text[:size]  # none takes less than a column
        used = _columns(text)
        while used >= size:
            used -= _columns(text[-1])
            text = text[:-1]
        text += "…"
        used += 1
    blanks = " " * (size - used)
    return blanks + text if right else text + blanks


def _columns(text: str) -> int:
    """That a terminal needs; a combining mark counts as one, so that a heap of them is cut."""
    if text.isascii():  # common case
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


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
