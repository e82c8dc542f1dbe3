"""Fuzz target: any TCP segments through reassembly, decoders and pairing.

Invariants: nothing is raised; per direction ``(Data | Gap)* End``; one exchange per request; the ledger
adds up after every segment and nothing is held at the end.

    python -m tests.fuzz.fuzz_stream [atheris options] [corpus]

The input is a list of segments: what (one octet: side, flow, kind of flags), delay (one octet, 0.1 s),
sequence and acknowledgment number (two octets each, of 64 Ki around the wrap), missing and length (one
octet each), octets.
"""

from __future__ import annotations

from typing import Final

from appliance.model import ACK, FIN, PSH, RST, SYN, Segment
from appliance.stream.reassembly import StreamLimits
from tests.fuzz.engine import Cursor, run
from tests.support.run import Stages
from tests.support.tcp import Conversation

FLAGS: Final = (ACK, ACK | PSH, SYN, SYN | ACK, FIN | ACK, RST, RST | ACK, 0xFF)
ROUTES: Final = [Conversation(vni=vni).routes for vni in (None, 7)]
MASK: Final = 0xFFFFFFFF
TENTH: Final = 100_000_000
LIMITS: Final = StreamLimits(max_flows=1, stream_buffer=4000, stream_memory=6000, flow_idle=60 * 10 * TENTH)


def segments(data: bytes) -> list[Segment]:
    cursor = Cursor(data)
    out = []
    ts = 0
    while cursor.more():
        what = cursor.number()
        ts += cursor.number() * TENTH
        seq, ack = (cursor.number(2) - 0x8000 & MASK for _ in range(2))
        missing = cursor.number() & 3
        payload = cursor.take(cursor.number())
        flags = FLAGS[what >> 2 & 7]
        out.append(Segment(ROUTES[what >> 1 & 1][what & 1], ts, seq, ack, flags, payload, missing))
    return out


def one_input(data: bytes) -> None:
    """Hold the invariants against one input; AssertionError where they do not."""
    stages = Stages(LIMITS, body_limit=50)
    found = []
    for segment in segments(data):
        found += stages.feed([segment])
        found += stages.pairs.feed(stages.http.feed(stages.streams.tick(segment.ts)))
        assert stages.streams._cost < LIMITS.stream_memory + 3 * 1024
    found += stages.close()
    tally = stages.ledger.tally
    assert len(found) == tally["exchanges"]
    assert tally["requests"] == sum(x.request is not None for x in found)
    assert tally["responses"] == sum(x.response is not None for x in found)


if __name__ == "__main__":
    run(one_input)
