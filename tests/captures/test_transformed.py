"""What a capture may do to packets without changing what was said, tried on the real captures."""

from __future__ import annotations

import random

import pytest

from appliance.ledger import Ledger
from appliance.model import Segment
from appliance.packet.decode import PacketDecoder
from appliance.sources.pcap import CaptureFiles
from tests.captures.test_captures import MANIFEST, SHARED
from tests.support import tcp
from tests.support.run import exchanges

WINDOW = 8
SEEDS = 3
# Captures in which the order of the packets is itself the evidence, with the reason.
ORDER_MATTERS = {
    "arkime-gre-erspan-vxlan": "its acknowledgment numbers belong to another capture: they prove nothing",
}
ENTRIES = [e for e in MANIFEST if e["match_level"] in {"exact", "requests_exact"}]


def segments(name: str) -> list[Segment]:
    entry = next(e for e in MANIFEST if e["name"] == name)
    decoder = PacketDecoder(Ledger())
    return [s for frames in CaptureFiles([str(SHARED / entry["file"])]) for s in decoder.feed(frames)]


def near(some: list[Segment], dice: random.Random) -> list[Segment]:
    """Shuffled among neighbours that are less than a second apart: a mirror reorders by milliseconds."""
    out: list[Segment] = []
    run: list[Segment] = []
    for seg in some:
        if run and seg.ts - run[0].ts > 1_000 * tcp.MS:
            out += tcp.shuffle_within(run, WINDOW, dice)
            run = []
        run.append(seg)
    return out + tcp.shuffle_within(run, WINDOW, dice)


@pytest.mark.skipif(not MANIFEST, reason="THE CAPTURES ARE NOT HERE: nothing of this file is tested")
@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("name", [e["name"] for e in ENTRIES])
def test_cut_twice_or_shuffled_says_the_same(name: str, seed: int) -> None:
    dice = random.Random(f"{name}{seed}")
    some = segments(name)
    want = exchanges(some)
    assert exchanges(some, batch=7) == want, "in other batches"
    assert exchanges(tcp.split(some, dice)) == want, "cut"
    assert exchanges(tcp.duplicate(some, dice)) == want, "twice"
    assert exchanges(near(some, dice)) == want, "shuffled"
    if name not in ORDER_MATTERS:
        assert exchanges(near(tcp.split(some, dice), dice)) == want, "cut and shuffled"
