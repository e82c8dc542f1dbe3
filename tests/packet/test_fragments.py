"""Fragments: put together right, refused by name, and never more held than allowed."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, fragment6
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from appliance.ledger import Ledger
from appliance.model import NANOSECONDS, Frame
from appliance.packet.cursor import (
    CUT,
    FRAGMENT_DUPLICATE,
    FRAGMENT_EVICTED,
    FRAGMENT_HELD,
    FRAGMENT_MALFORMED,
    PROTOCOL,
    Cursor,
)
from appliance.packet.decode import PacketDecoder
from appliance.packet.fragments import OVERHEAD, FragmentBuffer, FragmentLimits
from appliance.packet.vni import VniSelection
from tests.packet.frames import ETHER, decode, make

WHOLE = PROTOCOL + 6  # the cursor is at the datagram, TCP is inside
V4, V6 = b"4" * 8, b"6" * 32
S = NANOSECONDS


class Bench:
    """A buffer, and fragments put in by hand."""

    def __init__(self, limits: FragmentLimits | None = None) -> None:
        self.ledger = Ledger()
        self.buffer = FragmentBuffer(self.ledger, limits or FragmentLimits())
        self.cursor = Cursor()

    def put(
        self,
        start: int,
        octets: bytes,
        more: bool,
        *,
        ts: int = 0,
        ident: int = 1,
        addresses: bytes = V4,
        vni: bytes = b"",
        protocol: int = 6,
        wire: int = 0,
    ) -> int:
        cursor = self.cursor
        cursor.start(b"head" + octets, 4 + (wire or len(octets)), ts)
        cursor.offset = 4
        cursor.addresses = addresses
        cursor.vni = vni
        cursor.piece.start = start
        cursor.piece.more = more
        cursor.piece.identification = ident
        cursor.piece.protocol = protocol
        return self.buffer.add(cursor)

    def whole(self) -> bytes:
        """The datagram after the code of what comes next."""
        assert self.cursor.offset == 0
        assert self.cursor.limit == len(self.cursor.data)
        return self.cursor.data

    def tally(self) -> dict[str, int]:
        return {name: n for name, n in self.ledger.tally.items() if n}


A, B, C = b"A" * 8, b"B" * 8, b"C" * 8
BOTH = pytest.mark.parametrize("addresses", [V4, V6], ids=["IPv4", "IPv6"])

# (name, [(start, octets, more, verdict), ...], the datagram); the verdict of the last step is what came out.
STEPS: list[tuple[str, list[tuple[int, bytes, bool, int]], bytes]] = [
    ("in order", [(0, A, True, FRAGMENT_HELD), (8, B, False, WHOLE)], A + B),
    ("last first", [(8, B, False, FRAGMENT_HELD), (0, A, True, WHOLE)], A + B),
    (
        "middle last",
        [(16, b"end", False, FRAGMENT_HELD), (0, A, True, FRAGMENT_HELD), (8, B, True, WHOLE)],
        A + B + b"end",
    ),
    (
        "duplicates",
        [
            (0, A, True, FRAGMENT_HELD),
            (0, A, True, FRAGMENT_DUPLICATE),
            (16, C, False, FRAGMENT_HELD),
            (16, C, False, FRAGMENT_DUPLICATE),
            (8, B, True, WHOLE),
        ],
        A + B + C,
    ),
    (
        "a copy after completion",
        [
            (0, A, True, FRAGMENT_HELD),
            (8, B, False, WHOLE),
            (8, B, False, FRAGMENT_DUPLICATE),
            (0, A, True, FRAGMENT_DUPLICATE),
        ],
        b"",
    ),
    ("octets beyond the end", [(8, B, False, FRAGMENT_HELD), (16, C, True, FRAGMENT_MALFORMED)], b""),
    ("more where the end is", [(8, B, False, FRAGMENT_HELD), (8, B, True, FRAGMENT_MALFORMED)], b""),
    ("the end before octets", [(16, C, True, FRAGMENT_HELD), (8, B, False, FRAGMENT_MALFORMED)], b""),
    ("the end where more is", [(8, B, True, FRAGMENT_HELD), (8, B, False, FRAGMENT_MALFORMED)], b""),
    ("a shorter end", [(8, B + C, False, FRAGMENT_HELD), (8, B, False, FRAGMENT_MALFORMED)], b""),
    ("a longer end", [(8, B, False, FRAGMENT_HELD), (8, B + C, False, FRAGMENT_MALFORMED)], b""),
    (
        "nothing comes of a contradiction later",
        [
            (8, B, False, FRAGMENT_HELD),
            (16, C, True, FRAGMENT_MALFORMED),
            (0, A, True, FRAGMENT_MALFORMED),
            (8, B, False, FRAGMENT_MALFORMED),
        ],
        b"",
    ),
    ("7 octets and more", [(0, A[:7], True, FRAGMENT_MALFORMED)], b""),
    ("no octets", [(8, b"", False, FRAGMENT_MALFORMED), (8, b"", True, FRAGMENT_MALFORMED)], b""),
    ("beyond 65,535", [(65528, A, False, FRAGMENT_MALFORMED)], b""),
    ("up to 65,535", [(65528, A[:7], False, FRAGMENT_HELD)], b""),
]


@BOTH
@pytest.mark.parametrize(("steps", "datagram"), [s[1:] for s in STEPS], ids=[s[0] for s in STEPS])
def test_step_by_step(steps: list[tuple[int, bytes, bool, int]], datagram: bytes, addresses: bytes) -> None:
    bench = Bench()
    for start, octets, more, verdict in steps:
        assert bench.put(start, octets, more, addresses=addresses) == verdict
    if datagram:
        assert bench.whole() == datagram


OVERLAPS = [
    ("tail", [(0, A + B, True), (8, C + C, False)], A + B + C),
    ("head", [(8, B + B, False), (0, A + A, True)], A + B + B),
    ("around", [(8, B, True), (0, C + C + C, True), (24, b"z", False)], C + B + C + b"z"),
    ("inside, and the end", [(0, A + A, True), (8, B + b"!", False)], A + A + b"!"),
]


@pytest.mark.parametrize(("pieces", "datagram"), [o[1:] for o in OVERLAPS], ids=[o[0] for o in OVERLAPS])
def test_overlap_in_ipv4_the_first_copy_wins(pieces: list[tuple[int, bytes, bool]], datagram: bytes) -> None:
    bench = Bench()
    codes = [bench.put(*piece) for piece in pieces]
    assert codes == [FRAGMENT_HELD] * (len(pieces) - 1) + [WHOLE]
    assert bench.whole() == datagram


@pytest.mark.parametrize("pieces", [o[1] for o in OVERLAPS], ids=[o[0] for o in OVERLAPS])
def test_overlap_in_ipv6_gives_the_datagram_up(pieces: list[tuple[int, bytes, bool]]) -> None:
    bench = Bench()
    codes = [bench.put(*piece, addresses=V6) for piece in pieces]
    assert FRAGMENT_MALFORMED in codes
    assert WHOLE not in codes
    # RFC 5722: and whatever comes of it later, until another datagram may bear its identification.
    assert bench.put(0, A, True, addresses=V6, ts=30 * S) == FRAGMENT_MALFORMED
    assert bench.put(0, A, True, addresses=V6, ts=30 * S + 1) == FRAGMENT_HELD


def test_same_place_other_octets_in_ipv6_is_no_duplicate() -> None:
    bench = Bench()
    bench.put(0, A, True, addresses=V6)
    assert bench.put(0, B, True, addresses=V6) == FRAGMENT_MALFORMED


@pytest.mark.parametrize(
    "other",
    [{"ident": 2}, {"addresses": b"4" * 7 + b"5"}, {"vni": b"\0\0\0"}, {"protocol": 17}, {"addresses": V6}],
)
def test_fragments_of_different_datagrams_stay_apart(other: dict[str, int | bytes]) -> None:
    bench = Bench()
    bench.put(0, A, True)
    assert bench.put(8, B, False, **other) == FRAGMENT_HELD  # type: ignore[arg-type]
    assert bench.put(8, C, False) == WHOLE
    assert bench.whole() == A + C


def test_in_ipv6_the_first_fragment_says_what_is_inside() -> None:
    bench = Bench()
    assert bench.put(8, B, False, addresses=V6, protocol=59) == FRAGMENT_HELD
    assert bench.put(0, A, True, addresses=V6, protocol=17) == PROTOCOL + 17


class TestCut:
    """By the capture's snap length."""

    def test_a_hole_in_the_middle_is_never_filled(self) -> None:
        bench = Bench()
        assert bench.put(0, A[:4], True, wire=8) == CUT
        assert bench.tally() == {}

    def test_the_end_of_the_last_one_is_missing(self) -> None:
        bench = Bench()
        bench.put(0, A, True)
        assert bench.put(8, B[:3], False, wire=20) == WHOLE
        assert (bench.whole(), bench.cursor.end) == (A + B[:3], 28)

    def test_a_cut_last_one_first(self) -> None:
        bench = Bench()
        assert bench.put(8, b"", False, wire=20) == FRAGMENT_HELD
        assert bench.put(0, A, True) == WHOLE
        assert (bench.whole(), bench.cursor.end) == (A, 28)

    def test_a_full_copy_of_the_last_one_does_not_hide_a_hole(self) -> None:
        bench = Bench()
        bench.put(16, C[:4], False, wire=12)
        bench.put(16, C + b"full", False)  # 8 octets more than the first copy has: as many as are missing
        assert bench.put(0, A, True) == FRAGMENT_HELD
        assert bench.put(8, B, True) == WHOLE
        assert bench.whole() == A + B + C + b"full"


