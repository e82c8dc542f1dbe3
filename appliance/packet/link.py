"""Link-layer headers and what stands between them and IP: tags, labels, PPPoE.

In: a cursor at a header of the link layer. Out: what its type field says comes next. Each step
reads one header, so that the walk's limit bounds stacks of tags and labels of any depth.

Link types: https://www.tcpdump.org/linktypes.html. 802.1Q and 802.1ad tags (IEEE 802.1Q §9), MPLS
labels (RFC 3032 §2.1), PPPoE sessions (RFC 2516 §4).
"""

from __future__ import annotations

import struct
from typing import Final

from appliance import model
from appliance.packet.cursor import (
    ETHERNET,
    ETHERTYPE,
    IPV4,
    IPV6,
    MIRROR_GENEVE,
    MIRROR_VXLAN,
    NOT_IP,
    NULL,
    PROTOCOL,
    RAW_IP,
    SLL,
    SLL2,
    TUNNEL,
    TUNNEL_UNSUPPORTED,
    UDP_PORT,
    Cursor,
    Step,
    short,
    unsupported,
)

LINKS: Final[dict[int, int]] = {
    model.LINK_ETHERNET: ETHERNET,
    12: RAW_IP,  # DLT_RAW of most systems; files should say 101
    14: RAW_IP,  # DLT_RAW of OpenBSD
    model.LINK_RAW: RAW_IP,
    model.LINK_IPV4: IPV4,
    model.LINK_IPV6: IPV6,
    model.LINK_NULL: NULL,
    model.LINK_LOOP: NULL,
    model.LINK_SLL: SLL,
    model.LINK_SLL2: SLL2,
    model.LINK_VXLAN: MIRROR_VXLAN,
    model.LINK_GENEVE: MIRROR_GENEVE,
}

_VERSIONS: Final[dict[int, int]] = {4: IPV4, 6: IPV6}

# NULL has the byte order of the machine that captured, LOOP the network's; no value is ambiguous.
# AF_INET is 2 everywhere; AF_INET6 is 10 on Linux, 24 on NetBSD and OpenBSD, 28 on FreeBSD, 30 on macOS.
_FAMILIES: Final[dict[bytes, int]] = {
    family.to_bytes(4, order): code
    for family, code in ((2, IPV4), (10, IPV6), (24, IPV6), (28, IPV6), (30, IPV6))
    for order in ("big", "little")
}

_PPP: Final[dict[int, int]] = {0x0021: IPV4, 0x0057: IPV6}  # the others are control protocols

_TYPE: Final = struct.Struct("!H").unpack_from
_ETHERNET_OCTETS: Final = 14
_TAG_OCTETS: Final = 4
_LABEL_OCTETS: Final = 4
_FAMILY_OCTETS: Final = 4
_SLL_OCTETS: Final = 16
_SLL2_OCTETS: Final = 20
_PPPOE_OCTETS: Final = 6
_BOTTOM_OF_STACK: Final = 0x01


def ethernet(cursor: Cursor) -> int:
    """Ethernet II. A length in place of the type (IEEE 802.3) is no EtherType that we know."""
    offset = cursor.offset
    if offset + _ETHERNET_OCTETS > cursor.limit:
        return short(cursor, _ETHERNET_OCTETS)
    cursor.offset = offset + _ETHERNET_OCTETS
    ethertype: int = _TYPE(cursor.data, offset + 12)[0]
    return ETHERTYPE + ethertype


def raw_ip(cursor: Cursor) -> int:
    """IP without any header before it."""
    if cursor.offset >= cursor.limit:
        return short(cursor, 1)
    return _VERSIONS.get(cursor.data[cursor.offset] >> 4, NOT_IP)


def null(cursor: Cursor) -> int:
    """The loopback of the BSDs and macOS: an address family."""
    offset = cursor.offset
    if offset + _FAMILY_OCTETS > cursor.limit:
        return short(cursor, _FAMILY_OCTETS)
    cursor.offset = offset + _FAMILY_OCTETS
    return _FAMILIES.get(cursor.data[offset : offset + _FAMILY_OCTETS], NOT_IP)


