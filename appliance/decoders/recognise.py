"""What a connection speaks, from the first octets of one direction.

Contract: ``recognise`` answers for a prefix that starts where a message may start. MORE: not to be told
yet. The answer never depends on ports. It does not change with more octets, except from MORE.
"""

from __future__ import annotations

import re
from typing import Final

from appliance.decoders.http1.head import is_start_line, may_begin
from appliance.model import REQUEST, RESPONSE

MORE: Final = 0
HTTP1_REQUEST: Final = 1
HTTP1_RESPONSE: Final = 2
TLS: Final = 3
SSH: Final = 4
HTTP2: Final = 5
OTHER: Final = 6

PREFIX_LIMIT: Final = 64 << 10  # octets of a request line; nginx allows 32 KiB, Apache 8 KiB

_PREFACE: Final = b"PRI * HTTP/2.0\r\n"  # RFC 9113 §3.4
_TLS = re.compile(rb"[\x14-\x17]\x03[\x00-\x04]")  # RFC 8446 §5.1: content type, legacy version


def recognise(prefix: bytes) -> int:  # noqa: PLR0911  # one for each answer
    """One of the names above, for a non-empty prefix."""
    text = prefix.lstrip(b"\r\n")[:PREFIX_LIMIT]
    if not text:
        return MORE if len(prefix) < PREFIX_LIMIT else OTHER
    if _TLS.match(text):
        return TLS
    if text[:4] == b"SSH-":
        return SSH
    if text[:16] == _PREFACE:
        return HTTP2
    line, end, _ = text.partition(b"\n")
    if may_begin(RESPONSE, text):
        return _whole(HTTP1_RESPONSE, line, end, text)
    if not may_begin(REQUEST, text):
        return MORE if len(text) < 3 and b"\x14" <= text[:1] <= b"\x17" else OTHER  # noqa: PLR2004
    return _whole(HTTP1_REQUEST, line, end, text)


def _whole(kind: int, line: bytes, end: bytes, text: bytes) -> int:
    """The first line decides, once it is whole."""
    if not end:
        return MORE if len(text) < PREFIX_LIMIT else OTHER
    side = REQUEST if kind == HTTP1_REQUEST else RESPONSE
    return kind if is_start_line(side, line.removesuffix(b"\r")) else OTHER
