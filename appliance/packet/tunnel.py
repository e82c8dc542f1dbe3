"""Tunnels: VXLAN, VXLAN-GPE, GENEVE, GRE and the ERSPAN inside GRE.

In: a cursor at a tunnel's header. Out: what is inside. VXLAN and GENEVE tell the cursor their VNI: the
innermost one names the network, the outermost one other than 0 the mirror session. A payload type or
version that is not decoded is TUNNEL_UNSUPPORTED.

Bits that a receiver must ignore are ignored. A VXLAN header without the I flag has no valid VNI,
and a VXLAN datagram has to have one (RFC 7348 §5): Linux drops it, we count it as malformed, since
to guess VNI 0 or none would put the traffic of one network into another's flows.
Control packets of GENEVE (O) and VXLAN-GPE (O) must not be interpreted on the way (RFC 8926 §3.4):
they are UDP that is not TCP. Critical options (C) bind the tunnel's end, not someone who listens.
"""

from __future__ import annotations

import struct
from typing import Final

from appliance.packet.cursor import (
    ETHERNET,
    IPV4,
    IPV6,
    MALFORMED,
    MIRROR_GENEVE,
    MIRROR_VXLAN,
    NOT_TCP,
    PROTOCOL,
    RAW_IP,
    TUNNEL,
    TUNNEL_UNSUPPORTED,
    UDP_PORT,
    Cursor,
    Step,
    short,
    unsupported,
)

VXLAN_PORTS: Final[frozenset[int]] = frozenset({4789, 8472})  # IANA's; Linux's before there was one
GENEVE_PORT: Final = 6081
VXLAN_GPE_PORT: Final = 4790

_VXLAN_OCTETS: Final = 8
_VXLAN_I: Final = 0x08
_GPE_P: Final = 0x04
_GPE_O: Final = 0x01
_GPE_NEXT: Final[dict[int, int]] = {1: IPV4, 2: IPV6, 3: ETHERNET}

_GENEVE: Final = struct.Struct("!BBH").unpack_from
_GENEVE_OCTETS: Final = 8  # without options
_GENEVE_O: Final = 0x80

_GRE: Final = struct.Struct("!HH").unpack_from
_GRE_OCTETS: Final = 4  # without options
_GRE_OPTIONS: Final = 0xB000  # checksum, key, sequence number: 4 octets each (RFC 2784, RFC 2890)
_GRE_SEQUENCE: Final = 0x1000
_GRE_REFUSED: Final = 0x4007  # source routing (RFC 1701) and any version but 0 (1 is PPTP)

_ERSPAN: Final = 0x88BE
_ERSPAN2_OCTETS: Final = 8
_ERSPAN3_OCTETS: Final = 12
_ERSPAN3_O: Final = 0x01  # 8 more octets
_ERSPAN3_IP: Final = 2  # frame type: no Ethernet header


def vxlan(cursor: Cursor) -> int:
    """RFC 7348 §5."""
    offset = cursor.offset
    data = cursor.data
    if offset + _VXLAN_OCTETS > cursor.limit:
        return short(cursor, _VXLAN_OCTETS)
    if not data[offset] & _VXLAN_I:
        return MALFORMED
    cursor.enter(data[offset + 4 : offset + 7])
    cursor.offset = offset + _VXLAN_OCTETS
    return ETHERNET


def vxlan_gpe(cursor: Cursor) -> int:
    """draft-ietf-nvo3-vxlan-gpe-13 §3: VXLAN that says what is inside."""
    code = vxlan(cursor)
    if code != ETHERNET:
        return code
    flags = cursor.data[cursor.offset - _VXLAN_OCTETS]
    if flags & _GPE_O:
        return NOT_TCP
    if flags & _GPE_P:
        return _GPE_NEXT.get(cursor.data[cursor.offset - 5], TUNNEL_UNSUPPORTED)
    return ETHERNET


def geneve(cursor: Cursor) -> int:
    """RFC 8926 §3.4."""
    offset = cursor.offset
    if offset + _GENEVE_OCTETS > cursor.limit:
        return short(cursor, _GENEVE_OCTETS)
    first: int
    flags: int
    payload: int
    first, flags, payload = _GENEVE(cursor.data, offset)
    if first >> 6:
        return TUNNEL_UNSUPPORTED  # version
    size = _GENEVE_OCTETS + ((first & 0x3F) << 2)
    if offset + size > cursor.limit:
        return short(cursor, size)
    cursor.enter(cursor.data[offset + 4 : offset + 7])
    cursor.offset = offset + size
    return NOT_TCP if flags & _GENEVE_O else TUNNEL + payload


def gre(cursor: Cursor) -> int:
    """RFC 2784 §2 and RFC 2890 §2. A keep-alive has payload type 0, which is nothing we decode."""
    offset = cursor.offset
    if offset + _GRE_OCTETS > cursor.limit:
        return short(cursor, _GRE_OCTETS)
    flags: int
    payload: int
    flags, payload = _GRE(cursor.data, offset)
    if flags & _GRE_REFUSED:
        return TUNNEL_UNSUPPORTED
    size = _GRE_OCTETS + ((flags & _GRE_OPTIONS).bit_count() << 2)
    if offset + size > cursor.limit:
        return short(cursor, size)
    cursor.offset = offset + size
    if payload == _ERSPAN and not flags & _GRE_SEQUENCE:
        return ETHERNET  # ERSPAN type I has no header of its own
    return TUNNEL + payload


def erspan2(cursor: Cursor) -> int:
    """draft-foschiano-erspan-03 §4.2."""
    if cursor.offset + _ERSPAN2_OCTETS > cursor.limit:
        return short(cursor, _ERSPAN2_OCTETS)
    cursor.offset += _ERSPAN2_OCTETS
    return ETHERNET


def erspan3(cursor: Cursor) -> int:
    """draft-foschiano-erspan-03 §4.3."""
    offset = cursor.offset
    if offset + _ERSPAN3_OCTETS > cursor.limit:
        return short(cursor, _ERSPAN3_OCTETS)
    size = _ERSPAN3_OCTETS
    if cursor.data[offset + 11] & _ERSPAN3_O:
        size += 8
    if offset + size > cursor.limit:
        return short(cursor, size)
    cursor.offset = offset + size
    frame_type = (cursor.data[offset + 10] >> 2) & 0x1F
    return RAW_IP if frame_type == _ERSPAN3_IP else ETHERNET


STEPS: Final[dict[int, Step]] = {
    MIRROR_VXLAN: vxlan,
    MIRROR_GENEVE: geneve,
    UDP_PORT + GENEVE_PORT: geneve,
    UDP_PORT + VXLAN_GPE_PORT: vxlan_gpe,
    PROTOCOL + 47: gre,
    TUNNEL + _ERSPAN: erspan2,
    TUNNEL + 0x22EB: erspan3,
    UDP_PORT + 1701: unsupported,  # L2TP
    UDP_PORT + 2152: unsupported,  # GTP-U
    UDP_PORT + 3544: unsupported,  # Teredo
}
"""VXLAN's ports are the decoder's to add."""
