"""Octets of a head -> Head. Reads anything that has a start line; names what the grammar forbids.

Contract: ``HeadParser.parse`` takes a head up to and with its blank line (or what there is of one) and
returns a Head, or None where the first line is no start line of HTTP/1. It never raises. A Head without
flaws was read to its last octet by both grammars, so it has no blank line but the one at its end.

The start line is ours: one expression each for what RFC 9112 §3 and §4 allow, any token as method, any
status from 100 to 999. The field lines are llhttp's, through httptools: on the reference load it reads
them 2.5 times as fast as expressions do, and it refuses every line that two servers might read
differently. It is given every head's fields behind the start line of a 204, so that it expects no body
and is ready for the next head: making a parser for each costs a fourth more (5.0 against 4.0 us for
nine fields). What it refuses goes to a tolerant reader, which keeps what is there and flags it.
"""

from __future__ import annotations

import re
from typing import Final

import httptools

from appliance.flaws import flaw
from appliance.model import REQUEST, RESPONSE, Field, Head

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_STRICT: Final = (
    re.compile(rb"(%s) ([^\x00-\x20\x7f]+) (HTTP/1\.[01])\r\n" % TOKEN),
    re.compile(rb"(HTTP/1\.[01]) ([1-9]\d\d) ([^\x00-\x08\x0a-\x1f\x7f]*)\r\n"),
)
_VERSION: Final = re.compile(rb"HTTP/1\.\d", re.IGNORECASE)
_CODE: Final = re.compile(rb"[1-9]\d\d")
_VERSION_OCTETS: Final = 8
_WHOLE: Final = (
    # RFC 9110 §9 and RFC 5789: no tail of one of these is another, so a cut one is never taken for whole.
    re.compile(
        rb"(?:GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH) [^\x00-\x20\x7f]+ HTTP/1\.[01]\r?\n"
    ),
    re.compile(rb"HTTP/1\.[01] [1-9]\d\d[ \r\n]"),
)
_PART: Final = (  # of such a line, enough of it to be told from other octets
    re.compile(
        rb"(?:GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH) [^\x00-\x20\x7f]+(?: [HTP/1.0]{0,8}\r?)?"
    ),
    re.compile(rb"HTTP/1\.[01] [1-9]?\d{0,2}"),
)
_VERSIONS: Final = (b"HTTP/1.0", b"HTTP/1.1")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NAME = re.compile(TOKEN)
_METHOD = re.compile(rb"%s[ \t]" % TOKEN)
_STATUS: Final = b"HTTP/1."
METHOD_LIMIT: Final = 64  # octets; the longest registered method has 17
_NO_BODY: Final = b"HTTP/1.1 204 \r\n"


def may_begin(kind: int, octets: bytes | bytearray) -> bool:
    """``octets`` may be the beginning of a start line that is not whole yet."""
    if kind == RESPONSE:
        return octets[:7].upper() == _STATUS[: len(octets)]
    if len(octets) <= METHOD_LIMIT and _NAME.fullmatch(octets):
        return True
    return _METHOD.match(octets, 0, METHOD_LIMIT + 1) is not None


def is_whole_start(kind: int, octets: bytes | bytearray) -> bool:
    """``octets`` begin with a start line that cannot be the tail of a longer one."""
    return _WHOLE[kind].match(octets) is not None


def is_part_of_start(kind: int, octets: bytes) -> bool:
    """``octets`` may be the first part of such a line and are not whole yet."""
    return _PART[kind].fullmatch(octets) is not None


def is_start_line(kind: int, line: bytes) -> bool:
    """``line``, without its end, may open a head of this kind."""
    return _start_line(kind, line) is not None


