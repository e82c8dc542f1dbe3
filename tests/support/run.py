"""Segments through the stages behind the packet decoder, the ledger held to its identities all the way."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.decoders.demux import Demux
from appliance.exchange import Pairer
from appliance.ledger import Ledger
from appliance.model import HttpExchange, HttpMessage, Segment
from appliance.stream.reassembly import Reassembler, StreamLimits


class Stages:
    def __init__(
        self, limits: StreamLimits | None = None, body_limit: int = 1 << 20, memory: int = 256 << 20
    ):
        self.ledger = Ledger()
        self.streams = Reassembler(self.ledger, limits)
        self.http = Demux(self.ledger)
        self.pairs = Pairer(self.ledger, body_limit, memory)

    def feed(self, segments: list[Segment]) -> list[HttpExchange]:
        out = self.pairs.feed(self.http.feed(self.streams.feed(segments)))
        assert self.ledger.unbalanced() == []
        return out

    def close(self) -> list[HttpExchange]:
        out = self.pairs.feed(self.http.feed(self.streams.close())) + self.pairs.close()
        assert self.ledger.unbalanced() == []
        assert self.ledger.tally["exchange_evicted"] == 0  # every decoder has ended what it began
        for name in (
            "flow_open",
            "segment_held_bytes",
            "http_held_bytes",
            "probe_held_bytes",
            "exchange_open",
        ):
            assert self.ledger.tally[name] == 0, name
        return out


@dataclass(frozen=True)
class Side:
    start: tuple[bytes, ...]
    fields: tuple[tuple[str, str], ...]
    body: str | None
    length: int
    complete: bool


@dataclass(frozen=True)
class Call:
    """An exchange without what a capture may change: times."""

    connection: tuple[object, ...]
    request: Side | None
    response: Side | None
    interim: tuple[int, ...]
    flaws: tuple[str, ...]


def exchanges(segments: list[Segment], batch: int = 0) -> list[Call]:
    """All calls, sorted by connection, in order within each."""
    stages = Stages()
    found = []
    step = batch or len(segments) or 1
    for at in range(0, len(segments), step):
        found += stages.feed(segments[at : at + step])
    found += stages.close()
    return calls(found)


def calls(found: list[HttpExchange]) -> list[Call]:
    return sorted((_call(x) for x in found), key=lambda call: call.connection[:-1])


def _call(x: HttpExchange) -> Call:
    key = x.flow.key
    client, server = (key.a, key.b) if x.client == 0 else (key.b, key.a)
    connection = (key.vni or -1, client, server, None)
    return Call(connection, _side(x.request), _side(x.response), tuple(x.interim), tuple(sorted(x.flaws)))


def _side(side: HttpMessage | None) -> Side | None:
    if side is None:
        return None
    content = side.content
    return Side(side.head.start, tuple(side.head.texts()), content.sha256(), content.length, content.complete)
