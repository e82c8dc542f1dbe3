"""IP headers: options, extension headers, lengths that disagree with what is there."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    PadN,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from tests.packet.frames import ETHER, decode, make

V4 = IP(src="10.0.0.1", dst="10.0.0.2")
V6 = IPv6(src="fd00::1", dst="fd00::2")
SEGMENT = TCP(sport=1000, dport=80, flags="PA") / Raw(b"0123456789")
PORTS = struct.pack("!HH", 1000, 80)
ROUTE4 = ip_address("10.0.0.1").packed + ip_address("10.0.0.2").packed + PORTS
ROUTE6 = ip_address("fd00::1").packed + ip_address("fd00::2").packed + PORTS


def _name(value: object) -> str:
    return "-".join(layer.__name__ for layer in value.layers()) if isinstance(value, Packet) else ""


@pytest.mark.parametrize(
    ("packet", "route"),
    [
        (V4 / SEGMENT, ROUTE4),
        (IP(src="10.0.0.1", dst="10.0.0.2", tos=0xB9, flags="DF") / SEGMENT, ROUTE4),
        (IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x01" * 4) / SEGMENT, ROUTE4),
        (IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x01" * 40) / SEGMENT, ROUTE4),
        (IP(src="10.0.0.1", dst="10.0.0.2", flags="evil") / SEGMENT, ROUTE4),
        (IP(src="10.0.0.1", dst="10.0.0.2", chksum=0) / SEGMENT, ROUTE4),
        (V4 / AH(nh=6, payloadlen=4, icv=b"x" * 12) / SEGMENT, ROUTE4),
        (V6 / SEGMENT, ROUTE6),
        (V6 / IPv6ExtHdrHopByHop() / SEGMENT, ROUTE6),
        (V6 / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"x" * 30)]) / SEGMENT, ROUTE6),
        (V6 / IPv6ExtHdrRouting(addresses=["fd00::9", "fd00::8"]) / SEGMENT, ROUTE6),
        (V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt() / SEGMENT, ROUTE6),
        (V6 / AH(nh=6, payloadlen=4, icv=b"x" * 12) / SEGMENT, ROUTE6),
        (V6 / IPv6ExtHdrFragment() / SEGMENT, ROUTE6),  # atomic
        (IP(src="192.0.2.1") / V4 / SEGMENT, ROUTE4),
        (IP(src="192.0.2.1") / V6 / SEGMENT, ROUTE6),
        (IPv6() / V4 / SEGMENT, ROUTE4),
        (IPv6() / V6 / SEGMENT, ROUTE6),
    ],
    ids=_name,
)
def test_the_segment_behind(packet: Packet, route: bytes) -> None:
    outcome = decode([make(ETHER / packet), make(bytes(ETHER / packet) + b"PADDING")])
    assert outcome.reasons == {}
    for segment in outcome.segments:
        assert segment.route == route
        assert segment.payload == b"0123456789"
        assert segment.missing == 0


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (V4 / UDP(dport=53) / Raw(b"x" * 30), "frame_not_tcp"),
        (V4 / ICMP(), "frame_not_tcp"),
        (V4 / SCTP(), "frame_not_tcp"),
        (V6 / ICMPv6EchoRequest(), "frame_not_tcp"),
        (V6 / IPv6ExtHdrDestOpt(nh=59), "frame_not_tcp"),  # no next header
        (IP(proto=0) / SEGMENT, "frame_not_tcp"),  # an extension header of IPv6 behind IPv4
        (IP(proto=44) / SEGMENT, "frame_not_tcp"),
        (V4 / ESP() / Raw(b"x" * 40), "frame_tunnel_unsupported"),
        (IP(proto=115) / SEGMENT, "frame_tunnel_unsupported"),
        (IP(ihl=4) / SEGMENT, "frame_malformed"),
        (
            IP(len=19) / SEGMENT,
            "frame_malformed",
        ),  # a total length below the header's crashed the predecessor
        (IP(len=1) / SEGMENT, "frame_malformed"),
        (IP(ihl=6, len=20) / SEGMENT, "frame_malformed"),
        (IP(len=20) / SEGMENT, "frame_malformed"),  # ... and one that leaves no room for TCP's header
        (IP(len=39) / SEGMENT, "frame_malformed"),
        (IPv6(plen=19, nh=6) / SEGMENT, "frame_malformed"),
        (IPv6(version=5, nh=6) / SEGMENT, "frame_malformed"),
        (IPv6(plen=16, nh=0) / IPv6ExtHdrHopByHop(len=200, nh=6) / SEGMENT, "frame_malformed"),
        (V6 / AH(payloadlen=0, nh=6) / SEGMENT, "frame_malformed"),
    ],
    ids=_name,
)
def test_what_is_no_segment_has_a_name(packet: Packet, reason: str) -> None:
    ethertype = 0x0800 if isinstance(packet, IP) else 0x86DD
    assert decode([make(bytes(ETHER)[:12] + ethertype.to_bytes(2) + bytes(packet))]) == ([], {reason: 1})


@pytest.mark.parametrize(
    "packet",
    [
        V4 / SEGMENT,
        IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x01" * 8) / SEGMENT,
        V6 / SEGMENT,
        V6 / IPv6ExtHdrHopByHop() / SEGMENT,
        V6 / AH(nh=44, payloadlen=4, icv=b"x" * 12) / IPv6ExtHdrFragment() / SEGMENT,
    ],
    ids=["IPv4", "options", "IPv6", "extension", "AH"],
)
def test_cut_anywhere(packet: Packet) -> None:
    """In the payload: a hole of known size. Before: named, and nothing invented."""
    whole = bytes(ETHER / packet)
    for cut in range(1, 11):
        (segment,) = decode([make(whole, cut=cut)]).segments
        assert (segment.payload, segment.missing) == (b"0123456789"[: 10 - cut], cut)
    for cut in range(11, len(whole) + 1):
        assert decode([make(whole, cut=cut)]) == ([], {"frame_cut": 1})


@pytest.mark.parametrize(
    ("packet", "cut", "missing"),
    [
        (IP(len=0) / SEGMENT, 0, 0),  # IPv4 with segmentation offload
        (IP(len=0) / SEGMENT, 4, 4),  # then only the length on the wire tells what is missing
        (IPv6(plen=0, nh=6) / SEGMENT, 0, 0),
        (IPv6(plen=0, nh=6) / SEGMENT, 4, 4),
        (IPv6(plen=0, nh=0) / IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=38)]) / SEGMENT, 0, 0),
    ],
)
def test_a_length_of_zero_leaves_all_that_is_there(packet: Packet, cut: int, missing: int) -> None:
    (segment,) = decode([make(ETHER / packet, cut=cut)]).segments
    assert (segment.payload, segment.missing) == (b"0123456789"[: 10 - cut], missing)


def test_a_length_beyond_the_frame_is_a_hole_even_if_the_capture_says_nothing_of_it() -> None:
    """What a mirror target sees of a packet cut by the mirror: the lengths in front are consistent."""
    (segment,) = decode([make(ETHER / IP(len=1500) / SEGMENT)]).segments
    assert (segment.payload, segment.missing) == (b"0123456789", 1500 - 50)
