"""The flow table: TCP segments of all connections in, stream events out.

Contract: per connection and direction ``(Data | Gap)* End`` with exactly one End, Data never empty, a
Gap final; across directions causes before effects (connection.py). Time is the segments' own: the
answer does not depend on how segments are batched.

Bounds, each with its ledger reason: connections (``max_flows``; over it the one silent the longest goes
first: flow_evicted), octets held in one direction (``stream_buffer``) and in all (``stream_memory``;
over it the connection that has waited the longest gives up its holes), silence (``flow_idle``).
A closed connection is remembered for ``LINGER`` so that retransmissions do not open it anew.

The activity of a connection is known to the second (``TOUCH``): moving it in the order of eviction for
every segment costs 0.1 us a segment and decides nothing.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from appliance.ledger import Ledger
from appliance.model import (
    ACK,
    FIN,
    NANOSECONDS,
    RST,
    SYN,
    Data,
    EndReason,
    Flow,
    Segment,
    StreamEvent,
    flow_key,
    reverse_route,
)
from appliance.stream.connection import FOREIGN, NEVER, Connection
from appliance.stream.half import PIECES, Half
from appliance.stream.serial import HALF, MASK, diff

LINGER: Final = 5 * NANOSECONDS
TOUCH: Final = NANOSECONDS
WAITS: Final = 1024  # entries of the heap beyond two a connection before those that count no more go
SYN_PAYLOAD: Final = 1500  # octets: a SYN that is kept carries no more than a packet (TCP Fast Open)
CONTROL: Final = SYN | FIN | RST


@dataclass(frozen=True, slots=True)
class StreamLimits:
    max_flows: int = 100_000
    flow_idle: int = 600 * NANOSECONDS
    stream_buffer: int = 4 << 20  # octets; Linux's default for tcp_rmem is up to 6 MiB
    stream_memory: int = 256 << 20
    gap_wait: int = 10 * NANOSECONDS
    reorder_segments: int = 32


class Reassembler:
    def __init__(self, ledger: Ledger, limits: StreamLimits | None = None) -> None:
        self._ledger = ledger
        self._limits = limits or StreamLimits()
        self._halves: dict[bytes, Half] = {}
        self._active: OrderedDict[Connection, None] = OrderedDict()  # the longest silent first
        self._closed: OrderedDict[Connection, int] = OrderedDict()  # until when each is remembered
        self._waits: list[tuple[int, int, Connection]] = []  # heap of (deadline, serial, connection)
        self._due = NEVER  # no deadline is earlier
        self._serial = 0
        self._cost = 0  # octets held by all connections, overhead included
        self._now = 0

    def feed(self, segments: list[Segment]) -> list[StreamEvent]:
        out: list[StreamEvent] = []
        halves = self._halves
        delivered = 0
        for seg in segments:
            ts = seg.ts
            if ts >= self._due:
                self._expire(ts, out)
            half = halves.get(seg.route)
            if half is not None:
                conn = half.conn
                if conn.quiet and seg.seq == half.next and not seg.flags & CONTROL and not seg.missing:
                    peer = half.peer
                    behind = (peer.next - seg.ack) & MASK
                    if behind < HALF:  # common case: in order, and acknowledges only what is here
                        if ts >= conn.touch:
                            if self._is_idle(conn, ts):
                                self._slow(half, seg, out)
                                continue
                            self._touch(conn, ts)
                        payload = seg.payload
                        if payload:
                            size = len(payload)
                            delivered += size
                            offset = half.offset
                            out.append(Data(conn.flow, half.side, ts, payload, offset, peer.offset - behind))
                            half.offset = offset + size
                            half.next = (half.next + size) & MASK
                        continue
            self._slow(half, seg, out)
        if segments:
            self._now = max(self._now, segments[-1].ts)
        tally = self._ledger.tally
        tally["segment_bytes"] += delivered
        tally["stream_bytes"] += delivered
        return out

    def tick(self, now: int) -> list[StreamEvent]:
        """Let ``now`` pass: holes given up, idle connections ended, closed ones forgotten."""
        out: list[StreamEvent] = []
        self._now = max(self._now, now)
        if now >= self._due:
            self._expire(now, out)
        while self._active:
            conn = next(iter(self._active))
            if not self._is_idle(conn, now):
                break
            self._finish(conn, EndReason.IDLE, now, out)
            self._forget(conn)  # it has not ended on the wire: what comes next joins it in the middle
        while self._closed:
            conn, until = next(iter(self._closed.items()))
            if until > now:
                break
            self._forget(conn)
        return out

    def close(self) -> list[StreamEvent]:
        """The capture is over: deliver what is left and end every connection."""
        out: list[StreamEvent] = []
        while self._active:
            conn = next(iter(self._active))
            self._finish(conn, EndReason.RST if conn.rst else EndReason.SHUTDOWN, self._now, out)
        while self._closed:
            self._forget(next(iter(self._closed)))
        self._waits.clear()
        return out

    # -- one segment, not the common case

    def _is_idle(self, conn: Connection, now: int) -> bool:
        return conn.touch - TOUCH + self._limits.flow_idle <= now

    def _slow(self, half: Half | None, seg: Segment, out: list[StreamEvent]) -> None:
        if half is not None and not half.conn.closed and self._is_idle(half.conn, seg.ts):
            # Here too, so that the answer does not depend on when somebody looks at the clock.
            self._finish(half.conn, EndReason.IDLE, seg.ts, out)
            self._forget(half.conn)
            half = None
        if half is not None and self._replaces(half, seg):
            syn = half.conn.syn
            if half.conn.closed:
                self._forget(half.conn)
            else:
                self._finish(half.conn, EndReason.REUSED, seg.ts, out)
                self._forget(half.conn)
            half = None
            if syn is not None and syn is not seg:
                self._slow(None, syn, out)
                half = self._halves.get(seg.route)
        if half is None:
            if not (seg.payload or seg.missing or seg.flags & SYN):
                return  # nothing is lost with it, and a flood of them opens nothing
            half = self._open(seg, out)
        conn = half.conn
        if seg.flags & SYN and half.started and half.position((seg.seq + 1) & MASK) != half.first:
            return  # a SYN that nobody has confirmed yet; _replaces keeps it
        if seg.ts >= conn.touch and not conn.closed:
            self._touch(conn, seg.ts)
        before = conn.a.cost + conn.b.cost
        conn.accept(half, seg, out, self._ledger)
        self._after(conn, seg.ts, before, out)

    def _replaces(self, half: Half, seg: Segment) -> bool:  # noqa: PLR0911  # one for each case
        """Whether this segment belongs to a new connection between the same endpoints.

        A SYN alone proves nothing on a living connection (RFC 5961 §4): it is kept until the other side
        answers it or its sender goes on from it.
        """
        conn = half.conn
        if seg.flags & SYN:
            if not half.anchored or half.position((seg.seq + 1) & MASK) == half.first:
                return False  # the first or the same SYN
            if not half.started and abs(half.position(seg.seq) - half.offset) < FOREIGN:
                return False  # comes after its data
            syn = conn.syn
            if syn is not None and seg.flags & ACK and seg.ack == (syn.seq + 1) & MASK:
                return True
            if conn.closed or conn.rst is not None:
                conn.syn = None
                return True
            if len(seg.payload) <= SYN_PAYLOAD:
                conn.syn = seg
            return False
        syn = conn.syn
        if syn is not None and seg.route == syn.route and seg.seq == (syn.seq + 1) & MASK:
            return True
        if _outlived(half, seg):
            return True
        peer = half.peer
        if not half.started or abs(diff(seg.seq, half.next)) < FOREIGN:
            return False
        return conn.closed or (
            bool(seg.flags & ACK) and peer.started and abs(diff(seg.ack, peer.next)) >= FOREIGN
        )

    def _open(self, seg: Segment, out: list[StreamEvent]) -> Half:
        if len(self._active) + len(self._closed) >= self._limits.max_flows:
            if self._closed:
                self._forget(next(iter(self._closed)))
            else:
                conn = next(iter(self._active))
                self._finish(conn, EndReason.EVICTED, seg.ts, out)
                self._forget(conn)
        self._serial += 1
        conn = Connection(Flow(flow_key(seg.route), self._serial), seg.route, seg.ts + TOUCH)
        self._halves[seg.route] = conn.a
        self._halves[reverse_route(seg.route)] = conn.b
        self._active[conn] = None
        self._ledger.count("flows", 1, conn.flow.session)
        self._ledger.count("flow_open")
        return conn.a

    def _after(self, conn: Connection, now: int, before: int, out: list[StreamEvent]) -> None:
        """Waits, limits and the end of a connection that has just changed."""
        limits = self._limits
        ended = conn.expire(now, limits.reorder_segments, limits.gap_wait, out, self._ledger)
        for half in (conn.a, conn.b):
            while half.cost > limits.stream_buffer or len(half.held) > PIECES:
                # The other side's hole, where an effect waits for its cause.
                lacking = half if half.hole_at >= 0 else half.peer
                if lacking.hole_at < 0:
                    break
                conn.give_up(lacking, now, out, self._ledger)
        self._cost += conn.a.cost + conn.b.cost - before
        if ended is not None or conn.closed:
            self._finish(conn, ended or EndReason.FIN, now, out)
            return
        self._schedule(conn)
        if self._cost > limits.stream_memory:
            self._relieve(now, out)

    def _schedule(self, conn: Connection) -> None:
        when = conn.deadline(self._limits.gap_wait)
        if when < conn.due:
            conn.due = when
            if len(self._waits) > 2 * len(self._active) + WAITS:  # mostly of connections that are over
                self._waits = [w for w in self._waits if w[2].due == w[0] and w[2] in self._active]
                heapq.heapify(self._waits)
            heapq.heappush(self._waits, (when, conn.flow.serial, conn))
            self._due = min(self._due, when)

    def _expire(self, now: int, out: list[StreamEvent]) -> None:
        waits = self._waits
        while waits and waits[0][0] <= now:
            when, _, conn = heapq.heappop(waits)
            if when != conn.due or conn not in self._active:
                continue
            conn.due = NEVER
            before = conn.a.cost + conn.b.cost
            self._after(conn, now, before, out)
        self._due = waits[0][0] if waits else NEVER

    def _relieve(self, now: int, out: list[StreamEvent]) -> None:
        """Over ``stream_memory``: the connections silent the longest give up their holes first.

        Down to seven eighths, so that a pass over the table is paid for by what it sets free.
        """
        enough = self._limits.stream_memory // 8 * 7
        for conn in list(self._active):
            if self._cost <= enough:
                return
            before = conn.a.cost + conn.b.cost
            for half in (conn.a, conn.b):
                while half.held:
                    lacking = half if half.hole_at >= 0 else half.peer
                    if lacking.hole_at < 0:
                        break
                    conn.give_up(lacking, now, out, self._ledger)
            self._cost += conn.a.cost + conn.b.cost - before

    # -- the end

    def _touch(self, conn: Connection, ts: int) -> None:
        conn.touch = ts + TOUCH
        self._active.move_to_end(conn)

    def _finish(self, conn: Connection, reason: EndReason, now: int, out: list[StreamEvent]) -> None:
        if conn not in self._active:
            return
        before = conn.a.cost + conn.b.cost
        conn.finish(reason, now, out, self._ledger)
        self._cost -= before
        del self._active[conn]
        self._ledger.count("flow_open", -1)
        self._ledger.count("flow_" + reason.value)
        self._closed[conn] = now + LINGER

    def _forget(self, conn: Connection) -> None:
        self._closed.pop(conn, None)
        self._halves.pop(conn.route, None)
        self._halves.pop(reverse_route(conn.route), None)
        conn.due = NEVER


def _outlived(half: Half, seg: Segment) -> bool:
    """Whether the connection goes on after an end that the endpoints did not believe."""
    conn = half.conn
    peer = half.peer
    if peer.ended and seg.flags & ACK and peer.offset < peer.position(seg.ack) <= peer.beyond:
        return True  # octets from beyond the end are acknowledged
    if not (conn.closed and conn.rst and conn.rst[0] is half and seg.payload):
        return False
    return 0 <= half.position(seg.seq) - half.offset < FOREIGN  # who reset goes on
