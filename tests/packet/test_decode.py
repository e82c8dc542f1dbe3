"""The walk, and the fused readers held against it."""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.config import conf
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from appliance.ledger import Ledger
from appliance.model import LINK_GENEVE, LINK_VXLAN, Frame, flow_key
from appliance.packet.decode import MAX_LAYERS, PacketDecoder
from appliance.packet.vni import VniSelection
from tests.packet.frames import CAPTURES, ETHER, Outcome, decode, make, templates

if TYPE_CHECKING:
    from tests.packet.conftest import Capture

TEMPLATES = templates()
INNER = IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=40000, dport=80, flags="PA") / Raw(b"hello")
INNER6 = IPv6(src="fd00::1", dst="fd00::2") / TCP(sport=40000, dport=80, flags="PA") / Raw(b"hello")
OUTER = ETHER / IP(src="192.0.2.1", dst="192.0.2.2")


def vxlan(vni: int, inner: Packet = INNER) -> Packet:
    return OUTER / UDP(dport=4789) / VXLAN(vni=vni, flags=8) / ETHER / inner


# -- both ways agree -------------------------------------------------------------------------------


def test_on_every_capture_both_ways_agree_and_the_ledger_adds_up(capture: Capture) -> None:
    outcome = decode(capture.frames)
    assert len(outcome.segments) + sum(outcome.reasons.values()) == len(capture.frames)


@pytest.mark.parametrize("snap", [20, 60, 68, 96, 110, 200])
def test_on_captures_cut_short_both_ways_agree(capture: Capture, snap: int) -> None:
    decode([Frame(f.ts, f.data[:snap], f.wire_length, f.link) for f in capture.frames[:150]])


EDITS = st.lists(st.tuples(st.integers(0, 170), st.integers(0, 255)), max_size=4)
LENGTHS = st.integers(0, 200) | st.just(1000)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "vnis": st.sampled_from(["", "77", "-77", "0", "5,9", "-78"]).map(VniSelection.parse),
        "ports": st.sampled_from([frozenset({80}), frozenset({40000}), frozenset({8080}), frozenset[int]()]),
    },
)


@st.composite
def damaged(draw: st.DrawFn) -> Frame:
    """A good frame with some octets changed, cut or prolonged, of a length on the wire that may not fit."""
    template = draw(st.sampled_from(TEMPLATES))
    data = bytearray(template.data)
    for at, value in draw(EDITS):
        if at < len(data):
            data[at] = value
    data = data[: draw(LENGTHS)] + bytes(draw(st.sampled_from([0, 0, 0, 1, 30])))
    link = draw(st.sampled_from([template.link] * 8 + [0, 1, 12, 101, 108, 113, 228, 229, 276, 999]))
    wire = draw(st.sampled_from([len(data), len(template.data), 0, 1500]))
    return Frame(draw(st.integers(0, 3)), bytes(data), wire, link)


@given(st.lists(damaged(), max_size=8), OPTIONS)
def test_on_damaged_frames_both_ways_agree_and_the_ledger_adds_up(
    frames: list[Frame], options: dict[str, object]
) -> None:
    decode(frames, **options)


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 300))
def test_no_octets_raise_whatever_the_link(data: bytes, link: int, wire: int) -> None:
    for number in (link, 0, 1, 12, 101, 108, 113, 228, 229, 276):
        decode([Frame(0, data, wire, number)])


@given(st.lists(st.sampled_from(TEMPLATES), max_size=12), st.integers(0, 12))
def test_how_frames_are_batched_makes_no_difference(frames: list[Frame], at: int) -> None:
    ledger = Ledger()
    decoder = PacketDecoder(ledger)
    routes = [s.route for batch in (frames[:at], [], frames[at:]) for s in decoder.feed(batch)]
    assert routes == [s.route for s in decode(frames).segments]
    assert ledger.tally["frames"] == len(frames)


def test_the_common_frames_do_not_take_the_walk() -> None:
    frames = [
        make(p) for p in (ETHER / INNER, vxlan(5), OUTER / UDP(dport=8472) / VXLAN(flags=8) / ETHER / INNER)
    ]
    frames += [make(ETHER / INNER, cut=2), make(vxlan(5), cut=2), make(bytes(vxlan(5)) + b"PADDING")]
    decoder = PacketDecoder(Ledger())
    assert len(decoder.feed(frames)) == len(frames)
    assert decoder._cursor.data == b""  # never set to the beginning of a frame
    decoder.feed([make(ETHER / INNER6)])
    assert decoder._cursor.data


