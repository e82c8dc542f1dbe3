"""One HTTP/1 connection: two directions of messages, and which response answers which request.

Contract: events per message are ``Request Body* EndOfMessage`` and ``Response Body* EndOfMessage``;
both carry the number of their exchange. Every request gets an EndOfMessage on the response side, with a
Response before it or, unanswered, without.

Pairing is by order (RFC 9112 §9.3.2) as long as no message boundary was lost. After that order proves
nothing, and the acknowledgment numbers decide: a request whose sender had received exactly the octets
before a response is the one that it answers, provided that nothing is missing right before the request
and that the client was never seen to send one before the previous response was over. Without that
proof a response is an orphan. A connection joined in the middle is taken not to have pipelined before.

The same numbers find the next message boundary after a hole. Where one side spoke, it had received
whole messages, so the octet after the last one that it had acknowledged starts the other's next
message. And who speaks after having heard more begins a message: at that octet, or, if octets are
missing right before it, where a start line stands. The exchange then carries ``resynchronised``.

Bounds: ``PIPELINE`` requests waiting for responses (nginx closes after keepalive_requests 1000). Beyond,
the oldest is given up, and of it one octet is kept (``SHED`` of them), so that its response is known to
be an orphan and the order goes on; beyond that, too, order proves nothing on this connection any more.
Of all connections together: shared.py.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from appliance.decoders.base import FlowDecoder
from appliance.decoders.http1.framing import (
    NO_FLAWS,
    NONE,
    SWITCHING,
    TUNNEL,
    request_framing,
    response_framing,
)
from appliance.decoders.http1.head import is_part_of_start, is_whole_start
from appliance.decoders.http1.reader import Reader
from appliance.decoders.http1.shared import SHED_LIMIT, WAITING_LIMIT, Shared
from appliance.ledger import Ledger
from appliance.model import (
    REQUEST,
    RESPONSE,
    Data,
    End,
    EndOfMessage,
    Flow,
    Gap,
    Head,
    HttpEvent,
    Request,
    Response,
)

PIPELINE: Final = 1024
SHED: Final = 64 << 10
METHODS: Final = (b"", b"HEAD", b"CONNECT")  # those that decide where a response ends


class Asked:
    """A request that waits for its response."""

    __slots__ = ("acked", "after_loss", "method", "offset", "proven", "stream")

    def __init__(  # noqa: PLR0913  # a record
        self, stream: int, method: bytes, offset: int, acked: int, *, after_loss: bool, proven: bool
    ) -> None:
        self.stream = stream
        self.offset = offset  # where it begins
        self.method = method
        self.acked = acked  # position in the responses up to which its sender had them
        self.proven = proven  # nothing that its sender said at that time is missing before it
        self.after_loss = after_loss  # there may have been requests between the one before and it


class Conversation(FlowDecoder):
    def __init__(
        self, flow: Flow, ledger: Ledger, shared: Shared, client: int, lost: tuple[bool, bool]
    ) -> None:
        """``client``: the side that sends requests. ``lost``: sides that do not start at a boundary."""
        super().__init__(flow, ledger, "http_unframed_bytes")
        self.shared = shared
        self.asked: deque[Asked] = deque()
        self.shed = bytearray()  # given up before these, as indices of METHODS
        self.unordered_by = "gap"
        self.streams = 0
        self.unordered = lost[0] or lost[1]  # order proves nothing
        self.pipelined = False
        self.resynchronised = False  # the response at hand was paired by acknowledgment numbers
        self.readers = (
            Reader(self, 0, REQUEST if client == 0 else RESPONSE, lost=lost[0]),
            Reader(self, 1, REQUEST if client == 1 else RESPONSE, lost=lost[1]),
        )

    # -- stream events

    def data(self, event: Data, out: list[HttpEvent]) -> None:
        reader = self.readers[event.side]
        if reader.lost:
            self._resume(reader, event, out)
        else:  # common case
            reader.acked = event.acked
            reader.data(event.payload, 0, event.offset, event.ts, out)

    def gap(self, event: Gap, out: list[HttpEvent]) -> None:
        self.readers[event.side].gap(event.length, event.truncated, event.ts, out)

    def end(self, event: End, out: list[HttpEvent]) -> None:
        reader = self.readers[event.side]
        reader.end(event.reason.value, event.ts, out)
        other = self.readers[1 - event.side]
        if reader.kind == RESPONSE or other.ended:
            reason = self.unordered_by if self.unordered else event.reason.value
            while self.asked:
                self._unanswered(self._oldest(), reason, event.ts, out)
            self._forget_shed()

    def _resume(self, reader: Reader, event: Data, out: list[HttpEvent]) -> None:
        """Look for a message boundary in a direction that has lost its own."""
        size = len(event.payload)
        at = self.readers[1 - reader.side].acked - event.offset
        proven = 0 <= at < size
        # Its sender had heard more of the other side than when it last spoke: a message begins, here if
        # the octet before is not missing, else where a start line says so.
        turned = event.acked > reader.acked
        whole = event.offset == reader.place
        reader.acked = event.acked
        reader.place = event.offset + size
        part = False
        if not proven:
            begins = turned and (whole or is_whole_start(reader.kind, event.payload))
            part = turned and not begins and is_part_of_start(reader.kind, event.payload)
            if not begins and not part:
                self.shared.octets.unframed += size
                return
            at = 0
        self.shared.octets.unframed += at
        reader.resume(proven or whole, doubtful=part)
        reader.data(event.payload, at, event.offset, event.ts, out)

    # -- messages, called by the readers

    def request(self, reader: Reader, head: Head, out: list[HttpEvent]) -> tuple[int, int, int, list[str]]:
        """A request's head is whole: (stream, framing mode, length, flaws)."""
        self.streams += 1
        stream = self.streams
        answering = self.readers[1 - reader.side].stream
        if self.asked and self.asked[-1].acked == reader.head_acked >= 0:
            self.pipelined = True  # its sender had heard nothing since the request before
        elif (self.asked or answering) and not self.unordered:
            self.pipelined = True
        self.asked.append(
            Asked(
                stream,
                head.start[0],
                reader.head_offset,
                reader.head_acked,
                after_loss=reader.after_loss,
                proven=reader.proven,
            )
        )
        reader.after_loss = False
        shared = self.shared
        shared.waiting += 1
        shared.octets.requests += 1
        out.append(Request(self.flow, stream, reader.head_ts, head, reader.side))
        waiting = len(self.asked)
        if waiting > PIPELINE or (shared.waiting > WAITING_LIMIT and waiting > 1):
            self._shed(self._oldest(), reader.head_ts, out)
        mode, length, flaws = request_framing(head)
        return stream, mode, length, flaws

    def response(self, reader: Reader, head: Head, out: list[HttpEvent]) -> tuple[int, int, int, list[str]]:
        """A response's head is whole: (stream, framing mode, length, flaws)."""
        status = int(head.start[1])
        if self.unordered:
            asked = self._proven_answer(reader, out)
        else:  # common case
            asked = self.asked[0] if self.asked and not self.shed else None
        if 100 <= status < 200 and status != SWITCHING:  # noqa: PLR2004
            self._interim(reader, head, status, asked, out)
            return 0, NONE, 0, NO_FLAWS
        self.shared.octets.responses += 1
        if asked is not None:  # common case
            stream = asked.stream
            method = asked.method
            flaws = ["resynchronised"] if self.resynchronised else NO_FLAWS
            self._oldest()
        else:
            self.streams += 1
            stream = self.streams
            method = self._pop_shed()
            flaws = ["orphan"]
        self.resynchronised = False
        out.append(Response(self.flow, stream, reader.head_ts, head, reader.side, status, interim=False))
        mode, length, framing = response_framing(head, status, method)
        if mode == TUNNEL:
            self._silence(out)
        return stream, mode, length, (flaws + framing if flaws or framing else NO_FLAWS)

    def _interim(
        self, reader: Reader, head: Head, status: int, asked: Asked | None, out: list[HttpEvent]
    ) -> None:
        """1xx: the request goes on waiting. Of one that is not known nothing is kept."""
        self.shared.octets.interim += 1
        if asked is None:
            return
        out.append(Response(self.flow, asked.stream, reader.head_ts, head, reader.side, status, interim=True))
        if self.resynchronised:
            self.resynchronised = False
            reader.proven = False  # the final response carries the mark

    def _proven_answer(self, reader: Reader, out: list[HttpEvent]) -> Asked | None:
        """The request that the response at hand answers, though order proves nothing; None: an orphan."""
        asked = self.asked
        if self.pipelined or reader.head_offset < 0:
            return None
        for n, one in enumerate(asked):
            if reader.head_acked >= 0 and reader.head_acked <= one.offset:
                break  # its sender had nothing of this request, nor of those behind it
            if one.acked == reader.head_offset and one.proven:
                for _ in range(n):
                    self._unanswered(self._oldest(), "gap", reader.head_ts, out)
                # Order counts again, unless requests may be missing between those that wait or behind them.
                requests = self.readers[1 - reader.side]
                missing = requests.lost or requests.after_loss
                self.unordered = missing or any(later.after_loss for later in list(asked)[1:])
                self.resynchronised = True
                return one
        return None

    def _oldest(self) -> Asked:
        self.shared.waiting -= 1
        return self.asked.popleft()

    def _shed(self, asked: Asked, ts: int, out: list[HttpEvent]) -> None:
        self._unanswered(asked, "limit", ts, out)
        if self.unordered:
            return
        self.shed.append(METHODS.index(asked.method) if asked.method in METHODS else 0)
        self.shared.shed += 1
        if len(self.shed) > SHED or self.shared.shed > SHED_LIMIT:
            self._forget_shed()
            self.unordered = True
            self.unordered_by = "limit"

    def _pop_shed(self) -> bytes:
        """The method, as far as it matters, of the request that had been given up the longest ago."""
        if not self.shed or self.unordered:
            return b""
        self.shared.shed -= 1
        return METHODS[self.shed.pop(0)]

    def _forget_shed(self) -> None:
        self.shared.shed -= len(self.shed)
        self.shed.clear()

    def _unanswered(self, asked: Asked, reason: str, ts: int, out: list[HttpEvent]) -> None:
        out.append(EndOfMessage(self.flow, asked.stream, RESPONSE, ts, False, ["unanswered-" + reason]))

    def _silence(self, out: list[HttpEvent]) -> None:
        """After CONNECT or 101 the connection speaks something else (RFC 9110 §7.8, §9.3.6)."""
        for reader in self.readers:
            if reader.kind == REQUEST:
                reader.silence(out)
