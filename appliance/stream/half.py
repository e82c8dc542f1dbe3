"""One direction of a connection: which octets are here, which wait, which are lacking.

Contract: ``hold`` takes octets at any position, in any order, with any overlap; ``take`` gives them
back in order, each once. Where copies overlap, the copy that arrived first wins, octet by octet.
Positions are integers without wrap-around: 0 is the first octet after SYN; a direction joined in the
middle starts near ``JOINED`` so that octets from before its first one stay positive.

Bounds: the connection's owner limits ``cost``, which charges ``OVERHEAD`` for each piece so that
one-octet segments cannot cost a hundred times what they carry, and the number of pieces (``PIECES``), so
that one segment that covers them all costs some milliseconds at most.
"""

from __future__ import annotations

import bisect
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from appliance.stream.serial import MASK, diff

if TYPE_CHECKING:
    from appliance.stream.connection import Connection

JOINED: Final = 1 << 32
OVERHEAD: Final = 256  # octets: a tuple, its integers and a bytes object (sys.getsizeof on CPython 3.11)

PIECES: Final = 4096  # contiguous segments of 1448 octets reach the default of stream_buffer before

Piece = tuple[int, int, bytes, int, int]
"""(position, ts, payload, missing, acknowledgment number or -1)"""

_position = itemgetter(0)


