"""StreamEvent -> HttpEvent for all connections: finds out what each speaks and hands it to a decoder.

Contract: one decoder a connection, chosen by content on any port, once; what speaks no HTTP stays silent
and is counted by kind. A connection joined in the middle, or with a hole at its start, is looked at again
where a message may start: at its first octet and where the other side proves a boundary by
acknowledging exactly up to it. What passed until then is ``http_unframed_bytes``, or ``other_bytes`` if
nothing is ever recognised.

Bounds: octets held until a connection is recognised, ``PREFIX_LIMIT`` a direction and ``PROBE_MEMORY``
in all, each event charged ``OVERHEAD``; beyond, the connection counts as other.

A new protocol: a row in ``KINDS`` and a FlowDecoder in a file of its own.
"""

from __future__ import annotations

import heapq
from typing import Final

from appliance.decoders.base import FlowDecoder
from appliance.decoders.http1.conversation import Conversation
from appliance.decoders.http1.head import is_whole_start
from appliance.decoders.http1.shared import Shared
from appliance.decoders.proxy import MORE, proxy_header
from appliance.decoders.recognise import (
    HTTP1_REQUEST,
    HTTP1_RESPONSE,
    HTTP2,
    OTHER,
    PREFIX_LIMIT,
    SSH,
    TLS,
    recognise,
)
from appliance.ledger import Ledger
from appliance.model import REQUEST, RESPONSE, Data, End, Flow, Gap, HttpEvent, StreamEvent

PROBE_MEMORY: Final = 64 << 20
OVERHEAD: Final = 256  # octets that an event costs besides its payload
PROBE_AT_ONCE: Final = 1024  # octets that are looked at whenever more come; then only at line ends

SIDES_OF: Final = {HTTP1_REQUEST: REQUEST, HTTP1_RESPONSE: RESPONSE}
KINDS: Final = {TLS: "tls", SSH: "ssh", HTTP2: "http2", OTHER: "other"}


class _Side:
    """What a probe knows of one direction."""

    __slots__ = ("acked", "blank", "buffer", "certain", "first", "joined", "passed", "start")

    def __init__(self) -> None:
        self.buffer = bytearray()  # from a place where a message may start
        self.start = 0  # position of buffer[0]; -1: no such place is known
        self.certain = True  # start is the true beginning: what is there decides
        self.first = True  # nothing of the direction has been looked at: a PROXY header may come
        self.blank = True  # nothing but line ends so far
        self.joined = -1  # position of the first octet of a direction joined in the middle
        self.acked = -1
        self.passed = 0  # octets let go

    def news(self, payload: bytes) -> bool:
        """``payload``, the last of the buffer, may tell what this is: a long line has ended in it."""
        if self.blank or not self.buffer:
            return False
        return len(self.buffer) < PROBE_AT_ONCE or b"\n" in payload


