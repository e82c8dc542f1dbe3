"""One TCP connection seen from outside: two directions, put into causal order.

Contract: ``accept`` takes the connection's segments as the capture has them (late, twice, cut at other
places, one direction before the other) and appends events: per direction ``(Data | Gap)* End``.
Across directions the order is that of cause and effect: what a sender had acknowledged comes before
what it sent. So a request comes before its response even where the capture has them the other way round.

A hole is given up, for good,
- when the peer acknowledges beyond it: the octets arrived there and were not captured. The capture may
  still hold them back, so this waits for ``reorder`` further segments that bring something new
  (a copy proves no delay) or ``REORDER_WAIT``, no longer;
- else after ``gap_wait``, unless the peer goes on talking without acknowledging: then the sender will
  send again, and what lies beyond the hole was perhaps never received;
- at once when the direction holds more than its share, and when the connection is over.
The same allowance holds for what may still come at the start of a connection joined in the middle,
and a shorter one, ``RESET_WAIT``, after RST. Two fronts that wait for each other (a retransmission
carries a newer acknowledgment) are released, the older first.
"""

from __future__ import annotations

from typing import Final

from appliance.ledger import Ledger
from appliance.model import (
    ACK,
    FIN,
    NANOSECONDS,
    RST,
    SYN,
    Data,
    End,
    EndReason,
    Flow,
    Gap,
    Segment,
    StreamEvent,
)
from appliance.stream.half import Half
from appliance.stream.serial import MASK, diff

REORDER_WAIT: Final = 3 * NANOSECONDS  # a capture's merge window; mirrors reorder by milliseconds
RESET_WAIT: Final = NANOSECONDS  # shorter: load balancers that always reset would fill the flow table
WINDOW: Final = 1 << 30  # the largest window there is (RFC 7323 §2.3)
FOREIGN: Final = 1 << 24  # both numbers this far off: another connection whose SYN was not captured
NEVER: Final = 1 << 63


