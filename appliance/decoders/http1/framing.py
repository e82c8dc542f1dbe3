"""Where a message ends: RFC 9112 §6.3 as a function from its head.

Contract: returns (mode, length, flaws). ``length`` counts only in LENGTH. What the RFC calls an
unrecoverable error is UNDEFINED: nobody can say where the message ends, so its body is not read.
Every case in which another parser may see another end carries a flaw (RFC 9112 §11.2).
"""

from __future__ import annotations

from typing import Final

from appliance.flaws import flaw
from appliance.model import REQUEST, RESPONSE, Head

NONE: Final = 0
LENGTH: Final = 1
CHUNKED: Final = 2
CLOSE: Final = 3
TUNNEL: Final = 4
UNDEFINED: Final = 5

SWITCHING: Final = 101
NO_BODY: Final = frozenset({*range(100, 200), 204, 304})
MOST_DIGITS: Final = 18  # below 2**63, as llhttp and the servers have it
CODINGS: Final = frozenset(
    {b"chunked", b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"identity"}
)

LENGTH_NAME: Final = len(b"content-length")
CODING_NAME: Final = len(b"transfer-encoding")

Framing = tuple[int, int, list[str]]

NO_FLAWS: Final[list[str]] = []  # shared by all that have none: never changed in place


def request_framing(head: Head) -> Framing:
    lengths, codings = _framing_fields(head)
    if not lengths and not codings:  # common case
        return NONE, 0, NO_FLAWS
    return _framing(REQUEST, head.start[2], lengths, codings)


def response_framing(head: Head, status: int, method: bytes) -> Framing:
    """``method`` is the request's, empty where it is not known."""
    lengths, codings = _framing_fields(head)
    if method == b"CONNECT" and 200 <= status < 300:  # noqa: PLR2004
        return TUNNEL, 0, NO_FLAWS
    if status == SWITCHING:
        return TUNNEL, 0, NO_FLAWS
    if method == b"HEAD" or status in NO_BODY:
        odd = method != b"HEAD" and status != 304 and bool(codings or set(lengths) - {b"0"})  # noqa: PLR2004
        return NONE, 0, [flaw(RESPONSE, "no-body-expected")] if odd else NO_FLAWS
    if not lengths and not codings:
        return CLOSE, 0, NO_FLAWS
    return _framing(RESPONSE, head.start[0], lengths, codings)


def _framing_fields(head: Head) -> tuple[list[bytes], list[bytes]]:
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for name, value in head.fields:
        size = len(name)  # before the letters: most names differ in it
        if size == LENGTH_NAME and name.lower() == b"content-length":
            lengths.append(value.rstrip(b" \t"))
        elif size == CODING_NAME and name.lower() == b"transfer-encoding":
            codings.append(value.rstrip(b" \t"))
    return lengths, codings


def _framing(kind: int, version: bytes, lengths: list[bytes], codings: list[bytes]) -> Framing:
    if not codings:  # common case
        return _by_length(kind, lengths)
    if (
        not lengths and len(codings) == 1 and codings[0] == b"chunked" and version == b"HTTP/1.1"
    ):  # common case
        return CHUNKED, 0, NO_FLAWS
    flaws = []
    if lengths:
        flaws.append(flaw(kind, "te-and-cl"))
    if version == b"HTTP/1.0":
        flaws.append(flaw(kind, "te-in-http10"))
    names = [c.split(b";")[0].strip(b" \t").lower() for value in codings for c in value.split(b",")]
    names = [name for name in names if name]
    if names.count(b"chunked") > 1 or not set(names) <= CODINGS:
        flaws.append(flaw(kind, "te-malformed"))
    if names and names[-1] == b"chunked":
        return CHUNKED, 0, flaws
    flaws.append(flaw(kind, "te-not-chunked"))
    return (UNDEFINED if kind == REQUEST else CLOSE), 0, flaws


def _by_length(kind: int, lengths: list[bytes]) -> Framing:
    value = lengths[0]
    if len(lengths) == 1 and value.isdigit() and len(value) <= MOST_DIGITS:  # common case
        length = int(value)
        return (LENGTH if length else NONE), length, NO_FLAWS
    values = {part.strip(b" \t") for value in lengths for part in value.split(b",")}
    values = {v.lstrip(b"0") or b"0" if v.isdigit() else v for v in values}
    numbers = {int(v) for v in values if v.isdigit() and len(v) <= MOST_DIGITS}
    if not all(v.isdigit() and len(v) <= MOST_DIGITS for v in values):
        return UNDEFINED, 0, [flaw(kind, "cl-invalid")]
    if len(numbers) > 1:
        return UNDEFINED, 0, [flaw(kind, "cl-conflict")]
    length = numbers.pop()
    repeated = [flaw(kind, "cl-repeated")] if len(lengths) > 1 or b"," in value else NO_FLAWS
    return (LENGTH if length else NONE), length, repeated