class Probe(FlowDecoder):
    """A connection that is not recognised yet. ``verdict`` becomes its decoder."""

    def __init__(self, flow: Flow, ledger: Ledger, shared: Shared) -> None:
        super().__init__(flow, ledger, "probe_held_bytes")
        self.shared = shared
        self.ledger = ledger
        self.sides = (_Side(), _Side())
        # What a decoder is given once there is one, of each direction, numbered over both.
        self.events: tuple[list[tuple[int, StreamEvent]], ...] = ([], [])
        self.number = 0
        self.held = 0
        self.verdict: FlowDecoder | None = None

    def data(self, event: Data, out: list[HttpEvent]) -> None:
        side = self.sides[event.side]
        side.acked = event.acked
        self.tally["probe_held_bytes"] += len(event.payload)
        found = event if side.start >= 0 else self._start(side, event)
        if found is None:
            return
        event = found
        side.buffer += event.payload
        self.held += len(event.payload)
        self._note(event)
        if side.first and side.certain and not self._past_proxy_header(event.side):
            return
        side.blank = side.blank and not event.payload.strip(b"\r\n")
        if len(side.buffer) < PREFIX_LIMIT and not side.news(event.payload):
            return
        kind = recognise(bytes(side.buffer))
        if kind in SIDES_OF and side.start == side.joined and not is_whole_start(SIDES_OF[kind], side.buffer):
            kind = OTHER  # may be the tail of a line
        if kind in {HTTP1_REQUEST, HTTP1_RESPONSE}:
            self._http1(event.side if kind == HTTP1_REQUEST else 1 - event.side, out)
        elif kind in {TLS, SSH, HTTP2} or (kind == OTHER and side.certain):
            self._silent(KINDS[kind])
        elif kind == OTHER:
            self._let_go(event.side)

    def _start(self, side: _Side, event: Data) -> Data | None:
        """What ``event`` holds from a place where a message may start, where there is one."""
        size = len(event.payload)
        at = self.sides[1 - event.side].acked - event.offset
        if side.passed == 1 and event.offset == side.joined + 1:
            at = 0  # what came before was a keep-alive probe's octet (RFC 9293 §3.8.4)
        if not 0 <= at < size:
            side.passed += size
            return None
        side.start = event.offset + at
        side.passed += at
        return Data(event.flow, event.side, event.ts, event.payload[at:], side.start, event.acked)

    def _past_proxy_header(self, number: int) -> bool:
        side = self.sides[number]
        octets = proxy_header(side.buffer)
        if octets == MORE and len(side.buffer) < PREFIX_LIMIT:
            return False
        side.first = False
        if octets > 0:
            self._skip(number, octets)
        return True

    def _skip(self, number: int, octets: int) -> None:
        """The first octets of a direction belong to no message."""
        side = self.sides[number]
        self.tally["probe_held_bytes"] -= octets
        self.tally["proxy_bytes"] += octets
        self.held -= octets
        side.buffer = side.buffer[octets:]
        kept: list[tuple[int, StreamEvent]] = []
        for n, event in self.events[number]:
            if isinstance(event, Data) and octets:
                cut = min(octets, len(event.payload))
                octets -= cut
                if cut == len(event.payload):
                    continue
                rest = event.payload[cut:]
                event = Data(event.flow, number, event.ts, rest, event.offset + cut, event.acked)  # noqa: PLW2901
            kept.append((n, event))
        self.events[number][:] = kept

    def gap(self, event: Gap, out: list[HttpEvent]) -> None:
        side = self.sides[event.side]
        self._let_go(event.side)
        side.certain = False
        if event.length is None:  # joined: its first octet may be the start of a message
            side.start = side.joined = event.offset

    def end(self, event: End, out: list[HttpEvent]) -> None:
        self._note(event)

    def cost(self) -> int:
        """Octets of memory, about."""
        return self.held + OVERHEAD * (len(self.events[0]) + len(self.events[1]))

    def _let_go(self, number: int) -> None:
        """What is held of this direction leads nowhere."""
        side = self.sides[number]
        held = len(side.buffer)
        side.passed += held
        self.held -= held
        side.buffer = bytearray()
        side.start = -1
        if held:
            self.events[number][:] = [one for one in self.events[number] if isinstance(one[1], End)]

    def _http1(self, client: int, out: list[HttpEvent]) -> None:
        a, b = self.sides
        passed = a.passed + b.passed
        self.tally["probe_held_bytes"] -= self.held + passed
        self.tally["http_unframed_bytes"] += passed
        self.tally["kind_http1"] += 1
        # A direction whose octets are all held starts at a boundary; one that is not, is lost.
        lost = (not a.certain, not b.certain)
        conversation = Conversation(self.flow, self.ledger, self.shared, client, lost)
        for number, side in enumerate(self.sides):
            conversation.readers[number].acked = side.acked
            if side.start >= 0 and side.buffer and lost[number]:
                conversation.readers[number].resume(proven=True)
        self.verdict = conversation
        for _, event in heapq.merge(*self.events, key=_number):
            if isinstance(event, Data):
                conversation.data(event, out)
            elif isinstance(event, End):
                conversation.end(event, out)
        self._clear()

    def _clear(self) -> None:
        for events in self.events:
            events.clear()

    def _note(self, event: Data | End) -> None:
        self.events[event.side].append((self.number, event))
        self.number += 1

    def _silent(self, kind: str) -> None:
        self.tally["kind_" + kind] += 1
        self.give_up(kind + "_bytes")
        self.verdict = FlowDecoder(self.flow, self.ledger, kind + "_bytes")

    def give_up(self, reason: str) -> None:
        octets = self.held + sum(side.passed for side in self.sides)
        self.tally["probe_held_bytes"] -= octets
        self.tally[reason] += octets
        self.held = 0
        self._clear()

    def over(self) -> None:
        """The connection has ended and nothing was recognised."""
        if self.held or self.sides[0].passed or self.sides[1].passed:
            self.tally["kind_other"] += 1
        self.give_up("other_bytes")

    def refuse(self) -> None:
        """Too much is held by all probes."""
        self._silent("other")


def _number(one: tuple[int, StreamEvent]) -> int:
    return one[0]


class Demux:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._shared = Shared()
        self._decoders: dict[Flow, FlowDecoder] = {}
        self._ended: set[Flow] = set()  # one direction is over
        self._held = 0

    def feed(self, events: list[StreamEvent]) -> list[HttpEvent]:
        out: list[HttpEvent] = []
        decoders = self._decoders
        for event in events:
            flow = event.flow
            decoder = decoders.get(flow)
            if isinstance(decoder, Conversation) and isinstance(event, Data):  # common case
                decoder.data(event, out)
                continue
            if decoder is None:
                decoder = decoders[flow] = Probe(flow, self._ledger, self._shared)
            if isinstance(decoder, Probe):
                self._probe(decoder, event, out)
            else:
                _dispatch(decoder, event, out)
            if isinstance(event, End):
                self._end(flow)
        self._shared.octets.flush(self._ledger)
        return out

    def _probe(self, probe: Probe, event: StreamEvent, out: list[HttpEvent]) -> None:
        before = probe.cost()
        _dispatch(probe, event, out)
        if probe.verdict is None and self._held + probe.cost() - before > PROBE_MEMORY:
            probe.refuse()
        self._held += (probe.cost() if probe.verdict is None else 0) - before
        if probe.verdict is not None:
            self._decoders[probe.flow] = probe.verdict

    def _end(self, flow: Flow) -> None:
        if flow not in self._ended:
            self._ended.add(flow)
            return
        self._ended.discard(flow)
        decoder = self._decoders.pop(flow)
        if isinstance(decoder, Probe):
            self._held -= decoder.cost()
            decoder.over()


def _dispatch(decoder: FlowDecoder, event: StreamEvent, out: list[HttpEvent]) -> None:
    if isinstance(event, Data):
        decoder.data(event, out)
    elif isinstance(event, Gap):
        decoder.gap(event, out)
    else:
        decoder.end(event, out)
