"""Links, tags, labels: the same TCP segment behind each of them."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP
from scapy.packet import Raw

from appliance.packet.cursor import REASONS, Step
from appliance.packet.link import STEPS
from tests.packet.frames import ETHER, decode, make

V4 = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1000, dport=80, flags="PA") / Raw(b"hello"))
V6 = bytes(IPv6(src="fd00::1", dst="fd00::2") / TCP(sport=1000, dport=80, flags="PA") / Raw(b"hello"))
MACS = bytes(12)


def h(text: str) -> bytes:
    return bytes.fromhex(text)


@pytest.mark.parametrize("network", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("link", [12, 14, 101])
def test_raw_ip(link: int, network: bytes) -> None:
    assert decode([make(network, link=link)]).segments[0].payload == b"hello"


CHAINS = [
    ("Ethernet", 1, MACS + h("0800"), V4),
    ("Ethernet, IPv6", 1, MACS + h("86dd"), V6),
    ("IPv4", 228, b"", V4),
    ("IPv6", 229, b"", V6),
    ("802.1Q", 1, MACS + h("8100 0007 0800"), V4),
    ("802.1Q, IPv6", 1, MACS + h("8100 0007 86dd"), V6),
    ("802.1ad", 1, MACS + h("88a8 0007 8100 0008 0800"), V4),
    ("QinQ 9100", 1, MACS + h("9100 0007 8100 0008 0800"), V4),
    ("QinQ 9200", 1, MACS + h("9200 0007 9100 0008 88a8 0009 0800"), V4),
    ("MPLS", 1, MACS + h("8847 0001 01ff"), V4),
    ("MPLS, three labels, IPv6", 1, MACS + h("8847 0001 00ff 0002 00ff 0003 01ff"), V6),
    ("MPLS, upstream", 1, MACS + h("8848 0001 01ff"), V4),
    ("VLAN, MPLS", 1, MACS + h("8100 0007 8847 0001 01ff"), V4),
    ("PPPoE", 1, MACS + h("8864 1100 0001 002f 0021"), V4),
    ("PPPoE, IPv6", 1, MACS + h("8864 1100 0001 0043 0057"), V6),
    ("PPPoE, short protocol", 1, MACS + h("8864 1100 0001 002e 21"), V4),
    ("NULL, little end first", 0, h("02000000"), V4),
    ("NULL, big end first", 0, h("00000002"), V4),
    ("NULL, IPv6 of NetBSD", 0, h("18000000"), V6),
    ("NULL, IPv6 of FreeBSD", 0, h("0000001c"), V6),
    ("NULL, IPv6 of macOS", 0, h("1e000000"), V6),
    ("NULL, IPv6 of Linux", 0, h("0a000000"), V6),
    ("LOOP", 108, h("00000002"), V4),
    ("LOOP, IPv6", 108, h("0000001e"), V6),
    ("LOOP, little end first", 108, h("02000000"), V4),
    ("SLL", 113, h("0000 0001 0006 000000000000 0000 0800"), V4),
    ("SLL, IPv6", 113, h("0000 0001 0006 000000000000 0000 86dd"), V6),
    ("SLL, VLAN", 113, h("0000 0001 0006 000000000000 0000 8100 0007 0800"), V4),
    ("SLL2", 276, h("0800 0000 00000002 0001 00 06 0000000000000000"), V4),
    ("SLL2, IPv6", 276, h("86dd 0000 00000002 0001 00 06 0000000000000000"), V6),
]


@pytest.mark.parametrize(("link", "head", "network"), [c[1:] for c in CHAINS], ids=[c[0] for c in CHAINS])
def test_the_segment_behind(link: int, head: bytes, network: bytes) -> None:
    outcome = decode([make(head + network, link=link)])
    assert outcome.reasons == {}
    (segment,) = outcome.segments
    addresses = network[12:20] if network is V4 else network[8:40]
    assert segment.route == addresses + h("03e8 0050")
    assert segment.payload == b"hello"
    assert segment.missing == 0


@pytest.mark.parametrize(("link", "head"), [c[1:3] for c in CHAINS], ids=[c[0] for c in CHAINS])
def test_cut_anywhere_in_the_headers(link: int, head: bytes) -> None:
    for length in range(len(head) + 1):
        outcome = decode([make(head[:length], link=link, wire=1500), make(head[:length], link=link)])
        assert outcome.reasons == {"frame_cut": 1, "frame_malformed": 1}


@pytest.mark.parametrize(
    ("link", "data", "reason"),
    [
        (1, bytes(ETHER / ARP()), "frame_not_ip"),
        (1, MACS + h("0026 424203") + bytes(40), "frame_not_ip"),  # IEEE 802.3 with a length: spanning tree
        (1, MACS + h("8863 1109 0000 0000"), "frame_not_ip"),  # PPPoE discovery
        (1, MACS + h("8864 1100 0001 0006 c021 01010004"), "frame_not_ip"),  # PPP LCP
        (1, MACS + h("88e5 2c00 00000001") + bytes(40), "frame_tunnel_unsupported"),  # MACsec
        (1, MACS + h("8847 0001 01ff 000c29") + bytes(60), "frame_tunnel_unsupported"),  # a pseudowire
        (101, h("50") + bytes(60), "frame_not_ip"),
        (0, h("11000000") + V4, "frame_not_ip"),  # AF_UNSPEC and others
        (0, h("02000002") + V4, "frame_not_ip"),
        (228, V6, "frame_malformed"),
        (1, MACS + h("0800") + V6, "frame_malformed"),
        (105, bytes(60), "frame_link_unknown"),  # IEEE 802.11
        (-1, V4, "frame_link_unknown"),
        (0x10006, V4, "frame_link_unknown"),  # no number that the walk uses inside gets in from outside
        (0x40000, V4, "frame_link_unknown"),
    ],
)
def test_what_is_not_ip_has_a_name(link: int, data: bytes, reason: str) -> None:
    assert decode([make(data, link=link)]) == ([], {reason: 1})


def test_no_step_is_lost_to_an_equal_number() -> None:
    functions: set[Step] = set(STEPS.values())
    assert {f.__name__ for f in functions} >= {
        "ethernet",
        "raw_ip",
        "null",
        "sll",
        "sll2",
        "vlan",
        "mpls",
        "pppoe",
    }
    assert not set(STEPS) & set(REASONS)
