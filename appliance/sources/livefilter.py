"""The program that the kernel runs on each packet of this machine's interfaces before it takes room.

Contract: classic BPF for ``bpf.attach``. It refuses other interfaces than those named, the second copy of
what goes over a loopback interface, and, where ports are named, what certainly has none of them: other TCP,
UDP that is no tunnel, and protocols in which no TCP is. What it cannot judge passes, since user space judges
ports again: later fragments, IPv6 extension headers, tunnels, VLAN tags that are still in the packet, link
layers that it does not know, packets that end too early.

Offsets count from the packet's first octet, not from SKF_NET_OFF: before Linux 6.15 the kernel finds those
in an skb's linear part only, and a load that fails refuses the packet.

Bounds: INDEXES interfaces, which the caller keeps; PORTS ports, beyond which user space alone judges them.
Both at once, and the program that they replace, fit into what older kernels give a socket for options
(net.core.optmem_max: 20,480 octets).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from appliance.packet.tunnel import GENEVE_PORT, VXLAN_GPE_PORT, VXLAN_PORTS
from appliance.sources import bpf
from appliance.sources.bpf import Assembler

INDEXES: Final = 500
PORTS: Final = 100

ARPHRD_ETHER: Final = 1
ARPHRD_LOOPBACK: Final = 772
ARPHRD_NONE: Final = 65_534  # tun, WireGuard: no link layer
_IP_AT: Final = {ARPHRD_ETHER: 14, ARPHRD_LOOPBACK: 14, ARPHRD_NONE: 0}
PACKET_OUTGOING: Final = 4  # packet(7)

# What the kernel knows of a packet (SKF_AD_OFF in linux/filter.h).
PROTOCOL: Final = 0xFFFF_F000
PACKET_TYPE: Final = PROTOCOL + 4
INDEX: Final = PROTOCOL + 8
LINK_TYPE: Final = PROTOCOL + 28

# Instructions that bpf.py has no use for.
LD_LENGTH: Final = 0x80
SUB: Final = 0x14
JGE_X: Final = 0x3D

_IPV4: Final = 0x0800
_IPV6: Final = 0x86DD
_HEADER_OCTETS: Final = 24  # of IPv4 and ports; more than is read of IPv6's header
_IPV6_OCTETS: Final = 40
_PORTS_OCTETS: Final = 4
_FRAGMENT_OFFSET: Final = 0x1FFF
_TCP: Final = 6
_UDP: Final = 17
_WITHOUT_TCP: Final = (1, 2, 50, 58, 132)  # ICMP, IGMP, ESP, ICMPv6, SCTP
_TUNNELS: Final = sorted(VXLAN_PORTS | {GENEVE_PORT, VXLAN_GPE_PORT})

_WHOLE: Final = 0xFFFF_FFFF  # octets of the packet to keep
_NONE: Final = 0
_LEAF: Final = 16  # numbers compared one after the other; a tree down to each takes twice the room

_NUMBER: Final = 0  # scratch: of the protocol


def refuse_all() -> bytes:
    asm = Assembler()
    asm.add(bpf.RET, _NONE)
    return asm.program()


def live_filter(indexes: Sequence[int] | None, ports: frozenset[int] | None) -> bytes:
    """None: no restriction."""
    asm = Assembler()
    if indexes is not None:
        asm.add(bpf.LD_WORD, INDEX)
        _search(asm, indexes, "interface", "captured", "refused")
        asm.label("captured")
    asm.add(bpf.LD_WORD, PACKET_TYPE)
    asm.jump(bpf.JEQ, PACKET_OUTGOING, "", "not a copy")
    asm.add(bpf.LD_WORD, LINK_TYPE)
    asm.jump(bpf.JEQ, ARPHRD_LOOPBACK, "", "not a copy")
    asm.go("refused")
    asm.label("not a copy")
    if ports is not None and len(ports) <= PORTS:
        _link(asm)
        _ip(asm)
        _transport(asm)
        _ports(asm, ports)
    asm.label("accepted")
    asm.add(bpf.RET, _WHOLE)
    asm.label("refused")
    asm.add(bpf.RET, _NONE)
    return asm.program()


def _link(asm: Assembler) -> None:
    """X := where the IP header begins."""
    for link_type, ip in _IP_AT.items():
        asm.add(bpf.LD_WORD, LINK_TYPE)
        asm.jump(bpf.JEQ, link_type, "", f"not {link_type}")
        asm.add(bpf.LDX_IMM, ip)
        asm.add(LD_LENGTH)
        asm.jump(bpf.JGE, ip + _HEADER_OCTETS, "ip", "unjudged")
        asm.label(f"not {link_type}")
    asm.go("accepted")


def _ip(asm: Assembler) -> None:
    """X: the IP header -> X: what is behind it, scratch: its protocol."""
    asm.label("ip")
    asm.add(bpf.LD_WORD, PROTOCOL)
    asm.jump(bpf.JEQ, _IPV4, "ipv4")
    asm.jump(bpf.JEQ, _IPV6, "ipv6", "unjudged")
    asm.label("ipv4")
    _version(asm, 4)
    asm.add(bpf.LD_HALF_X, 6)
    asm.jump(bpf.JSET, _FRAGMENT_OFFSET, "unjudged")
    asm.add(bpf.LD_BYTE_X, 9)
    asm.add(bpf.ST, _NUMBER)
    asm.add(bpf.LD_BYTE_X, 0)
    asm.add(bpf.AND, 0x0F)
    asm.add(bpf.LSH, 2)
    asm.go("behind")
    asm.label("ipv6")
    _version(asm, 6)
    asm.add(bpf.LD_BYTE_X, 6)
    asm.add(bpf.ST, _NUMBER)
    asm.add(bpf.LD_IMM, _IPV6_OCTETS)
    asm.label("behind")
    asm.add(bpf.ADD_X)
    asm.add(bpf.TAX)


def _version(asm: Assembler, version: int) -> None:
    """It is another where the link layer is longer than its type says: with a tag, for example."""
    asm.add(bpf.LD_BYTE_X, 0)
    asm.add(bpf.RSH, 4)
    asm.jump(bpf.JEQ, version, "", "unjudged")


def _transport(asm: Assembler) -> None:
    asm.add(LD_LENGTH)
    asm.add(SUB, _PORTS_OCTETS)
    asm.jump(JGE_X, 0, "", "unjudged")
    asm.add(bpf.LD_MEM, _NUMBER)
    asm.jump(bpf.JEQ, _TCP, "ports")
    for number in _WITHOUT_TCP:
        asm.jump(bpf.JEQ, number, "unwanted")
    asm.jump(bpf.JEQ, _UDP, "", "unjudged")
    asm.add(bpf.LD_HALF_X, 2)
    for port in _TUNNELS:
        asm.jump(bpf.JEQ, port, "unjudged")
    asm.label("unwanted")
    asm.go("refused")
    asm.label("unjudged")
    asm.go("accepted")


def _ports(asm: Assembler, ports: frozenset[int]) -> None:
    asm.label("ports")
    asm.add(bpf.LD_HALF_X, 0)
    _search(asm, ports, "source", "accepted", "destination")
    asm.label("destination")
    asm.add(bpf.LD_HALF_X, 2)
    _search(asm, ports, "destination", "accepted", "refused")


def _search(asm: Assembler, numbers: Collection[int], what: str, found: str, missing: str) -> None:
    """Whether A is one of them. ``what`` keeps the labels of several searches apart."""
    known = sorted(set(numbers))
    if len(known) <= _LEAF:
        for number in known:
            asm.jump(bpf.JEQ, number, f"{what} {known[0]} found")
        asm.go(missing)
        asm.label(f"{what} {known[0] if known else ''} found")
        asm.go(found)
        return
    middle = len(known) // 2
    below, above = f"{what} below {known[middle]}", f"{what} from {known[middle]}"
    asm.jump(bpf.JGE, known[middle], "", below)
    asm.go(above)
    asm.label(below)
    _search(asm, known[:middle], what, found, missing)
    asm.label(above)
    _search(asm, known[middle:], what, found, missing)