def _start_line(kind: int, line: bytes) -> tuple[bytes, bytes, bytes] | None:
    """The three parts of a start line.

    By hand: an expression that allows blanks anywhere tries every way to share them out, and a line of
    a thousand blanks takes it seconds.
    """
    if b"\r" in line or b"\n" in line:
        return None
    line = line.rstrip(b" \t")
    first = _NAME.match(line) if kind == REQUEST else _VERSION.match(line)
    if first is None or line[first.end() : first.end() + 1] not in {b" ", b"\t"}:
        return None
    rest = line[first.end() :].lstrip(b" \t")
    if kind == REQUEST:
        target, version = rest[:-_VERSION_OCTETS], rest[-_VERSION_OCTETS:]
        if not _VERSION.fullmatch(version) or target[-1:] not in {b"", b" ", b"\t"}:
            return None
        return first[0], target.rstrip(b" \t"), version
    code, after = rest[:3], rest[3:]
    if not _CODE.fullmatch(code) or after[:1] not in {b"", b" ", b"\t"}:
        return None
    return first[0], code, after.lstrip(b" \t")


class _Fields:
    """What llhttp calls."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_message_complete(self) -> None:
        self.complete = True


class HeadParser:
    """Not for use from several threads: one llhttp parser serves all heads."""

    def __init__(self) -> None:
        self._found = _Fields()
        self._llhttp = httptools.HttpResponseParser(self._found)

    def parse(self, kind: int, octets: bytes, at: int, stop: int) -> Head | None:
        """``octets[at:stop]`` is a head with its blank line; ``kind`` is REQUEST or RESPONSE."""
        match = _STRICT[kind].match(octets, at)
        if match is not None:
            fields = self._fields(octets[match.end() : stop])
            if fields is not None:  # common case
                return Head((match[1], match[2], match[3]), fields, [], stop - at)
        return _tolerant(kind, octets[at:stop])

    def _fields(self, lines: bytes) -> list[Field] | None:
        """The field lines with their ends and the blank line, or None where llhttp refuses one."""
        if lines == b"\r\n":
            return []
        found = self._found
        fields: list[Field] = []
        found.fields = fields
        found.complete = False
        try:
            self._llhttp.feed_data(_NO_BODY + lines)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            found.complete = False
        if not found.complete:
            self._found = _Fields()
            self._llhttp = httptools.HttpResponseParser(self._found)
            return None
        return fields


def _tolerant(kind: int, octets: bytes) -> Head | None:
    """Keep what is there and say what is wrong with it."""
    flaws: list[str] = []
    ended = octets.split(b"\n")
    if not all(line.endswith(b"\r") for line in ended[:-1]):
        flaws.append(flaw(kind, "bare-lf"))
    lines = [line.removesuffix(b"\r") for line in ended]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        return None
    start = _start_line(kind, lines[0])
    if start is None:
        return None
    if start[2 if kind == REQUEST else 0] not in _VERSIONS:
        flaws.append(flaw(kind, "version"))
    elif _STRICT[kind].fullmatch(lines[0] + b"\r\n") is None and not (kind == RESPONSE and not start[2]):
        flaws.append(flaw(kind, "start-line"))  # only a reason phrase and its blank may be left out
    fields: list[Field] = []
    unfolded: list[list[bytes]] = []
    for line in lines[1:]:
        if line[:1] in {b" ", b"\t"} and unfolded:
            unfolded[-1].append(line.strip(b" \t"))
        else:
            unfolded.append([line])
    for first, *more in unfolded:
        _field(kind, first, more, fields, flaws)
    return Head(start, fields, flaws, len(octets))


def _field(kind: int, line: bytes, more: list[bytes], fields: list[Field], flaws: list[str]) -> None:
    """``more``: the lines that go on with the value."""
    name, colon, value = line.partition(b":")
    bare = name.rstrip(b" \t")
    if not colon or not _NAME.fullmatch(bare):
        _note(flaws, flaw(kind, "field-malformed"))
    elif bare != name:
        _note(flaws, flaw(kind, "field-space"))
    if more:
        _note(flaws, flaw(kind, "obs-fold"))
    value = b" ".join([part for part in (value.strip(b" \t"), *more) if part])
    if _CONTROL.search(value):
        _note(flaws, flaw(kind, "field-control"))
    fields.append((bare, value))


def _note(flaws: list[str], name: str) -> None:
    if name not in flaws:
        flaws.append(name)
