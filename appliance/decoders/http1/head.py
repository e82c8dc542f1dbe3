"""Octets of a head -> Head. Reads anything that has a start line; names what the grammar forbids.

Contract: ``request_head`` and ``response_head`` take a head without its final blank line and return a
Head, or None where the first line is no start line of HTTP/1. They never raise. On every head that
llhttp accepts, method, target, status and fields are the same as llhttp's (property test).

Why not llhttp for this (design D7): it tells neither which oddity it refused nor anything of a head
it refused, so a tolerant reader is needed beside it, and field lines repeat so much within
API traffic that remembering them is three times as fast as any parser (bench/heads.py has the
measurement). llhttp is the oracle in the tests and the floor in the benchmark.

Bound: the memory of field lines holds ``LINES`` entries of at most ``LINE`` octets, then starts anew.
"""

from __future__ import annotations

import re
from typing import Final

from appliance.flaws import flaw
from appliance.model import REQUEST, RESPONSE, Field, Head

LINES: Final = 8192
LINE: Final = 256

CONTENT_LENGTH: Final = 1
TRANSFER_ENCODING: Final = 2
ROLES: Final = {b"content-length": CONTENT_LENGTH, b"transfer-encoding": TRANSFER_ENCODING}

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST = re.compile(rb"(%s) ([^\x00-\x20\x7f]+) (HTTP/1\.[01])" % TOKEN)
_REQUEST_ODD = re.compile(
    rb"(%s)[ \t]+(?:([^\r\n]*?)[ \t]+)?(HTTP/1\.\d)[ \t]*" % TOKEN, re.IGNORECASE
)
_RESPONSE = re.compile(rb"(HTTP/1\.[01]) ([1-9]\d\d) ([^\x00-\x08\x0a-\x1f\x7f]*)")
_RESPONSE_ODD = re.compile(rb"(HTTP/1\.\d)[ \t]+(\d{3})(?:[ \t]+([^\r\n]*))?[ \t]*", re.IGNORECASE)
_FIELD = re.compile(rb"(%s):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)" % TOKEN)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NAME = re.compile(TOKEN)

_lines: dict[bytes, Field] = {}


def request_head(raw: bytes, size: int) -> Head | None:
    """``size``: octets of the head on the wire."""
    lines = raw.split(b"\r\n")
    match = _REQUEST.fullmatch(lines[0])
    if match:
        fields = _fields(lines)
        if fields is not None:  # common case
            return Head((match[1], match[2], match[3]), fields, [], size)
    return _odd_head(REQUEST, _REQUEST_ODD, raw, size)


def response_head(raw: bytes, size: int) -> Head | None:
    lines = raw.split(b"\r\n")
    match = _RESPONSE.fullmatch(lines[0])
    if match:
        fields = _fields(lines)
        if fields is not None:  # common case
            return Head((match[1], match[2], match[3]), fields, [], size)
    return _odd_head(RESPONSE, _RESPONSE_ODD, raw, size)


def _fields(lines: list[bytes]) -> list[Field] | None:
    """The fields after the start line; None where a line is not as the grammar has it."""
    fields = []
    known = _lines
    for line in lines[1:]:
        field = known.get(line)
        if field is None:
            match = _FIELD.fullmatch(line)
            if match is None:
                return None
            name = match[1]
            lower = name.lower()
            field = (name, match[2].rstrip(b" \t"), lower, ROLES.get(lower, 0))
            if len(line) <= LINE:
                if len(known) >= LINES:
                    known.clear()
                known[line] = field
        fields.append(field)
    return fields


def _odd_head(kind: int, pattern: re.Pattern[bytes], raw: bytes, size: int) -> Head | None:
    """The tolerant reader: keeps what is there and says what is wrong with it."""
    flaws: list[str] = []
    lines = raw.split(b"\n")
    ended = [line.endswith(b"\r") for line in lines[:-1]]
    if not all(ended):
        flaws.append(flaw(kind, "bare-lf"))
    lines = [line.removesuffix(b"\r") for line in lines]
    match = pattern.fullmatch(lines[0])
    if match is None:
        return None
    strict = (_REQUEST if kind == REQUEST else _RESPONSE).fullmatch(lines[0])
    start = (match[1], match[2] or b"", match[3] or b"")
    version = start[2] if kind == REQUEST else start[0]
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        flaws.append(flaw(kind, "version"))
    elif strict is None and not (kind == RESPONSE and not start[2]):  # a reason and its blank may be left out
        flaws.append(flaw(kind, "start-line"))
    fields: list[Field] = []
    for line in lines[1:]:
        _odd_field(kind, line, fields, flaws)
    return Head(start, fields, flaws, size)


def _odd_field(kind: int, line: bytes, fields: list[Field], flaws: list[str]) -> None:
    if line[:1] in (b" ", b"\t") and fields:
        _note(flaws, flaw(kind, "obs-fold"))
        name, value, lower, role = fields.pop()
        more = line.strip(b" \t")
        fields.append((name, value + b" " + more if value and more else value + more, lower, role))
        return
    name, colon, value = line.partition(b":")
    bare = name.rstrip(b" \t")
    if not colon or not _NAME.fullmatch(bare):
        _note(flaws, flaw(kind, "field-malformed"))
    elif bare != name:
        _note(flaws, flaw(kind, "field-space"))
    if _CONTROL.search(value):
        _note(flaws, flaw(kind, "field-control"))
    lower = bare.lower()
    fields.append((bare, value.strip(b" \t"), lower, ROLES.get(lower, 0)))


def _note(flaws: list[str], name: str) -> None:
    if name not in flaws:
        flaws.append(name)
