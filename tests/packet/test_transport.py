"""The TCP header."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q
from scapy.packet import Packet, Raw

from tests.packet.frames import ETHER, decode, make

NETWORKS = [
    ETHER / IP(src="10.0.0.1", dst="10.0.0.2"),
    ETHER / Dot1Q(vlan=1) / IP(src="10.0.0.1", dst="10.0.0.2"),
    ETHER / IPv6(),
]


@pytest.mark.parametrize("network", NETWORKS, ids=["common", "VLAN", "IPv6"])
@pytest.mark.parametrize(
    "tcp",
    [
        TCP(sport=1, dport=65535, seq=0, ack=0, flags="S"),
        TCP(sport=65535, dport=1, seq=2**32 - 1, ack=2**31, flags="SA"),
        TCP(seq=5, ack=9, flags="A"),  # a pure ACK is a segment: it acknowledges
        TCP(seq=5, ack=9, flags="FPUECA", urgptr=3),
        TCP(seq=5, flags="R"),
        TCP(seq=5, ack=9, flags="PA", options=[("NOP", None)] * 40),
        TCP(seq=5, ack=9, flags="PA", options=[("Timestamp", (1, 2))]),
        TCP(seq=5, ack=9, flags="PA", reserved=7, chksum=0),
    ],
)
@pytest.mark.parametrize("payload", [b"", b"x", b"y" * 1400])
def test_fields(network: Packet, tcp: TCP, payload: bytes) -> None:
    (segment,) = decode([make(network / tcp / Raw(payload), ts=77)]).segments
    assert segment.route[-4:] == tcp.sport.to_bytes(2) + tcp.dport.to_bytes(2)
    assert (segment.seq, segment.ack) == (tcp.seq, tcp.ack)
    assert segment.flags == int(tcp.flags) & 0xFF
    assert segment.payload == payload
    assert (segment.missing, segment.ts) == (0, 77)


@pytest.mark.parametrize("network", NETWORKS, ids=["common", "VLAN", "IPv6"])
@pytest.mark.parametrize("words", [0, 1, 4, 8, 15])
def test_a_data_offset_below_the_header_or_beyond_the_segment(network: Packet, words: int) -> None:
    packet = network / TCP(dataofs=words) / Raw(b"0123")  # room for 6 words
    assert decode([make(packet)]) == ([], {"frame_malformed": 1})


@pytest.mark.parametrize("network", NETWORKS, ids=["common", "VLAN", "IPv6"])
def test_options_cut_by_the_capture(network: Packet) -> None:
    packet = network / TCP(options=[("NOP", None)] * 12)
    assert decode([make(packet, cut=1)]) == ([], {"frame_cut": 1})
