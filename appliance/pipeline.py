"""The order of the stages, and nothing else: frames in, exchanges out; exchanges in, messages out.

Contract: pure. The same frames give the same exchanges, however they are batched; the ledger adds up
after every call. Bounds are those of the stages; ``PipelineOptions`` names them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from appliance.decoders.demux import Demux
from appliance.exchange import Pairer
from appliance.ledger import Ledger
from appliance.message import Messages
from appliance.model import NANOSECONDS, Frame, HttpExchange, Message
from appliance.packet.decode import PacketDecoder
from appliance.packet.vni import VniSelection
from appliance.rules.engine import Rules
from appliance.stream.reassembly import Reassembler, StreamLimits


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    vnis: VniSelection | None = None  # None: all
    ports: frozenset[int] | None = None  # None: any
    body_limit: int = 1 << 20  # octets
    flow_idle: int = 600 * NANOSECONDS
    max_flows: int = 100_000
    stream_buffer: int = 4 << 20  # octets
    stream_memory: int = 256 << 20
    gap_wait: int = 10 * NANOSECONDS
    reorder_segments: int = 32
    exchange_memory: int = 256 << 20


class Pipeline:
    def __init__(self, options: PipelineOptions, ledger: Ledger) -> None:
        self.packets = PacketDecoder(ledger, options.vnis, options.ports)
        self.streams = Reassembler(
            ledger,
            StreamLimits(
                options.max_flows,
                options.flow_idle,
                options.stream_buffer,
                options.stream_memory,
                options.gap_wait,
                options.reorder_segments,
            ),
        )
        self.http = Demux(ledger)
        self.pairs = Pairer(ledger, options.body_limit, options.exchange_memory)

    def feed(self, frames: list[Frame]) -> list[HttpExchange]:
        """A batch of frames; the last one's time is now."""
        events = self.streams.feed(self.packets.feed(frames))
        out = self.pairs.feed(self.http.feed(events)) if events else []
        if frames:
            out += self.tick(frames[-1].ts)
        return out

    def tick(self, now: int) -> list[HttpExchange]:
        """Time passes without frames."""
        self.packets.tick(now)
        events = self.streams.tick(now)
        return self.pairs.feed(self.http.feed(events)) if events else []

    def close(self) -> list[HttpExchange]:
        """The capture is over."""
        self.packets.close()
        out = self.pairs.feed(self.http.feed(self.streams.close()))
        return out + self.pairs.close()


@dataclass(frozen=True, slots=True)
class OwnUploads:
    """What tells an upload to our database from everybody else's calls.

    ``agent`` is this process's and nobody else knows it. Another appliance's, or our own from before a
    restart, is told by all of the rest together: two that see each other would feed each other for ever.
    """

    agent: bytes = b""
    product: bytes = b""  # what the agents of all appliances begin with
    host: bytes = b""  # of the database, as in Host, without port
    port: int = 0
    path: bytes = b""

    def is_one(self, exchange: HttpExchange) -> bool:
        request = exchange.request
        if request is None or request.head.start[1] != self.path or request.head.start[0] != b"POST":
            return False  # common case
        found = request.head.get(b"user-agent")
        if found is None or not found.startswith(self.product):
            return False
        server = exchange.flow.key.a if exchange.client else exchange.flow.key.b
        return found == self.agent or (
            (request.head.get(b"host") or b"").lower().removesuffix(b":%d" % self.port) == self.host
            and server.port == self.port
        )


NOBODYS: Final = OwnUploads()


class Publication:
    """From the exchange to what may leave; nothing is written before it has been here."""

    def __init__(
        self, messages: Messages, rules: Rules, ledger: Ledger, host: str, own: OwnUploads = NOBODYS
    ) -> None:
        """``host``: name of this machine."""
        self._messages = messages
        self._rules = rules
        self._tally = ledger.tally
        self._host = ("host", host)
        self._own = own

    def publish(self, exchange: HttpExchange) -> Message | None:
        """What the rules leave of a call; None: nothing, counted by reason."""
        tally = self._tally
        tally["calls"] += 1
        if self._own.is_one(exchange):
            tally["call_own_upload"] += 1
            return None
        message = self._rules.apply(self._rules.with_session(self._messages.make(exchange)))
        if message is not None:
            tally["messages"] += 1
            message.append(self._host)
        return message
