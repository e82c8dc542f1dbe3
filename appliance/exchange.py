"""HttpEvent -> HttpExchange: puts requests, responses and bodies together by their numbers.

Contract: one exchange per request, answered or not; a response without request is an exchange of its
own. An exchange comes out once, when both its messages are over. Which response answers which request
has been decided before (the decoders); nothing is decided here by position.

Bounds: octets kept of a body (``body_limit``; the rest is counted and hashed), octets kept in all open
exchanges (``memory``: first bodies are no longer kept, then the oldest exchanges come out unfinished),
interim responses (``INTERIM``).
"""

from __future__ import annotations

import hashlib
from itertools import islice
from typing import Final

from appliance.flaws import flaw
from appliance.ledger import Ledger
from appliance.model import (
    REQUEST,
    Body,
    Content,
    EndOfMessage,
    Flow,
    Head,
    HttpEvent,
    HttpExchange,
    HttpMessage,
    Missing,
    Request,
    Response,
)

INTERIM: Final = 32
OVERHEAD: Final = 2048  # octets that an open exchange costs besides heads and bodies
FIELD: Final = 192  # octets that a header field costs besides: a tuple and two bytes objects
PART: Final = 64  # octets that a piece of a body costs besides what it carries


def _cost(head: Head) -> int:
    return head.size + FIELD * len(head.fields)


class _Open:
    __slots__ = ("cost", "exchange", "request_over", "response_over")

    def __init__(self, flow: Flow, client: int) -> None:
        self.exchange = HttpExchange(flow, client, None, None, [], [])
        self.request_over = False
        self.response_over = False
        self.cost = OVERHEAD

    def message(self, kind: int) -> HttpMessage | None:
        return self.exchange.request if kind == REQUEST else self.exchange.response


class Pairer:
    def __init__(self, ledger: Ledger, body_limit: int = 1 << 20, memory: int = 256 << 20) -> None:
        self._ledger = ledger
        self._body_limit = body_limit
        self._memory = memory
        self._cost = 0
        self._open: dict[int, _Open] = {}

    def feed(self, events: list[HttpEvent]) -> list[HttpExchange]:
        out: list[HttpExchange] = []
        for event in events:
            key = event.flow.serial << 40 | event.stream
            if isinstance(event, Body):
                self._body(key, event)
            elif isinstance(event, EndOfMessage):
                self._end(key, event, out)
            elif isinstance(event, Request):
                one = self._begin(key, event.flow, event.side, _cost(event.head))
                one.exchange.request = HttpMessage(event.head, event.ts, 0)
            elif isinstance(event, Missing):
                self._missing(key, event)
            else:
                self._response(key, event)
            if self._cost > self._memory:
                self._relieve(out)
        return out

    def close(self) -> list[HttpExchange]:
        """Nothing more will come. Empty where every decoder kept its contract."""
        out: list[HttpExchange] = []
        for key in list(self._open):
            self._emit(key, out, "evicted")
        return out

    def _begin(self, key: int, flow: Flow, client: int, size: int) -> _Open:
        one = _Open(flow, client)
        one.cost += size
        self._cost += one.cost
        self._open[key] = one
        self._ledger.count("exchange_open")
        return one

    def _response(self, key: int, event: Response) -> None:
        one = self._open.get(key)
        if one is None:  # an orphan, or its request had to be given up
            one = self._begin(key, event.flow, 1 - event.side, _cost(event.head))
            one.request_over = True
        elif not event.interim:  # of an interim response only the status is kept
            cost = _cost(event.head)
            one.cost += cost
            self._cost += cost
        if not event.interim:
            one.exchange.response = HttpMessage(event.head, event.ts, event.status)
        elif len(one.exchange.interim) < INTERIM:
            one.exchange.interim.append(event.status)

    def _body(self, key: int, event: Body) -> None:
        one = self._open.get(key)
        message = None if one is None else one.message(event.kind)
        tally = self._ledger.tally
        size = len(event.data)
        if one is None or message is None:
            tally["body_late_bytes"] += size
            return
        content = message.content
        content.length += size
        room = min(self._body_limit - content.kept, self._memory - self._cost)
        if size <= room and content.digest is None:  # common case
            content.parts.append(event.data)
            content.kept += size
            one.cost += size + PART
            self._cost += size + PART
            tally["body_kept_bytes"] += size
            return
        self._overflow(one, content, event, max(room, 0))

    def _missing(self, key: int, event: Missing) -> None:
        one = self._open.get(key)
        message = None if one is None else one.message(event.kind)
        if message is not None and message.content.hole < 0:
            message.content.hole = message.content.length

    def _overflow(self, one: _Open, content: Content, event: Body, room: int) -> None:
        """Keep what there is room for, count and hash the rest."""
        tally = self._ledger.tally
        size = len(event.data)
        if content.digest is None:
            content.digest = hashlib.sha256(content.data())
        else:
            room = 0  # a body has one beginning: no holes in what is kept
        content.digest.update(event.data)
        if room:
            content.parts.append(event.data[:room])
            content.kept += room
            one.cost += room
            self._cost += room
        tally["body_kept_bytes"] += room
        full = content.kept >= self._body_limit
        tally["body_over_limit_bytes" if full else "body_over_memory_bytes"] += size - room

    def _end(self, key: int, event: EndOfMessage, out: list[HttpExchange]) -> None:
        one = self._open.get(key)
        if one is None:
            self._ledger.count("http_event_late")
            return
        exchange = one.exchange
        if event.kind == REQUEST:
            one.request_over = True
            message = exchange.request
        else:
            one.response_over = True
            message = exchange.response
        if event.flaws:
            exchange.flaws.extend(name for name in event.flaws if name not in exchange.flaws)
        if message is not None:
            self._close(message, event, exchange)
        if one.request_over and one.response_over:
            self._emit(key, out, None)

    def _close(self, message: HttpMessage, event: EndOfMessage, exchange: HttpExchange) -> None:
        content = message.content
        content.complete = event.complete
        dropped = content.length - content.kept
        if dropped:
            name = "over-limit" if content.kept >= self._body_limit else "over-memory"
            exchange.flaws.append(flaw(event.kind, name, dropped))

    def _emit(self, key: int, out: list[HttpExchange], reason: str | None) -> None:
        one = self._open.pop(key)
        self._cost -= one.cost
        exchange = one.exchange
        count = self._ledger.count
        session = exchange.flow.session
        count("exchange_open", -1)
        count("exchanges", 1, session)
        if exchange.request is None:
            count("exchange_orphan", 1, session)
            if "orphan" not in exchange.flaws:  # its request had to be given up
                exchange.flaws.append("orphan")
        elif exchange.response is None:
            count("exchange_unanswered", 1, session)
        else:
            count("exchange_answered", 1, session)
        if reason is not None:
            exchange.flaws.append(reason)
            count("exchange_evicted")
        if any(m is not None and not m.content.complete for m in (exchange.request, exchange.response)):
            count("exchange_incomplete", 1, session)
        out.append(exchange)

    def _relieve(self, out: list[HttpExchange]) -> None:
        """The oldest exchanges come out unfinished, down to seven eighths of the memory."""
        enough = self._memory // 8 * 7
        while self._cost > enough and self._open:
            for key in list(islice(self._open, 64)):
                if self._cost <= enough:
                    return
                self._emit(key, out, "evicted")
