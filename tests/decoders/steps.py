"""A language of steps for decoder tests: stream events in, the HTTP events that must come out of them.

What comes out is text: ``1>GET /`` a request's head and ``1<200`` a response's (``1<(100)`` an interim one),
``1>:abc`` octets of a body, ``1>~`` a hole behind which it goes on, ``1>.`` the end of a message and ``1<!``
the end of one that is not whole, each with its flaws behind it. The number is the exchange's.
"""

from __future__ import annotations

from appliance.decoders.demux import Demux
from appliance.ledger import Ledger
from appliance.model import (
    REQUEST,
    Body,
    Data,
    End,
    EndOfMessage,
    EndReason,
    Flow,
    Gap,
    HttpEvent,
    Missing,
    Request,
    Response,
    StreamEvent,
    flow_key,
)

JOINED = 1 << 32
ROUTE = bytes([10, 0, 0, 1, 10, 0, 0, 2]) + (40000).to_bytes(2) + (80).to_bytes(2)


class Steps:
    """``c`` and ``s`` hand over octets of the client and of the server, as side 0 and side 1."""

    def __init__(self, *, joined: bool = False) -> None:
        self.ledger = Ledger()
        self.demux = Demux(self.ledger)
        self.flow = Flow(flow_key(ROUTE), 1)
        self.place = [0, 0]  # position in each direction
        self.ts = 0
        if joined:
            self.place = [JOINED, JOINED]
            for side in (0, 1):
                self._feed(Gap(self.flow, side, 0, None, JOINED, truncated=False))

    def c(self, octets: bytes, acked: int | None = None) -> list[str]:
        return self.say(0, octets, acked)

    def s(self, octets: bytes, acked: int | None = None) -> list[str]:
        return self.say(1, octets, acked)

    def say(self, side: int, octets: bytes, acked: int | None = None) -> list[str]:
        """``acked``: what the sender had of the other side; all, where it is not given."""
        self.ts += 1
        if acked is None:
            acked = self.place[1 - side]
        event = Data(self.flow, side, self.ts, octets, self.place[side], acked)
        self.place[side] += len(octets)
        self.ledger.count("stream_bytes", len(octets))
        return self._feed(event)

    def gap(self, side: int, length: int, *, truncated: bool = False) -> list[str]:
        self.ts += 1
        event = Gap(self.flow, side, self.ts, length, self.place[side], truncated)
        self.place[side] += length
        return self._feed(event)

    def end(self, side: int, reason: EndReason = EndReason.FIN) -> list[str]:
        return self._feed(End(self.flow, side, self.ts, reason))

    def close(self, reason: EndReason = EndReason.FIN) -> list[str]:
        """Both directions end, the client's first; nothing is held any more."""
        out = self.end(0, reason) + self.end(1, reason)
        assert self.count("http_held_bytes") == self.count("probe_held_bytes") == 0
        return out

    def count(self, name: str) -> int:
        return self.ledger.tally[name]

    def _feed(self, event: StreamEvent) -> list[str]:
        out = self.demux.feed([event])
        faults = [f for f in self.ledger.unbalanced() if f.startswith(("stream_bytes", "http_held"))]
        assert faults == []
        return [describe(e) for e in out]


def describe(event: HttpEvent) -> str:
    if isinstance(event, Request):
        head = event.head
        return f"{event.stream}>{head.start[0].decode()} {head.start[1].decode()}"
    if isinstance(event, Response):
        return f"{event.stream}<({event.status})" if event.interim else f"{event.stream}<{event.status}"
    who = f"{event.stream}{'>' if event.kind == REQUEST else '<'}"
    if isinstance(event, Body):
        return f"{who}:{event.data.decode('latin-1')}"
    if isinstance(event, Missing):
        return f"{who}~"
    assert isinstance(event, EndOfMessage)
    return " ".join([who + (".!"[not event.complete]), *event.flaws])


def merged(said: list[str]) -> list[str]:
    """Neighbouring pieces of one body as one, so that it does not matter where it was cut."""
    out: list[str] = []
    for text in said:
        who = text[:3]
        if who[2:] == ":" and out and out[-1].startswith(who):
            out[-1] += text[3:]
        else:
            out.append(text)
    return out
