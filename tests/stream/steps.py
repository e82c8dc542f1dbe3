"""A language of steps for reassembly tests: one segment in, the events that must come out of it.

Sequence numbers count from the first octet after SYN, in both directions, so that a table reads like
the conversation; ``base`` shifts them, to put the wrap of 2**32 anywhere.
"""

from __future__ import annotations

from appliance.ledger import Ledger
from appliance.model import ACK, Data, Gap, Segment, StreamEvent, reverse_route
from appliance.stream.reassembly import Reassembler, StreamLimits

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND
CLIENT = bytes([10, 0, 0, 1, 10, 0, 0, 2]) + (40000).to_bytes(2) + (80).to_bytes(2)
SERVER = reverse_route(CLIENT)


class Steps:
    """``c`` and ``s`` send a segment from client or server and return what came out, as text."""

    def __init__(
        self, *, base: int = 5000, limits: StreamLimits | None = None, route: bytes = CLIENT
    ) -> None:
        self.ledger = Ledger()
        self.streams = Reassembler(self.ledger, limits)
        self.events: list[StreamEvent] = []  # all so far
        self.base = base
        self.now = T0
        self.route = route

    def _send(
        self, route: bytes, seq: int, payload: bytes, ack: int | None, flags: int, missing: int, ms: float
    ) -> list[str]:
        self.now += int(ms * 1_000_000)
        number = 0 if ack is None else (self.base + ack) & 0xFFFFFFFF
        if ack is not None:
            flags |= ACK
        seq = (self.base + seq) & 0xFFFFFFFF
        return self.said(self.streams.feed([Segment(route, self.now, seq, number, flags, payload, missing)]))

    def c(
        self,
        seq: int,
        payload: bytes = b"",
        ack: int | None = 0,
        flags: int = 0,
        missing: int = 0,
        ms: float = 1,
    ) -> list[str]:
        return self._send(self.route, seq, payload, ack, flags, missing, ms)

    def s(
        self,
        seq: int,
        payload: bytes = b"",
        ack: int | None = 0,
        flags: int = 0,
        missing: int = 0,
        ms: float = 1,
    ) -> list[str]:
        return self._send(reverse_route(self.route), seq, payload, ack, flags, missing, ms)

    def tick(self, seconds: float) -> list[str]:
        self.now += int(seconds * SECOND)
        return self.said(self.streams.tick(self.now))

    def close(self) -> list[str]:
        return self.said(self.streams.close())

    def said(self, events: list[StreamEvent]) -> list[str]:
        """The events as text; the ledger must add up after each step."""
        self.events += events
        faults = [f for f in self.ledger.unbalanced() if not f.startswith("stream_bytes")]  # no decoder here
        assert faults == []
        return [describe(event) for event in events]

    def open(self) -> Steps:
        """The handshake, which says nothing."""
        from appliance.model import SYN  # noqa: PLC0415

        assert self.c(-1, ack=None, flags=SYN) == []
        assert self.s(-1, ack=0, flags=SYN) == []
        assert self.c(0, ack=0) == []
        return self


def describe(event: StreamEvent) -> str:
    """``c:abc`` octets of the client, ``s~5`` a hole of the server, ``s~5cut`` a truncated packet,
    ``c~?`` joined in the middle, ``c.fin`` the end."""
    who = "cs"[event.side]
    if isinstance(event, Data):
        assert event.payload
        return f"{who}:{event.payload.decode('latin-1')}"
    if isinstance(event, Gap):
        length = "?" if event.length is None else str(event.length)
        return f"{who}~{length}{'cut' if event.truncated else ''}"
    return f"{who}.{event.reason.value}"
