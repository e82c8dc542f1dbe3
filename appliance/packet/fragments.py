"""IP fragments, put together (RFC 791 §3.2, RFC 8200 §4.5, RFC 5722).

In: a cursor at a fragment. Out: the cursor at the beginning of the whole datagram and the protocol
inside, or what became of the fragment. The fragments of a datagram agree in VNIs, both addresses,
identification and, in IPv4, protocol.

Overlap. IPv4: the octets that came first win. IPv6: the whole datagram is given up, and what comes
of it later is refused (RFC 5722 §3), unless the fragment repeats an earlier one exactly. A fragment
that contradicts a length known already (octets beyond the last fragment, two ends) gives up the
datagram in both, so that no datagram is ever put together with the wrong length.

Repetition. A datagram's fragments that come again within a second of its completion are duplicates
(a capture on both sides of a bridge has each of them twice); later they may be of a new datagram.

A fragment cut by the capture leaves a hole that nothing fills, so it is CUT at once, unless it is
the last one: then the end of the whole datagram is missing, like that of any cut frame.

Bounds (FragmentLimits): octets held, datagrams held, fragments of one datagram, age. The datagram
begun first goes first. A datagram has at most 65,535 octets.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from appliance.model import NANOSECONDS
from appliance.packet.cursor import (
    CUT,
    FRAGMENT_DUPLICATE,
    FRAGMENT_EVICTED,
    FRAGMENT_HELD,
    FRAGMENT_MALFORMED,
    PROTOCOL,
    REASONS,
    Cursor,
)

if TYPE_CHECKING:
    from appliance.ledger import Ledger

MAX_DATAGRAM: Final = 65_535  # RFC 791 §3.1; RFC 8200 §4.5 for what is put together
OVERHEAD: Final = 256  # octets charged for each piece: a tuple, an integer, a bytes object, a list's slot
PRINTS: Final = 8  # pieces of a whole datagram that are told from those of another with its identification
REPETITION: Final = 1 * NANOSECONDS
_UNIT: Final = 8  # a fragment that is not the last has a multiple of 8 octets
_IPV4_ADDRESSES: Final = 8


@dataclass(frozen=True, slots=True)
class FragmentLimits:
    """What may be held."""

    octets: int = 16 << 20  # four times Linux's net.ipv4.ipfrag_high_thresh
    datagrams: int = 4096
    fragments: int = 128  # of one datagram: 65,535 octets at the least MTU all hosts take (576) make 119
    age: int = 30 * NANOSECONDS  # Linux's net.ipv4.ipfrag_time; RFC 791 says 15, RFC 8200 60 seconds


DEFAULT_LIMITS: Final = FragmentLimits()


class _Datagram:
    """The fragments held of one datagram: octets present, in order, without overlap."""

    __slots__ = ("count", "have", "more_end", "pieces", "protocol", "reach", "total", "ts")

    def __init__(self, ts: int) -> None:
        self.ts = ts  # of the fragment that came first
        self.count = 0  # frames held
        self.pieces: list[tuple[int, bytes]] = []
        self.have = 0  # octets in pieces
        self.more_end = 0  # where the fragments end that others have to follow
        self.total = -1  # length of the whole; unknown until the last fragment is there
        self.reach = 0  # how far octets have to be present: less than total if the last one was cut
        self.protocol = 0

    def insert(self, cursor: Cursor, piece: bytes) -> int:
        """HELD if the fragment says anything new."""
        start = cursor.piece.start
        end = start + cursor.end - cursor.offset
        more = cursor.piece.more
        if more:
            contradicts = self.total >= 0 and end >= self.total
        else:
            contradicts = end <= self.more_end or (self.total >= 0 and end != self.total)
        if contradicts:
            return FRAGMENT_MALFORMED
        lacking = self._lacking(start, start + len(piece))
        fresh = sum(b - a for a, b in lacking)
        if fresh < len(piece) and len(cursor.addresses) != _IPV4_ADDRESSES:
            return FRAGMENT_DUPLICATE if (start, piece) in self.pieces else FRAGMENT_MALFORMED
        if not fresh and (more or self.total >= 0):
            return FRAGMENT_DUPLICATE
        for a, b in lacking:
            bisect.insort(self.pieces, (a, piece[a - start : b - start]))
        self.have += fresh
        if more:
            self.more_end = max(self.more_end, end)
        elif self.total < 0:
            self.total = end
            self.reach = start + len(piece)
        if start == 0:
            self.protocol = cursor.piece.protocol
        return FRAGMENT_HELD

    def _lacking(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that are not here yet."""
        parts = []
        for position, octets in self.pieces:
            if position >= end:
                break
            if start < position:
                parts.append((start, position))
            start = max(start, position + len(octets))
        if start < end:
            parts.append((start, end))
        return parts

    def whole(self) -> bool:
        if self.total < 0 or not self.pieces:
            return False
        position, octets = self.pieces[-1]
        return self.have == position + len(octets) and self.have >= self.reach

    def cost(self) -> int:
        return self.have + OVERHEAD * (len(self.pieces) + 1)

    def prints(self) -> set[int] | None:
        """To know its fragments again; None where there are too many to remember."""
        return {hash(piece) for piece in self.pieces} if len(self.pieces) <= PRINTS else None