class TestTime:
    def test_held_for_the_age_and_no_longer(self) -> None:
        bench = Bench()
        bench.put(0, A, True, ts=5)
        bench.buffer.tick(5 + 30 * S)
        assert bench.tally() == {"fragment_held": 1}
        bench.buffer.tick(6 + 30 * S)
        assert bench.tally() == {"fragment_expired": 1}

    def test_an_identification_used_again_needs_no_tick(self) -> None:
        bench = Bench()
        bench.put(0, A, True, ts=5)
        assert bench.put(8, B, False, ts=6 + 30 * S) == FRAGMENT_HELD
        assert bench.tally() == {"fragment_expired": 1, "fragment_held": 1}

    def test_repetition_is_over_after_a_second(self) -> None:
        bench = Bench()
        bench.put(0, A, True)
        bench.put(8, B, False)
        assert bench.put(0, A, True, ts=S) == FRAGMENT_DUPLICATE
        assert bench.put(0, A, True, ts=S + 1) == FRAGMENT_HELD

    def test_another_datagram_with_the_same_identification_is_no_repetition(self) -> None:
        bench = Bench()
        bench.put(0, A, True)
        bench.put(8, B, False)
        assert bench.put(0, B, True, ts=S // 10) == FRAGMENT_HELD
        assert bench.tally()["fragment_held"] == 1

    def test_the_end_of_the_capture(self) -> None:
        bench = Bench()
        for ident in range(3):
            bench.put(0, A, True, ident=ident)
        bench.buffer.close()
        assert bench.tally() == {"fragment_expired": 3}
        bench.buffer.close()
        assert bench.tally() == {"fragment_expired": 3}


class TestLimits:
    LIMITS = FragmentLimits(octets=1 << 20, datagrams=100, fragments=10)

    def test_datagrams_the_first_begun_goes_first(self) -> None:
        bench = Bench(self.LIMITS)
        for ident in range(100):
            bench.put(0, A, True, ident=ident)
        bench.put(8, B, True, ident=0)
        assert bench.tally() == {"fragment_held": 101}
        bench.put(0, A, True, ident=100)
        assert bench.tally() == {"fragment_held": 99 + 1, "fragment_evicted": 2}
        assert bench.put(8, B, False, ident=1) == WHOLE

    def test_fragments_of_one_datagram(self) -> None:
        bench = Bench(self.LIMITS)
        for n in range(10):
            assert bench.put(n * 8, A, True) == FRAGMENT_HELD
        assert bench.put(80, A, True) == FRAGMENT_EVICTED
        assert bench.tally() == {"fragment_evicted": 10}  # the eleventh is the caller's to count
        assert bench.put(88, A, False) == FRAGMENT_EVICTED

    def test_as_many_fragments_as_allowed_and_the_one_that_completes(self) -> None:
        bench = Bench(self.LIMITS)
        for n in range(10):
            bench.put(n * 8, A, True)
        assert bench.put(80, B, False) == WHOLE

    def test_octets(self) -> None:
        limits = replace(self.LIMITS, octets=10 * (800 + 2 * OVERHEAD))
        bench = Bench(limits)
        for ident in range(10):
            bench.put(0, A * 100, True, ident=ident)
        assert bench.tally() == {"fragment_held": 10}
        bench.put(0, A * 100, True, ident=10)
        assert bench.tally() == {"fragment_held": 10, "fragment_evicted": 1}

    def test_a_datagram_larger_than_the_limit_is_given_up(self) -> None:
        bench = Bench(replace(self.LIMITS, octets=2 * OVERHEAD))
        assert bench.put(0, A, True) == FRAGMENT_HELD
        assert bench.tally() == {"fragment_evicted": 1}

    def test_memory_stays_within_the_octets_charged(self) -> None:
        """The smallest fragments, each of another datagram and then all of few, cost what is charged."""
        limits = FragmentLimits(octets=1 << 20, datagrams=1 << 20, fragments=1 << 20)
        for fragments_each in (1, 100):
            tracemalloc.start()
            bench = Bench(limits)
            for n in range(12_000):
                bench.put(n % fragments_each * 16, bytes(8), True, ident=n // fragments_each)
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert bench.tally()["fragment_evicted"]
            assert held < limits.octets


class TestThroughTheDecoder:
    SEGMENT = TCP(sport=1000, dport=80, flags="PA", seq=9) / Raw(bytes(range(256)) * 4)

    def datagram(self, n: int = 0) -> Packet:
        return ETHER / IP(src="10.0.0.1", dst="10.0.0.2", id=n) / self.SEGMENT

    def frames(self, n: int = 0) -> list[Frame]:
        return [make(f, ts=i) for i, f in enumerate(fragment(self.datagram(n), 200))]

    def test_ipv4(self) -> None:
        frames = self.frames()
        ((segment,), reasons) = decode(frames)
        assert segment.payload == self.SEGMENT[Raw].load
        assert (segment.seq, segment.missing) == (9, 0)
        assert segment.ts == len(frames) - 1  # of the fragment that completed it
        assert reasons == {"fragment_merged": len(frames) - 1}

    def test_ipv6_behind_an_extension_header(self) -> None:
        packet = (
            IPv6(src="fd00::1", dst="fd00::2")
            / IPv6ExtHdrHopByHop()
            / IPv6ExtHdrFragment(id=7)
            / self.SEGMENT
        )
        frames = [make(ETHER / f) for f in fragment6(packet, 300)]
        ((segment,), reasons) = decode(frames[::-1])
        assert segment.payload == self.SEGMENT[Raw].load
        assert reasons == {"fragment_merged": len(frames) - 1}

    def test_inside_a_tunnel(self) -> None:
        outer = ETHER / IP() / UDP(dport=4789)
        frames = [
            make(outer / VXLAN(vni=vni, flags=8) / f)
            for f in fragment(self.datagram(), 600)
            for vni in (1, 2)
        ]
        segments, reasons = decode(frames)
        assert [s.route[-3:] for s in segments] == [b"\0\0\1", b"\0\0\2"]
        assert [s.payload for s in segments] == [self.SEGMENT[Raw].load] * 2
        assert reasons == {"fragment_merged": 2}

    def test_of_the_tunnel_itself(self) -> None:
        datagram = ETHER / IP() / UDP(dport=4789) / VXLAN(vni=3, flags=8) / self.datagram()
        ((segment,), reasons) = decode([make(f) for f in fragment(datagram, 600)])
        assert segment.payload == self.SEGMENT[Raw].load
        assert segment.route[-3:] == b"\0\0\3"
        assert reasons == {"fragment_merged": 1}

    def test_of_fragments(self) -> None:
        """A datagram in pieces, in a tunnel whose datagrams are in pieces."""
        outer = IP(src="192.0.2.1", dst="192.0.2.2") / UDP(dport=4789) / VXLAN(vni=3, flags=8)
        frames = []
        for n, inner in enumerate(fragment(self.datagram(), 600)):
            packet = ETHER / outer / inner
            packet[IP].id = n
            frames += [make(f) for f in fragment(packet, 400)]
        ((segment,), reasons) = decode(frames)
        assert segment.payload == self.SEGMENT[Raw].load
        assert reasons == {"fragment_merged": len(frames) - 1}

    def test_of_what_is_not_tcp_counts_once_as_that(self) -> None:
        datagram = ETHER / IP() / UDP(dport=53) / Raw(bytes(1000))
        assert decode([make(f) for f in fragment(datagram, 400)]) == (
            [],
            {"frame_not_tcp": 1, "fragment_merged": 2},
        )

    def test_the_snap_length_cuts_the_last_one(self) -> None:
        frames = self.frames()
        last = frames[-1]
        frames[-1] = Frame(last.ts, last.data[:-10], last.wire_length, last.link)
        ((segment,), _) = decode(frames)
        assert (segment.payload, segment.missing) == (self.SEGMENT[Raw].load[:-10], 10)

    def test_of_a_vni_that_is_not_selected_are_not_held(self) -> None:
        frames = [
            make(ETHER / IP() / UDP(dport=4789) / VXLAN(vni=1, flags=8) / f)
            for f in fragment(self.datagram(), 600)
        ]
        assert decode(frames, vnis=VniSelection.parse("2")) == ([], {"frame_vni_not_selected": 2})

    def test_expiry_and_the_end_through_the_decoder(self) -> None:
        ledger = Ledger()
        decoder = PacketDecoder(ledger)
        first, second = self.frames(1)[0], self.frames(2)[0]
        second.ts = 20 * S
        decoder.feed([first, second])
        decoder.tick(30 * S + 1)
        assert (ledger.tally["fragment_held"], ledger.tally["fragment_expired"]) == (1, 1)
        assert ledger.unbalanced() == []
        decoder.close()
        assert (ledger.tally["fragment_held"], ledger.tally["fragment_expired"]) == (0, 2)
        assert ledger.unbalanced() == []


@given(st.data())
def test_any_cutting_order_and_overlap_gives_what_an_octet_by_octet_reader_gets(data: st.DataObject) -> None:
    """IPv4: ranges of a datagram, each copy with octets of its own, until all are there."""
    units = data.draw(st.integers(2, 6))
    length = 8 * units - data.draw(st.integers(0, 7))
    bench = Bench()
    expected: dict[int, int] = {}
    end_seen = False
    for copy in range(1, 13):
        first = data.draw(st.integers(0, units - 1))
        last = data.draw(st.integers(first + 1, units if first else units - 1))
        start, end = 8 * first, min(8 * last, length)
        new = any(at not in expected for at in range(start, end)) or (end == length and not end_seen)
        for at in range(start, end):
            expected.setdefault(at, copy)
        end_seen = end_seen or end == length
        code = bench.put(start, bytes([copy]) * (end - start), end < length)
        if end_seen and len(expected) == length:
            assert code == WHOLE
            assert bench.whole() == bytes(expected[at] for at in range(length))
            assert bench.ledger.tally["fragment_held"] == 0
            return
        assert code == (FRAGMENT_HELD if new else FRAGMENT_DUPLICATE)


PIECES = st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans(), st.integers(0, 2), st.booleans())


@given(st.lists(PIECES, max_size=40), st.sampled_from([V4, V6]))
def test_no_datagram_has_a_length_that_its_fragments_do_not_agree_on(
    pieces: list[tuple[int, int, bool, int, bool]], addresses: bytes
) -> None:
    """Fragments at random, contradictions included: what comes out is consistent, the tally is exact."""
    bench = Bench(FragmentLimits(datagrams=2, fragments=4))
    counted = 0
    ends: dict[int, set[int]] = {}
    for start, units, more, ident, odd in pieces:
        octets = bytes([start]) * (8 * units + odd)
        code = bench.put(8 * start, octets, more, ident=ident, addresses=addresses)
        if not more:
            ends.setdefault(ident, set()).add(8 * start + len(octets))
        counted += code == FRAGMENT_HELD
        if code == WHOLE:
            assert bench.cursor.end == len(bench.whole())
            assert len(bench.whole()) in ends[ident]
        assert sum(bench.ledger.tally.values()) == counted
        assert min(bench.ledger.tally.values()) >= 0
