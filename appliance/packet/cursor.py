"""Where the walk through a frame stands, and what a header says comes next.

A *step* reads the header at the cursor, moves the cursor behind it and returns a code: either what
comes next (a number of one of the four spaces below, or a name of ours) or a verdict, which is
negative and ends the walk. A step never raises and never reads beyond ``limit``.

Two ends are kept apart, because a captured frame may be cut: ``limit`` is where the octets present
end, ``end`` is where the datagram ended on the wire. ``end - limit`` octets are missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

# What comes next: a registry's number in one of four spaces, each 2**16 wide.
ETHERTYPE: Final = 0x00000  # + EtherType
PROTOCOL: Final = 0x10000  # + IP protocol number
UDP_PORT: Final = 0x20000  # + destination port
TUNNEL: Final = 0x30000  # + EtherType in a tunnel's header (GRE, GENEVE)

IPV4: Final = ETHERTYPE + 0x0800
IPV6: Final = ETHERTYPE + 0x86DD
TCP: Final = PROTOCOL + 6  # where the walk arrives
ETHERNET: Final = TUNNEL + 0x6558  # "transparent Ethernet bridging": an Ethernet header

# Names of ours, beyond the spaces.
RAW_IP: Final = 0x40000  # IPv4 or IPv6, by its first four bits
NULL: Final = 0x40001  # BSD loopback
SLL: Final = 0x40002  # Linux cooked capture
SLL2: Final = 0x40003
MIRROR_VXLAN: Final = 0x40005  # payload of a datagram to a mirror target
MIRROR_GENEVE: Final = 0x40006
FRAGMENT: Final = 0x40004  # of an IP datagram; cursor.piece describes it

# Verdicts.
NOT_IP: Final = -1
NOT_TCP: Final = -2
LINK_UNKNOWN: Final = -3
TUNNEL_UNSUPPORTED: Final = -4
TOO_NESTED: Final = -5
CUT: Final = -6
MALFORMED: Final = -7
VNI_NOT_SELECTED: Final = -8
PORT_NOT_SELECTED: Final = -9
FRAGMENT_DUPLICATE: Final = -10
FRAGMENT_EVICTED: Final = -11
FRAGMENT_MALFORMED: Final = -12
FRAGMENT_HELD: Final = -13

REASONS: Final[dict[int, str]] = {
    NOT_IP: "frame_not_ip",
    NOT_TCP: "frame_not_tcp",
    LINK_UNKNOWN: "frame_link_unknown",
    TUNNEL_UNSUPPORTED: "frame_tunnel_unsupported",
    TOO_NESTED: "frame_too_nested",
    CUT: "frame_cut",
    MALFORMED: "frame_malformed",
    VNI_NOT_SELECTED: "frame_vni_not_selected",
    PORT_NOT_SELECTED: "frame_port_not_selected",
    FRAGMENT_DUPLICATE: "fragment_duplicate",
    FRAGMENT_EVICTED: "fragment_evicted",
    FRAGMENT_MALFORMED: "fragment_malformed",
    FRAGMENT_HELD: "fragment_held",
}

# The verdict for a number that no step is registered for, by its space.
UNREGISTERED: Final[tuple[int, ...]] = (NOT_IP, NOT_TCP, NOT_TCP, TUNNEL_UNSUPPORTED)


NO_VNI: Final = bytes(3)


class Piece:
    """What an IP header says about the fragment behind it. Valid after a step returned FRAGMENT."""

    __slots__ = ("identification", "more", "protocol", "start")

    def __init__(self) -> None:
        self.identification = 0
        self.protocol = 0
        self.start = 0  # octets from the datagram's beginning
        self.more = False


class Cursor:
    """One per decoder, set to the beginning of each frame in turn: creating one a frame is dearer."""

    __slots__ = ("addresses", "data", "end", "limit", "offset", "outer", "piece", "ts", "vni")

    def __init__(self) -> None:
        self.piece = Piece()
        self.start(b"", 0, 0)

    def start(self, data: bytes, wire_length: int, ts: int) -> None:
        """Go to the beginning of a frame."""
        self.data = data
        self.offset = 0
        self.limit = len(data)
        self.end = max(wire_length, self.limit)
        self.ts = ts
        self.addresses = b""  # source, destination of the IP header passed last
        self.vni = b""  # of the innermost tunnel header that has one; 3 octets
        self.outer = b""  # of the outermost that has one other than 0: the mirror session's

    def enter(self, vni: bytes) -> None:
        """A tunnel's header. VNI 0 is what a Gateway Load Balancer's GENEVE has around the mirror's VXLAN."""
        self.vni = vni
        if not self.outer and vni != NO_VNI:
            self.outer = vni


Step = Callable[[Cursor], int]


def short(cursor: Cursor, size: int) -> int:
    """Why a header of ``size`` octets is not there: cut by the capture, or never sent."""
    return CUT if cursor.offset + size <= cursor.end else MALFORMED


def unsupported(_cursor: Cursor) -> int:
    """The step for what is known to be a tunnel, and is not decoded."""
    return TUNNEL_UNSUPPORTED