# -- an independent reader agrees ------------------------------------------------------------------


def _by_scapy(frame: Frame) -> tuple[bytes, int, int, int, bytes] | None:
    """Route, seq, ack, flags, payload as scapy dissects the frame; None without TCP or in fragments."""
    packet = conf.l2types[frame.link](frame.data)
    network, tcp, vni = None, None, b""
    while packet:
        kind = type(packet)
        if kind is IP or kind is IPv6:
            network = packet
        elif kind is VXLAN or kind is GENEVE:
            vni = packet.vni.to_bytes(3)
        elif kind is TCP:
            tcp = packet
        elif kind is IPv6ExtHdrFragment and (packet.offset or packet.m):
            return None
        if kind is IP and (packet.flags.MF or packet.frag):
            return None
        packet = packet.payload
    if tcp is None or network is None:
        return None
    addresses = b"".join(ipaddress.ip_address(a).packed for a in (network.src, network.dst))
    route = addresses + tcp.sport.to_bytes(2) + tcp.dport.to_bytes(2) + vni
    return route, tcp.seq, tcp.ack, int(tcp.flags) & 0xFF, tcp.original[tcp.dataofs * 4 :]


# VXLAN-GPE's port, AF_INET6 in a NULL header, PPPoE in some forms and MPLS are not scapy's by default.
BEYOND_SCAPY = {
    "arkime-gre-erspan-vxlan.pcap",
    "dpkt-nb6-l2tp.pcap",
    "gopacket-loopback.pcap",
    "ppp-http-rst-qinq-pppoe.pcap",
    "sv-pppoe-session-http.pcap",
    "zeek-connect-tls.pcap",
    "zeek-mixed-vlan-mpls.pcap",
}


def test_scapy_reads_the_same(capture: Capture) -> None:
    compared = 0
    for number, frame in enumerate(capture.frames, 1):
        expected = _by_scapy(frame)
        if expected is not None:
            ((segment,), _) = decode([frame])
            assert (*segment[:1], *segment[2:6]) == expected, number
            compared += 1
    outcome = decode(capture.frames)
    if capture.path.name not in BEYOND_SCAPY and "fragment_merged" not in outcome.reasons:
        assert compared == len(outcome.segments)


def test_the_connections_and_networks_of_the_manifest_are_found(capture: Capture) -> None:
    entries = {e["file"]: e for e in json.loads((CAPTURES / "MANIFEST.json").read_text())}
    entry = entries[capture.path.name]
    if set(entry["requires"]) & {"l2tp", "teredo"}:
        assert decode(capture.frames).reasons["frame_tunnel_unsupported"]
        return
    keys = [flow_key(s.route) for s in decode(capture.frames).segments]
    found = {(f"{k.a.text()}:{k.a.port}", f"{k.b.text()}:{k.b.port}", k.vni) for k in keys}
    found |= {(b, a, vni) for a, b, vni in found}
    wanted = {(call["client"], call["server"], call.get("vni")) for call in entry["expected_calls"]}
    assert wanted <= found
    if wanted:
        assert {vni for *_, vni in found} == {vni for *_, vni in wanted}
    if not set(entry["encap"]) & {"teredo", "l2tp"}:
        ends = {(frozenset((a, b)), vni) for a, b, vni in found}
        assert len({end for end, _ in ends}) >= min(entry["tcp_streams"], 1)


# -- selection -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inner", [INNER, INNER6, IP(options=b"\x01" * 4) / TCP()], ids=["fused", "IPv6", "options"]
)
@pytest.mark.parametrize(
    ("text", "kept"), [("", [0, 5, 6]), ("5", [5]), ("-5", [0, 6]), ("0", []), ("6,-5", [0, 6])]
)
def test_the_vni_selects(inner: Packet, text: str, kept: list[int]) -> None:
    outcome = decode([make(vxlan(vni, inner)) for vni in (0, 5, 6)], vnis=VniSelection.parse(text))
    assert [flow_key(s.route).vni for s in outcome.segments] == kept
    assert outcome.reasons.get("frame_vni_not_selected", 0) == 3 - len(kept)


