"""Tunnels, one in another, and which VNI a segment gets."""

from __future__ import annotations

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, GRE, Dot1Q
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.packet.frames import ETHER, decode, make

OUTER = ETHER / IP(src="192.0.2.1", dst="192.0.2.2")
OUTER6 = ETHER / IPv6(src="fd00::1", dst="fd00::2")
INNER = IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1000, dport=80, flags="PA") / Raw(b"hello")
INNER6 = IPv6(src="fd01::1", dst="fd01::2") / TCP(sport=1000, dport=80, flags="PA") / Raw(b"hello")
FRAME, FRAME6 = ETHER / INNER, ETHER / INNER6


def udp(port: int) -> Packet:
    return UDP(sport=55555, dport=port)


def vxlan(vni: int, port: int = 4789, flags: int = 0x08) -> Packet:
    return udp(port) / Raw(bytes([flags, 0, 0, 0]) + (vni << 8).to_bytes(4))


def gpe(following: int, flags: int = 0x0C) -> Packet:
    return udp(4790) / Raw(bytes([flags, 0, 0, following]) + (7 << 8).to_bytes(4))


def geneve(vni: int, protocol: int, options: bytes = b"", first: int = 0, flags: int = 0) -> Packet:
    first |= len(options) // 4
    header = bytes([first, flags]) + protocol.to_bytes(2) + (vni << 8).to_bytes(4) + options
    return udp(6081) / Raw(header)


def gre(header: str) -> Packet:
    return Raw(bytes.fromhex(header))


GRE_IP = IP(src="192.0.2.1", dst="192.0.2.2", proto=47)
ERSPAN2 = "100088be 00000000 1000001400000001"
ERSPAN3 = "100022eb 00000000 20000014 00000001 0000 0000"
ERSPAN3_MORE = "100022eb 00000000 20000014 00000001 0000 0001 0000000000000000"
ERSPAN3_IP = "100022eb 00000000 20000014 00000001 0000 0800"