class Connection:
    __slots__ = (
        "a",
        "b",
        "closed",
        "due",
        "flow",
        "n",
        "quiet",
        "route",
        "rst",
        "rst_more",
        "rst_n",
        "rst_ts",
        "syn",
        "touch",
    )

    def __init__(self, flow: Flow, route: bytes, ts: int) -> None:
        self.flow = flow
        self.route = route  # of the side a
        self.a = Half(self, 0)
        self.b = Half(self, 1)
        self.a.peer = self.b
        self.b.peer = self.a
        self.touch = ts
        self.quiet = False  # nothing waits and both sides are known: the caller's common case
        self.closed = False  # both directions have ended
        self.n = 0  # segments accepted while not quiet that brought something new
        self.rst: tuple[Half, int] | None = None  # who reset, at which position
        self.rst_ts = -1
        self.rst_n = -1
        self.rst_more = 0  # segments with new octets that its sender brought since
        self.syn: Segment | None = None  # of a connection that may replace this one
        self.due = NEVER

    def accept(self, half: Half, seg: Segment, out: list[StreamEvent], ledger: Ledger) -> None:
        half.seen = max(half.seen, seg.ts)  # a late copy is no news
        half.absent = False
        flags = seg.flags
        seq = seg.seq
        news = False
        if flags & SYN:
            seq = (seq + 1) & MASK
            self._begin(half, seq, ledger)
            if flags & ACK:
                self._begin(half.peer, seg.ack, ledger)
        elif not half.anchored:
            half.anchor(seq)
        if seg.payload or seg.missing:
            news = self._hold(half, seq, seg, ledger)
        end = half.position(seq) + len(seg.payload) + seg.missing
        if flags & (FIN | RST):
            self._note_close(half, end, seg)
        if flags & ACK:
            news |= self._acknowledge(half.peer, seg, end, ledger, fresh=news)
        self.n += news
        self.drain(out, ledger)
        self.settle(seg.ts)

    def _begin(self, half: Half, seq: int, ledger: Ledger) -> None:
        if not half.started:
            half.begin(seq)
            self._implausible(half.trim(), ledger)

    def _hold(self, half: Half, seq: int, seg: Segment, ledger: Ledger) -> bool:
        """Whether it brings octets that were not there."""
        size = len(seg.payload)
        position = half.position(seq)
        end = position + size + seg.missing
        ledger.count("segment_bytes", size)
        if abs(position - half.offset) > WINDOW:
            ledger.count("segment_implausible_bytes", size)
            return False
        if half.ended:
            half.beyond = max(half.beyond, end)
            ledger.count("segment_late_bytes" if end > half.offset else "segment_duplicate_bytes", size)
            return False
        kept = half.hold((position, seg.ts, seg.payload, seg.missing, seg.ack if seg.flags & ACK else -1))
        ledger.count("segment_held_bytes", kept)
        late = half.lost[0] <= position < half.lost[1]
        ledger.count("segment_late_bytes" if late else "segment_duplicate_bytes", size - kept)
        if self.rst and self.rst[0] is half:
            self._doubt_reset(end, seg.ts, kept)
        if half.fin >= 0 and half.acked == half.fin + 1:
            self._cut(half, ledger)
        return kept > 0

    def _acknowledge(self, peer: Half, seg: Segment, at: int, ledger: Ledger, *, fresh: bool) -> bool:
        """Whether it acknowledges more than was acknowledged."""
        if not peer.anchored:  # never seen: what it has sent so far ends here
            peer.anchor(seg.ack)
        acked = peer.position(seg.ack)
        if acked > peer.offset + WINDOW:
            return False
        more = peer.acknowledge(acked, at if fresh or not seg.payload else NEVER, fresh=fresh)
        if peer.fin >= 0 and peer.acked == peer.fin + 1:
            self._cut(peer, ledger)
        return more

    def _note_close(self, half: Half, position: int, seg: Segment) -> None:
        floor = half.offset if half.started else half.offset - WINDOW
        if seg.flags & FIN and floor <= position <= half.offset + WINDOW:
            believed = 0 <= half.fin == half.acked - 1
            if not believed and half.affirmed <= position + 1:
                half.fin = position
        if seg.flags & RST and not self.rst and abs(position - half.offset) <= FOREIGN:
            self.rst = (half, position)
            self.rst_ts = seg.ts
            self.rst_n = self.n
            self.rst_more = 0

    def _doubt_reset(self, end: int, ts: int, kept: int) -> None:
        """The sender of a RST sends octets: the capture's order, or nobody believed it (RFC 5961 §3)."""
        if self.rst and end > self.rst[1]:
            self.rst = None
        elif kept:
            self.rst_more += 1
            self.rst_ts = ts
            self.rst_n = self.n

    def _cut(self, half: Half, ledger: Ledger) -> None:
        self._implausible(half.cut(), ledger)

    def _implausible(self, octets: int, ledger: Ledger) -> None:
        """So many octets that were held turn out not to belong to the connection."""
        ledger.count("segment_held_bytes", -octets)
        ledger.count("segment_implausible_bytes", octets)

    # -- delivery

    def drain(self, out: list[StreamEvent], ledger: Ledger) -> None:
        """Deliver whatever neither a hole nor the other direction holds back."""
        a, b = self.a, self.b
        while True:
            a_ready, b_ready = a.ready(), b.ready()
            if a_ready and not self._blocked(a):
                self._deliver(a, out, ledger)
            elif b_ready and not self._blocked(b):
                self._deliver(b, out, ledger)
            elif a_ready and b_ready:  # each waits for the other
                self._deliver(a if a.held[0][1] <= b.held[0][1] else b, out, ledger)
            elif not (self._finish_half(a, out) or self._finish_half(b, out)):
                return

    def _blocked(self, half: Half) -> bool:
        """What its sender acknowledged has not been delivered yet."""
        ack = half.held[0][4]
        peer = half.peer
        if ack < 0 or peer.ended or peer.absent:
            return False
        ahead = diff(ack, peer.next)
        if not peer.started and peer.held and peer.held[0][0] < peer.offset + ahead:
            return True  # joined in the middle, and the other side's beginning came later
        return 0 < ahead <= WINDOW and peer.offset + ahead != peer.excused

    def _deliver(self, half: Half, out: list[StreamEvent], ledger: Ledger) -> None:
        _, ts, payload, missing, ack = half.take()
        peer = half.peer
        acked = peer.position(ack) if ack >= 0 and peer.anchored else -1
        if payload:
            out.append(Data(self.flow, half.side, ts, payload, half.offset, acked))
            ledger.count("segment_held_bytes", -len(payload))
            ledger.count("stream_bytes", len(payload))
            half.advance(len(payload))
            half.delivered = True
        if missing:
            self._gap(half, half.offset + missing, ts, out, ledger, truncated=True)

    def _finish_half(self, half: Half, out: list[StreamEvent]) -> bool:
        if half.ended or not half.started or half.fin < 0 or half.fin > half.offset or half.contested():
            return False
        half.ended = True
        half.advance(1)  # FIN takes one number
        out.append(End(self.flow, half.side, half.seen, EndReason.FIN))
        return True

    # -- waiting

    def settle(self, now: int) -> None:
        """Start, restart or stop the clocks of both fronts; decide whether the connection is quiet."""
        waiting = self._clock(self.a, now)
        waiting |= self._clock(self.b, now)
        a, b = self.a, self.b
        self.closed = a.ended and b.ended
        self.quiet = (
            not self.closed
            and a.started
            and b.started
            and not waiting
            and not a.held
            and not b.held
            and a.fin < 0
            and b.fin < 0
            and self.rst is None
        )

    def _clock(self, half: Half, now: int) -> bool:
        if half.started:
            lacking = (half.lacking() > half.offset and not half.absent) or half.contested()
        else:
            lacking = half.seen >= 0 or (half.acked > half.offset and not half.absent)
        if not lacking or half.ended:
            half.hole_at = half.hole_ts = half.acked_ts = -1
            return False
        if half.hole_at != half.offset:
            half.hole_at = half.offset
            half.hole_ts = now
            half.hole_n = self.n
            half.acked_ts = -1
        if half.acked_ts < 0 and half.acked > half.offset:
            half.acked_ts = now
            half.acked_n = self.n
        return True

    def _overdue(self, half: Half, now: int, reorder: int, gap_wait: int) -> bool:
        if half.hole_at < 0:
            return False
        if not half.started:
            return self.n - half.hole_n >= reorder or now - half.hole_ts >= REORDER_WAIT
        if half.claimed():
            return False
        if half.acked_ts >= 0:
            return self.n - half.acked_n >= reorder or now - half.acked_ts >= REORDER_WAIT
        return now - half.hole_ts >= gap_wait and half.peer.seen <= half.hole_ts

    def deadline(self, gap_wait: int) -> int:
        """When to look again, though no segment comes. NEVER where nothing waits."""
        when = NEVER
        for half in (self.a, self.b):
            if half.hole_at < 0:
                continue
            if not half.started:
                when = min(when, half.hole_ts + REORDER_WAIT)
            elif half.claimed():
                continue
            elif half.acked_ts >= 0:
                when = min(when, half.acked_ts + REORDER_WAIT)
            elif half.peer.seen <= half.hole_ts:
                when = min(when, half.hole_ts + gap_wait)
        if self.rst is not None:
            when = min(when, self.rst_ts + RESET_WAIT)
        alone = self._alone()
        return when if alone is None else min(when, alone.seen + RESET_WAIT)

    def _alone(self) -> Half | None:
        """The side that closed, where the other was never captured."""
        if self.a.ended and self.b.seen < 0:
            return self.a
        return self.b if self.b.ended and self.a.seen < 0 else None

    def expire(
        self, now: int, reorder: int, gap_wait: int, out: list[StreamEvent], ledger: Ledger
    ) -> EndReason | None:
        """Give up what has waited long enough; why the connection is over now, if it is."""
        again = True
        while again:
            again = False
            for half in (self.a, self.b):
                if self._overdue(half, now, reorder, gap_wait):
                    self.give_up(half, now, out, ledger)
                    again = True
        if self.rst_more >= max(reorder, 1):
            self.rst = None  # more than the capture reorders
        if self.rst is not None and (self.n - self.rst_n >= reorder or now - self.rst_ts >= RESET_WAIT):
            return EndReason.RST
        alone = self._alone()
        return EndReason.FIN if alone is not None and now - alone.seen >= RESET_WAIT else None

    def give_up(self, half: Half, now: int, out: list[StreamEvent], ledger: Ledger) -> None:
        """Close the hole at the front of ``half``; deliver what that sets free."""
        if half.seen < 0:
            half.absent = True
        elif half.contested():
            half.fin = -1  # nobody acknowledged it, and its sender went on
        elif not half.started:
            half.advance(half.held[0][0] - half.offset if half.held else 0)
            half.started = True
            ledger.count("midstream", 1, self.flow.session)
            out.append(Gap(self.flow, half.side, now, None, half.offset, truncated=False))
        else:
            end = half.lacking()
            if not half.held and end == half.offset + 1:
                half.excused = end  # FIN takes one number: that no octet came is no proof of a loss
            elif half.delivered or half.first >= 0:
                if half.acked >= end:
                    ledger.count("gap_acked_bytes", end - half.offset, self.flow.session)
                self._gap(half, end, now, out, ledger, truncated=False)
            else:  # joined in the middle and nothing delivered: only now is the beginning known
                half.advance(end - half.offset)
                out.append(Gap(self.flow, half.side, now, None, half.offset, truncated=False))
        self.drain(out, ledger)
        self.settle(now)

    def _gap(  # noqa: PLR0913
        self, half: Half, end: int, ts: int, out: list[StreamEvent], ledger: Ledger, *, truncated: bool
    ) -> None:
        length = end - half.offset
        out.append(Gap(self.flow, half.side, ts, length, half.offset, truncated))
        half.lost = (half.offset, end)
        ledger.count("gaps", 1, self.flow.session)
        ledger.count("gap_bytes", length, self.flow.session)
        if truncated:
            ledger.count("gap_truncated_bytes", length, self.flow.session)
        half.advance(length)
        half.delivered = True

    def finish(self, reason: EndReason, now: int, out: list[StreamEvent], ledger: Ledger) -> None:
        """Deliver all that is left, holes given up, and end both directions."""
        self.settle(now)
        again = True
        while again:
            again = False
            for half in (self.a, self.b):
                if half.hole_at >= 0:
                    self.give_up(half, now, out, ledger)
                    again = True
            if not again and (self.a.held or self.b.held):  # contiguous, but its cause was never seen
                self._deliver(self.a if self.a.held else self.b, out, ledger)
                self.drain(out, ledger)
                self.settle(now)
                again = True
        for half in (self.a, self.b):
            if not half.ended:
                half.ended = True
                out.append(End(self.flow, half.side, now, reason))
        self.closed = True
        self.quiet = False
