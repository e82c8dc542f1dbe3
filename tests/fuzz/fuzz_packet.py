"""Fuzz target: any octets through the packet decoder, both ways.

Invariants: nothing is raised, both ways give the same segments, every frame is counted once.

    python -m tests.fuzz.fuzz_packet [atheris options] [corpus]

The input is a list of frames: link type (an index), milliseconds since the frame before (one octet),
octets cut off (one octet), length (two octets, big end first), octets.
"""

from __future__ import annotations

from typing import Final

from appliance.ledger import Ledger
from appliance.model import Frame, Segment
from appliance.packet.decode import PacketDecoder
from appliance.packet.fragments import FragmentLimits
from appliance.packet.vni import VniSelection
from tests.fuzz.engine import run

LINKS: Final = (1, 0, 12, 101, 108, 113, 228, 229, 276, 999)
LIMITS: Final = FragmentLimits(octets=20_000, datagrams=8, fragments=8)
MILLISECONDS: Final = 1_000_000
HEAD: Final = 5


def frames(data: bytes) -> list[Frame]:
    """The frames that an input describes."""
    out = []
    ts = 0
    while len(data) >= HEAD:
        link, delay, cut, length = data[0], data[1], data[2], int.from_bytes(data[3:HEAD])
        octets = data[HEAD : HEAD + length]
        data = data[HEAD + length :]
        ts += delay * 100 * MILLISECONDS
        out.append(Frame(ts, octets, len(octets) + cut, LINKS[link % len(LINKS)]))
    return out


def values(segments: list[Segment]) -> list[tuple[object, ...]]:
    return [(s.route, s.ts, s.seq, s.ack, s.flags, s.payload, s.missing) for s in segments]


def one_input(data: bytes) -> None:
    """Hold the invariants against one input; AssertionError where they do not."""
    captured = frames(data)
    ledger, other = Ledger(), Ledger()
    decoder = PacketDecoder(ledger, VniSelection.parse("-7"), limits=LIMITS)
    walker = PacketDecoder(other, VniSelection.parse("-7"), limits=LIMITS)
    segments = decoder.feed(captured)
    walked = [s for s in map(walker.walk, captured) if s is not None]
    assert values(segments) == values(walked)
    assert ledger.unbalanced() == []
    other.count("frames", len(captured))
    other.count("segments", len(walked))
    assert ledger.tally == other.tally
    for segment in segments:
        assert len(segment.route) in {12, 15, 36, 39}
        assert segment.missing >= 0
    decoder.tick(captured[-1].ts if captured else 0)
    assert ledger.unbalanced() == []
    decoder.close()
    assert ledger.unbalanced() == []
    assert ledger.tally["fragment_held"] == 0


if __name__ == "__main__":
    run(one_input)