CHAINS: list[tuple[str, Packet, int | None]] = [
    ("VXLAN", OUTER / vxlan(77) / FRAME, 77),
    ("VXLAN, VNI 0 is a VNI", OUTER / vxlan(0) / FRAME, 0),
    ("VXLAN, the last VNI", OUTER / vxlan(0xFFFFFF) / FRAME, 0xFFFFFF),
    ("VXLAN on Linux's port", OUTER / vxlan(77, 8472) / FRAME, 77),
    ("VXLAN, reserved bits", OUTER / vxlan(77, flags=0xFF) / FRAME, 77),
    ("VXLAN by scapy", OUTER / udp(4789) / VXLAN(vni=77, flags=8) / FRAME, 77),
    ("VXLAN, IPv6 inside", OUTER / vxlan(77) / FRAME6, 77),
    ("VXLAN in IPv6", OUTER6 / vxlan(77) / FRAME, 77),
    ("VXLAN behind a tag", ETHER / Dot1Q(vlan=3) / IP() / vxlan(77) / FRAME, 77),
    ("VXLAN, a tag inside", OUTER / vxlan(77) / ETHER / Dot1Q(vlan=3) / INNER, 77),
    ("VXLAN, outer options", ETHER / IP(options=b"\x01" * 4) / vxlan(77) / FRAME, 77),
    (
        "VXLAN from an opaque tunnel's port",
        OUTER / UDP(sport=2152, dport=4789) / VXLAN(vni=7, flags=8) / FRAME,
        7,
    ),
    ("VXLAN in VXLAN", OUTER / vxlan(1) / OUTER / vxlan(2) / FRAME, 2),
    ("VXLAN-GPE, Ethernet", OUTER / gpe(3) / FRAME, 7),
    ("VXLAN-GPE, IPv4", OUTER / gpe(1) / INNER, 7),
    ("VXLAN-GPE, IPv6", OUTER / gpe(2) / INNER6, 7),
    ("VXLAN-GPE, plain VXLAN", OUTER / gpe(0, 0x08) / FRAME, 7),
    ("GENEVE, Ethernet", OUTER / geneve(786734, 0x6558) / FRAME, 786734),
    ("GENEVE, IPv4", OUTER / geneve(5, 0x0800) / INNER, 5),
    ("GENEVE, IPv6", OUTER / geneve(5, 0x86DD) / INNER6, 5),
    ("GENEVE, options", OUTER / geneve(5, 0x0800, bytes(32)) / INNER, 5),
    ("GENEVE, all options there can be", OUTER / geneve(5, 0x0800, bytes(252)) / INNER, 5),
    ("GENEVE, critical options", OUTER / geneve(5, 0x0800, bytes(8), flags=0x40) / INNER, 5),
    ("GENEVE by scapy", OUTER / udp(6081) / GENEVE(vni=5, proto=0x0800) / INNER, 5),
    ("VXLAN in GENEVE (GWLB)", OUTER / geneve(0, 0x0800, bytes(32)) / IP() / vxlan(77) / FRAME, 77),
    ("GENEVE in VXLAN", OUTER / vxlan(77) / OUTER / geneve(0, 0x0800) / INNER, 0),
    ("GRE in GENEVE keeps the VNI", OUTER / geneve(0, 0x0800) / IP() / GRE() / INNER, 0),
    ("GRE", OUTER / GRE() / INNER, None),
    ("GRE, IPv6", OUTER / GRE() / INNER6, None),
    ("GRE, Ethernet", OUTER / GRE(proto=0x6558) / FRAME, None),
    ("GRE, key", OUTER / GRE(key_present=1, key=77) / INNER, None),
    ("GRE, all options", OUTER / GRE(chksum_present=1, key_present=1, seqnum_present=1) / INNER, None),
    ("GRE, sequence only", OUTER / GRE(seqnum_present=1) / INNER, None),
    ("GRE, MPLS", ETHER / GRE_IP / gre("00008847 000101ff") / INNER, None),
    ("ERSPAN I", ETHER / GRE_IP / gre("000088be") / FRAME, None),
    ("ERSPAN II", ETHER / GRE_IP / gre(ERSPAN2) / FRAME, None),
    ("ERSPAN III", ETHER / GRE_IP / gre(ERSPAN3) / FRAME, None),
    ("ERSPAN III, subheader", ETHER / GRE_IP / gre(ERSPAN3_MORE) / FRAME, None),
    ("ERSPAN III, IP", ETHER / GRE_IP / gre(ERSPAN3_IP) / INNER, None),
    ("VXLAN in ERSPAN", ETHER / GRE_IP / gre(ERSPAN2) / OUTER / vxlan(9) / FRAME, 9),
    ("MPLS in UDP", OUTER / udp(6635) / Raw(bytes.fromhex("000101ff")) / INNER, None),
    ("IP in IP", OUTER / INNER, None),
]
CHAIN_NAMES = [c[0] for c in CHAINS]
# Where a tunnel is inside the mirrored traffic, the mirror session's VNI is part of the key as well.
OUTER_VNIS = {
    bytes(packet): {"VXLAN in VXLAN": 1, "GENEVE in VXLAN": 77}[name].to_bytes(3)
    for name, packet, _ in CHAINS
    if name in {"VXLAN in VXLAN", "GENEVE in VXLAN"}
}


@pytest.mark.parametrize(("packet", "vni"), [c[1:] for c in CHAINS], ids=CHAIN_NAMES)
def test_the_segment_inside(packet: Packet, vni: int | None) -> None:
    outcome = decode([make(packet), make(bytes(packet) + b"PADDING")])
    assert outcome.reasons == {}
    assert len(outcome.segments) == 2
    inner = bytes(INNER6) if bytes(INNER6) in bytes(packet) else bytes(INNER)
    addresses = inner[8:40] if inner[0] >> 4 == 6 else inner[12:20]
    suffix = b"" if vni is None else vni.to_bytes(3) + OUTER_VNIS.get(bytes(packet), b"")
    for segment in outcome.segments:
        assert segment.route == addresses + bytes.fromhex("03e80050") + suffix
        assert segment.payload == b"hello"
        assert segment.missing == 0


