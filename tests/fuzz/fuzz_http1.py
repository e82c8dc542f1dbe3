"""Fuzz target: any octets and holes in both directions of a connection through the HTTP decoders.

Invariants: nothing is raised; every octet is counted once; messages are whole (tests/properties); splitting
the same octets elsewhere gives the same messages where nothing is missing.

    python -m tests.fuzz.fuzz_http1 [atheris options] [corpus]

The input is a first octet (joined in the middle or not), then steps: what (one octet: side, octets or
hole), length (two octets), octets.
"""

from __future__ import annotations

from typing import Final

from appliance.decoders.demux import Demux
from appliance.exchange import Pairer
from appliance.ledger import Ledger
from appliance.model import Data, End, EndReason, Flow, Gap, StreamEvent, flow_key
from tests.fuzz.engine import Cursor, run
from tests.support.run import Call, calls
from tests.support.tcp import Conversation

ROUTE: Final = Conversation().routes[0]
HOLE: Final = 2
CUT: Final = 4


def events(data: bytes, piece: int) -> tuple[list[StreamEvent], bool]:
    """The steps as stream events, octets in pieces of ``piece`` at most; whether a hole is among them."""
    cursor = Cursor(data)
    flow = Flow(flow_key(ROUTE), 1)
    joined = cursor.number() & 1
    at = [1 << 32, 1 << 32] if joined else [0, 0]
    out: list[StreamEvent] = []
    if joined:
        out += [Gap(flow, side, 0, None, at[side], truncated=False) for side in (0, 1)]
    holes = bool(joined)
    while cursor.more():
        what = cursor.number()
        side = what & 1
        length = cursor.number(2)
        if what & HOLE:
            holes = True
            out.append(Gap(flow, side, 0, length + 1, at[side], bool(what & CUT)))
            at[side] += length + 1
            continue
        octets = cursor.take(length)
        for start in range(0, len(octets), piece):
            part = octets[start : start + piece]
            out.append(Data(flow, side, 0, part, at[side], at[1 - side]))
            at[side] += len(part)
    out += [End(flow, side, 0, EndReason.FIN) for side in (0, 1)]
    return out, holes


def decode(some: list[StreamEvent]) -> list[Call]:
    ledger = Ledger()
    demux, pairs = Demux(ledger), Pairer(ledger)
    found = []
    for event in some:
        if isinstance(event, Data):
            ledger.count("stream_bytes", len(event.payload))
        found += pairs.feed(demux.feed([event]))
        faults = [f for f in ledger.unbalanced() if not f.startswith(("frames", "segment_bytes", "flows"))]
        assert faults == []
    assert pairs.close() == []
    for name in ("http_held_bytes", "probe_held_bytes", "exchange_open"):
        assert ledger.tally[name] == 0
    return calls(found)


def one_input(data: bytes) -> None:
    """Hold the invariants against one input; AssertionError where they do not."""
    whole, holes = events(data, 1 << 16)
    want = decode(whole)
    split, _ = events(data, 3)
    got = decode(split)
    if not holes:
        assert got == want


if __name__ == "__main__":
    run(one_input)