class Half:
    __slots__ = (
        "absent",
        "acked",
        "acked_n",
        "acked_ts",
        "affirmed",
        "anchored",
        "beyond",
        "claim",
        "conn",
        "cost",
        "delivered",
        "ended",
        "excused",
        "fin",
        "first",
        "held",
        "hole_at",
        "hole_n",
        "hole_ts",
        "lost",
        "next",
        "offset",
        "peer",
        "seen",
        "side",
        "started",
    )

    peer: Half

    def __init__(self, conn: Connection, side: int) -> None:
        self.conn = conn
        self.side = side
        self.anchored = False  # next and offset relate sequence numbers to positions
        self.started = False  # next is the true place to go on from
        self.next = 0  # sequence number of the next octet to deliver
        self.offset = 0  # its position
        self.first = -1  # position after SYN; -1: SYN was not captured
        self.delivered = False
        self.held: list[Piece] = []  # sorted, without overlap
        self.cost = 0
        self.fin = -1  # position of FIN
        self.ended = False
        self.seen = -1  # when this side last sent anything
        self.absent = False  # never seen, and waited for in vain: its direction is not captured
        self.beyond = -1  # the end of octets that came after the end
        self.acked = -1  # the highest position that the peer acknowledged
        self.affirmed = -1  # up to here more than one bare acknowledgment says so
        self.claim = 0  # the peer's position when it acknowledged ``acked``; CERTAIN: not known
        self.excused = -1  # an acknowledgment of one number that never came, and was FIN perhaps
        self.lost = (0, 0)  # the last hole given up: what comes for it now is late
        # How long the front has been lacking; -1: it is not.
        self.hole_at = -1
        self.hole_ts = -1
        self.hole_n = -1
        self.acked_ts = -1
        self.acked_n = -1

    def position(self, seq: int) -> int:
        return self.offset + diff(seq, self.next)

    def anchor(self, seq: int) -> None:
        """Relate positions to sequence numbers before the start is known."""
        self.anchored = True
        self.next = seq
        self.offset = JOINED

    def begin(self, seq: int) -> None:
        """``seq`` is the first octet after SYN."""
        if not self.anchored:
            self.anchored = True
            self.next = seq
            self.offset = 0
        elif not self.started:
            self.offset = self.position(seq)
            self.next = seq
        if not self.started:
            self.first = self.offset
            self.started = True

    def trim(self) -> int:
        """The start is known: let go what was held from before it; the number of octets."""
        octets = 0
        while self.held and self.held[0][0] < self.offset:
            position, ts, payload, missing, ack = self.take()
            behind = self.offset - position
            octets += min(behind, len(payload))
            kept = payload[behind:]
            self.hold((self.offset, ts, kept, max(missing - max(behind - len(payload), 0), 0), ack))
        if self.fin < self.offset:
            self.fin = -1
        return octets

    def advance(self, n: int) -> None:
        self.offset += n
        self.next = (self.next + n) & MASK

    def hold(self, piece: Piece) -> int:
        """Keep what no earlier copy covers; the number of payload octets kept."""
        position, ts, payload, missing, ack = piece
        end = position + len(payload) + missing
        if position < self.offset and self.started:
            payload = payload[self.offset - position :]
            position = self.offset
        held = self.held
        if not held or held[-1][0] + len(held[-1][2]) + held[-1][3] <= position:  # common case
            if position >= end:
                return 0
            held.append((position, ts, payload, end - position - len(payload), ack))
            self.cost += len(payload) + OVERHEAD
            return len(payload)
        kept = 0
        at = bisect.bisect_right(held, position, key=_position)
        if at:  # the piece before may reach into this one
            before = held[at - 1]
            reach = before[0] + len(before[2]) + before[3]
            if reach > position:
                payload = payload[reach - position :]
                position = reach
        while position < end:
            limit = min(end, held[at][0]) if at < len(held) else end
            if limit > position:
                part = payload[: limit - position]
                held.insert(at, (position, ts, part, limit - position - len(part), ack))
                self.cost += len(part) + OVERHEAD
                kept += len(part)
                at += 1
            if at == len(held):
                break
            reach = held[at][0] + len(held[at][2]) + held[at][3]
            payload = payload[max(reach - position, 0) :]
            position = max(reach, position)
            at += 1
        return kept

    def acknowledge(self, acked: int, at: int, *, fresh: bool) -> bool:
        """The peer, at its position ``at``, acknowledges ``acked``; whether that is more than before.

        ``fresh``: with octets that were not there. These were sent after all that it said at lower
        positions, so a lower number in them takes back a higher one: that was forged or damaged.
        """
        more = acked > self.acked
        if more:
            self.affirmed = acked if fresh else max(self.affirmed, self.acked)
            self.acked = acked
            self.claim = at
        elif fresh:
            if acked < self.acked and at > self.claim:
                self.acked = acked
            self.affirmed = min(max(self.affirmed, acked), self.acked)
        if 0 <= self.fin < self.affirmed - 1:
            self.fin = -1  # the peer has octets from beyond it
        return more

    def contested(self) -> bool:
        """Its sender went on beyond its FIN, and nothing has said yet which of the two holds."""
        if self.fin < 0 or not self.held:
            return False
        last = self.held[-1]
        return last[0] + len(last[2]) + last[3] > self.fin

    def cut(self) -> int:
        """FIN holds: let go what is held beyond it; the number of octets."""
        octets = 0
        while self.contested():
            position, ts, payload, missing, ack = self.held.pop()
            octets += len(payload)
            self.cost -= len(payload) + OVERHEAD
            if position < self.fin:
                kept = payload[: self.fin - position]
                octets -= len(kept)
                self.hold((position, ts, kept, min(missing, self.fin - position - len(kept)), ack))
        return octets

    def ready(self) -> bool:
        """The next octet is here."""
        if not self.started or not self.held or self.held[0][0] > self.offset:
            return False
        first = self.held[0]
        return self.fin < 0 or first[0] + len(first[2]) + first[3] <= self.fin

    def take(self) -> Piece:
        piece = self.held.pop(0)
        self.cost -= len(piece[2]) + OVERHEAD
        return piece

    def lacking(self) -> int:
        """Position of the end of the hole at the front; ``offset`` where there is none."""
        if self.held:
            first = self.held[0][0]
            return min(first, self.acked) if self.acked > self.offset else first
        sure = self.affirmed > self.offset and self.affirmed != self.excused
        reach = self.affirmed if sure else self.acked
        if 0 <= self.fin < reach:
            reach = self.fin  # which takes a number and is no octet
        return reach if reach > self.offset and reach != self.excused else self.offset

    def claimed(self) -> bool:
        """One bare acknowledgment is all that speaks for the hole: nothing is given up for it."""
        return not self.held and self.affirmed <= self.offset