def test_frames_without_vni_are_not_filtered_by_it() -> None:
    frames = [make(ETHER / INNER), make(ETHER / INNER6), make(OUTER / INNER)]
    assert len(decode(frames, vnis=VniSelection.parse("5")).segments) == 3


def test_the_mirror_sessions_vni_selects_not_a_tunnel_inside() -> None:
    """A Kubernetes node's overlay has VNIs of its own, the same ones in every cluster."""
    frame = make(vxlan(9, IP() / UDP(dport=4789) / VXLAN(vni=5, flags=8) / ETHER / INNER))
    (segment,) = decode([frame], vnis=VniSelection.parse("9")).segments
    assert flow_key(segment.route)[::3] == (5, 9)
    assert decode([frame], vnis=VniSelection.parse("5")) == ([], {"frame_vni_not_selected": 1})


def test_a_gateway_load_balancers_vni_0_does_not_hide_the_mirror_sessions() -> None:
    geneve = OUTER / UDP(dport=6081) / GENEVE(vni=0, proto=0x0800) / IP() / UDP(dport=4789)
    frame = make(geneve / VXLAN(vni=5, flags=8) / ETHER / INNER)
    assert len(decode([frame], vnis=VniSelection.parse("5")).segments) == 1
    assert decode([frame], vnis=VniSelection.parse("9")) == ([], {"frame_vni_not_selected": 1})


def test_one_overlay_seen_from_two_mirror_sessions_is_two_connections() -> None:
    frames = [
        make(vxlan(session, IP() / UDP(dport=8472) / VXLAN(vni=5, flags=8) / ETHER / INNER))
        for session in (1, 2)
    ]
    assert len({s.route for s in decode(frames).segments}) == 2


@pytest.mark.parametrize("inner", [INNER, INNER6], ids=["IPv4", "IPv6"])
def test_what_a_mirror_target_gets_is_the_same_without_its_outer_headers(inner: Packet) -> None:
    """The payload of the datagram, whole and cut by the target's MTU, takes the same way to a segment."""
    packet = vxlan(5, inner)
    payload = bytes(packet[VXLAN])
    for cut in (0, 2):
        received = Frame(1, payload[: len(payload) - cut], len(payload) - cut, LINK_VXLAN)
        (a,) = decode([received]).segments
        (b,) = decode([make(packet, cut=cut)]).segments
        assert (a.route, a.seq, a.ack, a.flags, a.payload, a.missing) == (
            b.route, b.seq, b.ack, b.flags, b.payload, b.missing,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "frame_malformed"),
        (b"\x08\0\0\0\0\0\5", "frame_malformed"),
        (bytes(4) + b"\0\0\5\0" + bytes(80), "frame_malformed"),
        (b"\x08\0\0\0\0\0\5\0" + bytes(13), "frame_malformed"),
        (b"\x08\0\0\0\0\0\5\0" + bytes(80), "frame_not_ip"),
    ],
    ids=["nothing", "short", "no I flag", "short Ethernet", "not IP"],
)
def test_a_datagram_that_is_no_mirrored_frame_is_counted(payload: bytes, reason: str) -> None:
    assert decode([Frame(1, payload, len(payload), LINK_VXLAN)]) == ([], {reason: 1})