@pytest.mark.parametrize("packet", [c[1] for c in CHAINS], ids=CHAIN_NAMES)
def test_cut_anywhere(packet: Packet) -> None:
    whole = bytes(packet)
    for cut in range(1, 6):
        (segment,) = decode([make(whole, cut=cut)]).segments
        assert (segment.payload, segment.missing) == (b"hello"[: 5 - cut], cut)
    for cut in range(6, len(whole) + 1):
        assert decode([make(whole, cut=cut)]) == ([], {"frame_cut": 1})


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (OUTER / vxlan(77, flags=0x00) / FRAME, "frame_malformed"),  # no valid VNI
        (OUTER / vxlan(77, flags=0xF7) / FRAME, "frame_malformed"),
        (OUTER / vxlan(77) / ETHER / ARP(), "frame_not_ip"),
        (OUTER / vxlan(77) / ETHER / IP() / UDP(), "frame_not_tcp"),
        (OUTER / vxlan(77), "frame_malformed"),  # nothing inside
        (OUTER / udp(4789) / Raw(b"runt"), "frame_malformed"),  # crashed the predecessor
        (OUTER / udp(4789), "frame_malformed"),
        (OUTER / UDP(sport=4789, dport=12345) / Raw(b"\x08" + bytes(7)) / FRAME, "frame_not_tcp"),
        (OUTER / gpe(4) / FRAME, "frame_tunnel_unsupported"),  # NSH
        (OUTER / gpe(3, 0x0D) / FRAME, "frame_not_tcp"),  # OAM
        (OUTER / gpe(3, 0x04) / FRAME, "frame_malformed"),
        (OUTER / geneve(5, 0x0800, first=0x40) / INNER, "frame_tunnel_unsupported"),  # version 1
        (OUTER / geneve(5, 0x88B5) / INNER, "frame_tunnel_unsupported"),
        (OUTER / geneve(5, 0x0800, flags=0x80) / INNER, "frame_not_tcp"),  # control
        (OUTER / geneve(5, 0x0800, first=0x3F), "frame_malformed"),  # options beyond the datagram
        (ETHER / GRE_IP / gre("00000000"), "frame_tunnel_unsupported"),  # keep-alive
        (ETHER / GRE_IP / gre("3001880b") / INNER, "frame_tunnel_unsupported"),  # PPTP
        (ETHER / GRE_IP / gre("40000800") / INNER, "frame_tunnel_unsupported"),  # source routing
        (ETHER / GRE_IP / gre("0000883e") / INNER, "frame_tunnel_unsupported"),  # WCCP
        (ETHER / GRE_IP / gre("b0000800"), "frame_malformed"),
        (OUTER / udp(1701) / INNER, "frame_tunnel_unsupported"),
        (OUTER / udp(3544) / INNER6, "frame_tunnel_unsupported"),
        (OUTER / udp(2152) / INNER, "frame_tunnel_unsupported"),
    ],
)
def test_what_is_no_segment_has_a_name(packet: Packet, reason: str) -> None:
    assert decode([make(packet)]) == ([], {reason: 1})


@pytest.mark.parametrize("inner", [INNER, INNER6], ids=["IPv4", "IPv6"])
def test_what_the_mirror_cut_is_missing(inner: Packet) -> None:
    """AWS cuts the inner packet and encapsulates the rest: only the inner length knows."""
    cut = bytes(ETHER / inner)[:-3]
    (segment,) = decode([make(OUTER / vxlan(77) / Raw(cut))]).segments
    assert (segment.payload, segment.missing) == (b"he", 3)


def test_ethernet_padding_behind_a_cut_inner_packet_is_no_payload() -> None:
    cut = bytes(FRAME)[:-3]
    (segment,) = decode([make(bytes(OUTER / vxlan(77) / Raw(cut)) + b"PADDING")]).segments
    assert (segment.payload, segment.missing) == (b"he", 3)


def test_another_port_for_vxlan() -> None:
    frames = [make(OUTER / vxlan(1, 4789) / FRAME), make(OUTER / vxlan(2, 14789) / FRAME)]
    outcome = decode(frames, vxlan_ports=frozenset({14789}))
    assert [segment.route[-3:] for segment in outcome.segments] == [(2).to_bytes(3)]
    assert outcome.reasons == {"frame_not_tcp": 1}