class FragmentBuffer:
    """All that is held. Counts what it holds and lets go; verdicts are the caller's to count."""

    __slots__ = ("_closed", "_datagrams", "_ledger", "_limits", "_octets")

    def __init__(self, ledger: Ledger, limits: FragmentLimits = DEFAULT_LIMITS) -> None:
        self._ledger = ledger
        self._limits = limits
        # In the order in which they began. A plain dict would search for its first key ever longer.
        self._datagrams: OrderedDict[bytes, _Datagram] = OrderedDict()
        # Until when, which verdict, and on which pieces (None: on all).
        self._closed: OrderedDict[bytes, tuple[int, int, set[int] | None]] = OrderedDict()
        self._octets = 0

    def add(self, cursor: Cursor) -> int:
        """Take the fragment at the cursor.

        FRAGMENT_HELD: taken and counted. A code of what comes next: the cursor is at the whole
        datagram, and the fragments held of it are counted as merged. Else a verdict.
        """
        length = cursor.end - cursor.offset
        fragment = cursor.piece
        if length <= 0 or fragment.start + length > MAX_DATAGRAM or (fragment.more and length % _UNIT):
            return FRAGMENT_MALFORMED
        if fragment.more and cursor.limit < cursor.end:
            return CUT
        key = _key(cursor)
        closed = self._closed.get(key)
        if closed is not None:
            until, verdict, prints = closed
            if cursor.ts <= until and (prints is None or _print(cursor) in prints):
                return verdict
            del self._closed[key]  # its time is over, or another datagram has the same identification
        datagram = self._datagrams.get(key)
        if datagram is not None and cursor.ts - datagram.ts > self._limits.age:
            self._discard(key, "fragment_expired")
            datagram = None
        if datagram is None:
            datagram = self._datagrams[key] = _Datagram(cursor.ts)
            self._octets += datagram.cost()
        return self._take(key, datagram, cursor)

    def _take(self, key: bytes, datagram: _Datagram, cursor: Cursor) -> int:
        before = datagram.cost()
        code = datagram.insert(cursor, cursor.data[cursor.offset : cursor.limit])
        self._octets += datagram.cost() - before
        if code == FRAGMENT_HELD:
            if datagram.whole():
                return self._complete(key, datagram, cursor)
            if datagram.count < self._limits.fragments:
                return self._hold(datagram)
            code = FRAGMENT_EVICTED
        if code != FRAGMENT_DUPLICATE:
            self._discard(key, REASONS[code])
            self._close(key, cursor.ts + self._limits.age, code)
        return code

    def _complete(self, key: bytes, datagram: _Datagram, cursor: Cursor) -> int:
        ts, prints = cursor.ts, datagram.prints()
        cursor.data = b"".join([octets for _, octets in datagram.pieces])
        cursor.offset = 0
        cursor.limit = len(cursor.data)
        cursor.end = datagram.total
        self._discard(key, "fragment_merged")
        self._close(key, ts + REPETITION, FRAGMENT_DUPLICATE, prints)
        return PROTOCOL + datagram.protocol

    def _hold(self, datagram: _Datagram) -> int:
        datagram.count += 1
        self._ledger.count("fragment_held")
        while self._octets > self._limits.octets or len(self._datagrams) > self._limits.datagrams:
            self._discard(next(iter(self._datagrams)), "fragment_evicted")
        return FRAGMENT_HELD

    def _discard(self, key: bytes, reason: str) -> None:
        """Let a datagram go; the frames held of it are counted under ``reason``."""
        datagram = self._datagrams.pop(key)
        self._octets -= datagram.cost()
        self._ledger.count("fragment_held", -datagram.count)
        self._ledger.count(reason, datagram.count)

    def _close(self, key: bytes, until: int, code: int, prints: set[int] | None = None) -> None:
        self._closed[key] = (until, code, prints)
        if len(self._closed) > self._limits.datagrams:
            del self._closed[next(iter(self._closed))]

    def tick(self, now: int) -> None:
        """Expire what began more than ``age`` ns before ``now``, in the order in which it began."""
        while self._datagrams:
            key = next(iter(self._datagrams))
            if now - self._datagrams[key].ts <= self._limits.age:
                break
            self._discard(key, "fragment_expired")

    def close(self) -> None:
        """The capture is over: what is held stays unfinished."""
        while self._datagrams:
            self._discard(next(iter(self._datagrams)), "fragment_expired")
        self._closed.clear()


def _print(cursor: Cursor) -> int:
    return hash((cursor.piece.start, cursor.data[cursor.offset : cursor.limit]))


def _key(cursor: Cursor) -> bytes:
    fragment = cursor.piece
    # In IPv6 the first fragment alone says what is inside (RFC 8200 §4.5); its key is longer than IPv4's.
    protocol = fragment.protocol if len(cursor.addresses) == _IPV4_ADDRESSES else 0
    named = fragment.identification.to_bytes(4) + protocol.to_bytes(1)
    return cursor.addresses + named + cursor.vni + cursor.outer