def sll(cursor: Cursor) -> int:
    """Linux cooked capture, version 1: the type comes last."""
    offset = cursor.offset
    if offset + _SLL_OCTETS > cursor.limit:
        return short(cursor, _SLL_OCTETS)
    cursor.offset = offset + _SLL_OCTETS
    ethertype: int = _TYPE(cursor.data, offset + 14)[0]
    return ETHERTYPE + ethertype


def sll2(cursor: Cursor) -> int:
    """Linux cooked capture, version 2: the type comes first."""
    offset = cursor.offset
    if offset + _SLL2_OCTETS > cursor.limit:
        return short(cursor, _SLL2_OCTETS)
    cursor.offset = offset + _SLL2_OCTETS
    ethertype: int = _TYPE(cursor.data, offset)[0]
    return ETHERTYPE + ethertype


def vlan(cursor: Cursor) -> int:
    """One tag. The VLAN does not become part of the flow key."""
    offset = cursor.offset
    if offset + _TAG_OCTETS > cursor.limit:
        return short(cursor, _TAG_OCTETS)
    cursor.offset = offset + _TAG_OCTETS
    ethertype: int = _TYPE(cursor.data, offset + 2)[0]
    return ETHERTYPE + ethertype


def mpls(cursor: Cursor) -> int:
    """One label. Behind the last one only IP is told apart; a pseudowire is not decoded."""
    offset = cursor.offset
    data = cursor.data
    if offset + _LABEL_OCTETS > cursor.limit:
        return short(cursor, _LABEL_OCTETS)
    cursor.offset = offset + _LABEL_OCTETS
    if not data[offset + 2] & _BOTTOM_OF_STACK:
        return MPLS
    if cursor.offset >= cursor.limit:
        return short(cursor, 1)
    return _VERSIONS.get(data[cursor.offset] >> 4, TUNNEL_UNSUPPORTED)


def pppoe(cursor: Cursor) -> int:
    """A PPPoE session's header and the PPP protocol field, of one octet if that is odd (RFC 1661 §6.5)."""
    offset = cursor.offset
    data = cursor.data
    size = _PPPOE_OCTETS + 1
    if offset + size > cursor.limit:
        return short(cursor, size)
    protocol = data[offset + _PPPOE_OCTETS]
    if not protocol & 1:
        size += 1
        if offset + size > cursor.limit:
            return short(cursor, size)
        protocol = protocol << 8 | data[offset + _PPPOE_OCTETS + 1]
    cursor.offset = offset + size
    return _PPP.get(protocol, NOT_IP)


MPLS: Final = ETHERTYPE + 0x8847

STEPS: Final[dict[int, Step]] = {
    ETHERNET: ethernet,
    RAW_IP: raw_ip,
    NULL: null,
    SLL: sll,
    SLL2: sll2,
    ETHERTYPE + 0x8100: vlan,  # 802.1Q
    ETHERTYPE + 0x88A8: vlan,  # 802.1ad
    ETHERTYPE + 0x9100: vlan,  # QinQ before 802.1ad
    ETHERTYPE + 0x9200: vlan,
    MPLS: mpls,
    ETHERTYPE + 0x8848: mpls,  # upstream-assigned labels (RFC 5332)
    TUNNEL + 0x8847: mpls,
    TUNNEL + 0x8848: mpls,
    PROTOCOL + 137: mpls,  # RFC 4023
    UDP_PORT + 6635: mpls,  # RFC 7510
    ETHERTYPE + 0x8864: pppoe,
    ETHERTYPE + 0x88E5: unsupported,  # MACsec
    ETHERTYPE + 0x88E7: unsupported,  # provider backbone bridge (802.1ah)
    ETHERTYPE + 0x894F: unsupported,  # network service header (RFC 8300)
}
