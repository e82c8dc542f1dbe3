"""IPv4 and IPv6 headers.

In: a cursor at an IP header. Out: the protocol behind it and its options or extension headers, or
FRAGMENT. The header's length field bounds the octets that belong to the datagram: what is behind
it (Ethernet padding) is out of reach from here on, what is short of it is missing. A length of 0
(segmentation offload, jumbograms) leaves all that is there. Checksums are not verified.

IPv4: RFC 791 §3.1. IPv6: RFC 8200 §3 and §4; AH: RFC 4302 §2.
"""

from __future__ import annotations

import struct
from typing import Final

from appliance.packet.cursor import (
    FRAGMENT,
    IPV4,
    IPV6,
    MALFORMED,
    NOT_TCP,
    PROTOCOL,
    TUNNEL,
    Cursor,
    Step,
    short,
    unsupported,
)

_IPV4: Final = struct.Struct("!BxHHHxB").unpack_from
_IPV4_OCTETS: Final = 20
_IPV4_VERSION: Final = 4
_IPV4_OFFSET: Final = 0x1FFF
_IPV4_MORE: Final = 0x2000

_IPV6: Final = struct.Struct("!B3xHB").unpack_from
_IPV6_OCTETS: Final = 40
_IPV6_VERSION: Final = 6
_IPV6_OFFSET: Final = 0xFFF8
_IPV6_MORE: Final = 0x0001
_IPV6_ADDRESSES: Final = 32

_FRAGMENT: Final = struct.Struct("!BxHI").unpack_from
_FRAGMENT_OCTETS: Final = 8
_EXTENSION_OCTETS: Final = 8  # the shortest
_AH_OCTETS: Final = 12  # without its check value


def ipv4(cursor: Cursor) -> int:
    """An IPv4 header with its options."""
    offset = cursor.offset
    if offset + _IPV4_OCTETS > cursor.limit:
        return short(cursor, _IPV4_OCTETS)
    first: int
    length: int
    flags: int
    protocol: int
    first, length, identification, flags, protocol = _IPV4(cursor.data, offset)
    size = (first & 0x0F) << 2
    if first >> 4 != _IPV4_VERSION or size < _IPV4_OCTETS or 0 < length < size:
        return MALFORMED
    if length:
        cursor.end = offset + length
        cursor.limit = min(cursor.limit, cursor.end)
    if offset + size > cursor.limit:
        return short(cursor, size)
    cursor.addresses = cursor.data[offset + 12 : offset + 20]
    cursor.offset = offset + size
    if not flags & (_IPV4_OFFSET | _IPV4_MORE):  # common case
        return PROTOCOL + protocol
    piece = cursor.piece
    piece.identification = identification
    piece.protocol = protocol
    piece.start = (flags & _IPV4_OFFSET) << 3
    piece.more = flags & _IPV4_MORE != 0
    return FRAGMENT


def ipv6(cursor: Cursor) -> int:
    """An IPv6 header; its extension headers are steps of their own."""
    offset = cursor.offset
    if offset + _IPV6_OCTETS > cursor.limit:
        return short(cursor, _IPV6_OCTETS)
    first: int
    length: int
    protocol: int
    first, length, protocol = _IPV6(cursor.data, offset)
    if first >> 4 != _IPV6_VERSION:
        return MALFORMED
    cursor.addresses = cursor.data[offset + 8 : offset + 40]
    cursor.offset = offset + _IPV6_OCTETS
    if length:
        cursor.end = cursor.offset + length
        cursor.limit = min(cursor.limit, cursor.end)
    return PROTOCOL + protocol


def extension(cursor: Cursor) -> int:
    """Hop-by-hop, routing, destination and the like: next header, length in 8 octets beyond the first."""
    offset = cursor.offset
    if len(cursor.addresses) != _IPV6_ADDRESSES:
        return NOT_TCP  # behind IPv4 this number names nothing that we know
    if offset + _EXTENSION_OCTETS > cursor.limit:
        return short(cursor, _EXTENSION_OCTETS)
    size = (cursor.data[offset + 1] + 1) << 3
    if offset + size > cursor.limit:
        return short(cursor, size)
    cursor.offset = offset + size
    return PROTOCOL + cursor.data[offset]


def authentication(cursor: Cursor) -> int:
    """AH, in IPv4 and IPv6: its length counts 4 octets, less two."""
    offset = cursor.offset
    if offset + _AH_OCTETS > cursor.limit:
        return short(cursor, _AH_OCTETS)
    size = (cursor.data[offset + 1] + 2) << 2
    if size < _AH_OCTETS:
        return MALFORMED
    if offset + size > cursor.limit:
        return short(cursor, size)
    cursor.offset = offset + size
    return PROTOCOL + cursor.data[offset]


def fragment(cursor: Cursor) -> int:
    """The fragment header. An atomic fragment is whole by itself, whatever else is held (RFC 6946 §4)."""
    offset = cursor.offset
    if len(cursor.addresses) != _IPV6_ADDRESSES:
        return NOT_TCP
    if offset + _FRAGMENT_OCTETS > cursor.limit:
        return short(cursor, _FRAGMENT_OCTETS)
    protocol: int
    flags: int
    protocol, flags, identification = _FRAGMENT(cursor.data, offset)
    cursor.offset = offset + _FRAGMENT_OCTETS
    if not flags & (_IPV6_OFFSET | _IPV6_MORE):
        return PROTOCOL + protocol
    piece = cursor.piece
    piece.identification = identification
    piece.protocol = protocol
    piece.start = flags & _IPV6_OFFSET
    piece.more = flags & _IPV6_MORE != 0
    return FRAGMENT


STEPS: Final[dict[int, Step]] = {
    IPV4: ipv4,
    IPV6: ipv6,
    TUNNEL + 0x0800: ipv4,
    TUNNEL + 0x86DD: ipv6,
    PROTOCOL + 4: ipv4,  # IP in IP (RFC 2003)
    PROTOCOL + 41: ipv6,  # RFC 4213
    PROTOCOL + 0: extension,  # hop-by-hop options
    PROTOCOL + 43: extension,  # routing
    PROTOCOL + 60: extension,  # destination options
    PROTOCOL + 135: extension,  # mobility (RFC 6275)
    PROTOCOL + 139: extension,  # host identity (RFC 7401)
    PROTOCOL + 140: extension,  # shim6 (RFC 5533)
    PROTOCOL + 51: authentication,
    PROTOCOL + 44: fragment,
    PROTOCOL + 50: unsupported,  # ESP
    PROTOCOL + 97: unsupported,  # Ethernet in IP
    PROTOCOL + 115: unsupported,  # L2TP version 3
}