@pytest.mark.parametrize("session", [0, 9])
def test_a_gateway_load_balancers_datagram_is_read_to_the_segment(session: int) -> None:
    """GENEVE with options around IP around the mirror's VXLAN, as a target behind one gets it."""
    head = bytes([32 // 4, 0]) + b"\x08\0" + session.to_bytes(3) + b"\0" + bytes(32)
    payload = head + bytes(vxlan(5)[IP])
    decoder = PacketDecoder(Ledger())
    (segment,) = decoder.feed([Frame(1, payload, len(payload), LINK_GENEVE)])
    key = flow_key(segment.route)
    assert (key.vni, key.outer) == (5, None if session == 0 else session)
    assert segment.payload == b"hello"


def test_reserved_bits_are_ignored() -> None:
    payload = bytes(vxlan(5, INNER)[VXLAN])
    odd = b"\xff\xff\xff\xff" + payload[4:7] + b"\xff" + payload[8:]
    assert len(decode([Frame(1, odd, len(odd), LINK_VXLAN)]).segments) == 1


def test_each_mirror_session_has_its_own_count() -> None:
    ledger = Ledger()
    decoder = PacketDecoder(ledger, VniSelection.parse("-6"))
    decoder.feed([make(p) for p in (vxlan(5), vxlan(5), vxlan(6), ETHER / INNER)])
    assert {vni: row["frames"] for vni, row in ledger.sessions.items()} == {5: 2, 6: 1}
    assert ledger.sessions[6]["frame_vni_not_selected"] == 1


def test_a_selection_changes_between_two_frames() -> None:
    decoder = PacketDecoder(Ledger(), VniSelection.parse("5"))
    assert len(decoder.feed([make(vxlan(5)), make(vxlan(6))])) == 1
    decoder.select(VniSelection.parse("6"), frozenset({80}))
    assert [flow_key(s.route).vni for s in decoder.feed([make(vxlan(5)), make(vxlan(6))])] == [6]


def test_what_else_is_in_a_frame_of_another_network_does_not_matter() -> None:
    """Else a VNI that nobody wants raises alarms of loss."""
    frames = [make(vxlan(6, IP() / UDP())), make(vxlan(6, IP(len=5) / TCP())), make(vxlan(6), cut=20)]
    assert decode(frames, vnis=VniSelection.parse("5")) == ([], {"frame_vni_not_selected": 3})


@pytest.mark.parametrize("chain", ["plain", "vxlan", "IPv6", "VLAN"])
@pytest.mark.parametrize(
    ("ports", "kept"),
    [
        (None, True),
        ({80}, True),
        ({40000}, True),
        ({80, 81}, True),
        ({8080}, False),
        ({0x5000}, False),
        (set(), False),
    ],
)
def test_either_port_selects(chain: str, ports: set[int] | None, kept: bool) -> None:
    packet = {
        "plain": ETHER / INNER,
        "vxlan": vxlan(1),
        "IPv6": ETHER / INNER6,
        "VLAN": ETHER / Dot1Q() / INNER,
    }[chain]
    outcome = decode([make(packet)], ports=None if ports is None else frozenset(ports))
    assert len(outcome.segments) == kept
    assert outcome.reasons == ({} if kept else {"frame_port_not_selected": 1})


# -- nesting ---------------------------------------------------------------------------------------


def tagged(layers: int) -> Outcome:
    """A frame of so many headers, TCP's included."""
    packet = ETHER
    for _ in range(layers - 3):
        packet = packet / Dot1Q(vlan=1)
    return decode([make(packet / INNER)])


def test_as_many_headers_as_allowed() -> None:
    assert len(tagged(MAX_LAYERS).segments) == 1


def test_one_header_more() -> None:
    assert tagged(MAX_LAYERS + 1) == ([], {"frame_too_nested": 1})


@pytest.mark.parametrize(
    "endless",
    [
        bytes(ETHER / Dot1Q())[:12] + bytes.fromhex("81000001") * 16000,
        bytes(ETHER)[:12] + bytes.fromhex("8847") + bytes(65000),  # labels without a bottom of the stack
        bytes(ETHER / IPv6(nh=60, plen=65000)) + bytes.fromhex("3c00010400000000") * 8000,
    ],
    ids=["tags", "labels", "extension headers"],
)
def test_endless_headers_end(endless: bytes) -> None:
    assert decode([make(endless)]) == ([], {"frame_too_nested": 1})


def test_deep_but_real() -> None:
    """A Gateway Load Balancer's GENEVE around a mirror's VXLAN around a tagged IPv6 packet with options."""
    inner = ETHER / Dot1Q() / IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrDestOpt() / INNER6[TCP]
    packet = (
        OUTER
        / UDP(dport=6081)
        / GENEVE(proto=0x0800)
        / IP()
        / UDP(dport=4789)
        / VXLAN(vni=5, flags=8)
        / inner
    )
    ((segment,), _) = decode([make(packet)])
    assert flow_key(segment.route).vni == 5


# -- the ledger ------------------------------------------------------------------------------------


def test_each_frame_is_counted_once() -> None:
    ledger = Ledger()
    decoder = PacketDecoder(ledger)
    assert decoder.feed([]) == []
    decoder.feed([make(ETHER / INNER), make(ETHER / IP() / UDP()), make(b""), make(b"", link=999)])
    tally = {name: n for name, n in ledger.tally.items() if n}
    assert tally == {
        "frames": 4,
        "segments": 1,
        "frame_not_tcp": 1,
        "frame_malformed": 1,
        "frame_link_unknown": 1,
    }
    assert ledger.unbalanced() == []
