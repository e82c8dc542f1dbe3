"""UDP, as far as it carries tunnels, and TCP, where the walk arrives.

In: a cursor behind an IP header. Out: the destination port of a UDP datagram, or a Segment.

UDP's length field is not looked at: the IP header bounds the datagram already and the tunnel's own
IP header bounds what is inside. TCP options are not read, they belong to nobody downstream; urgent
data stays in its place (RFC 9293 §3.8.5 leaves no other use of it).
"""

from __future__ import annotations

import struct
from typing import Final

from appliance.model import Segment
from appliance.packet.cursor import (
    MALFORMED,
    PROTOCOL,
    UDP_PORT,
    Cursor,
    Step,
    short,
)

_UDP: Final = struct.Struct("!2xH").unpack_from
_UDP_OCTETS: Final = 8
_TCP: Final = struct.Struct("!4xIIBB").unpack_from
_TCP_OCTETS: Final = 20  # without options


def udp(cursor: Cursor) -> int:
    """RFC 768."""
    offset = cursor.offset
    if offset + _UDP_OCTETS > cursor.limit:
        return short(cursor, _UDP_OCTETS)
    destination: int = _UDP(cursor.data, offset)[0]
    cursor.offset = offset + _UDP_OCTETS
    return UDP_PORT + destination


def tcp(cursor: Cursor) -> Segment | int:
    """RFC 9293 §3.1. A verdict where the header is cut or contradicts the IP header."""
    offset = cursor.offset
    limit = cursor.limit
    data = cursor.data
    if offset + _TCP_OCTETS > limit:
        return short(cursor, _TCP_OCTETS)
    words: int
    seq, ack, words, flags = _TCP(data, offset)
    size = words >> 4 << 2
    if size < _TCP_OCTETS:
        return MALFORMED
    if offset + size > limit:
        return short(cursor, size)
    vni = cursor.vni if cursor.vni == cursor.outer else cursor.vni + cursor.outer
    return Segment(
        cursor.addresses + data[offset : offset + 4] + vni,
        cursor.ts,
        seq,
        ack,
        flags,
        data[offset + size : limit],
        cursor.end - limit,
    )


STEPS: Final[dict[int, Step]] = {PROTOCOL + 17: udp}
