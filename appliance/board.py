"""The ledgers of all workers, in memory that a killed worker leaves behind as it last was.

Contract: a worker publishes its tally after every batch, and before a batch what it holds in hand; the
supervisor reads at any moment, also after the worker's death, and what it reads adds up. The tally is there
twice, written in turn, and a counter says which one is whole: a worker that dies while it writes leaves the
other. Counts by mirror session are there once: no sum depends on them.

One writer a part, one reader. Bounds: ledger.MAX_SESSIONS rows a part, about 120 KiB.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Sequence
from typing import Final

from appliance.ledger import BY_SESSION, BY_SINK, MAX_SESSIONS, TABLE, Ledger

_NUMBERS: Final = "q"
_OCTETS: Final = 8
_TURN: Final = 0  # how often the tally was published; its parity says where the last one is
_BEAT: Final = 1  # when the worker last came by, in nanoseconds
_ROWS: Final = 2  # sessions written
_TALLY: Final = 3
_ROW: Final = 1 + len(BY_SESSION)
_FRAMES: Final = 1 + BY_SESSION.index("frames")
_REFUSED: Final = 1 + BY_SESSION.index("frame_vni_not_selected")


class Part:
    """One worker's share of the memory."""

    def __init__(self, numbers: memoryview, sinks: Sequence[str] = ()) -> None:
        self._numbers = numbers
        self._sinks = sinks
        self._width = _width(sinks)
        self._first = _TALLY + 2 * self._width  # of the sessions
        self._rows: dict[int, int] = {}  # session -> where its row begins

    def clear(self) -> None:
        """For the next worker in this place."""
        self._numbers[:] = array(_NUMBERS, bytes(_OCTETS * len(self._numbers)))
        self._rows = {}

    def hold(self, frames: int) -> None:
        """``frames`` were read and are not in the tally."""
        self._numbers[self._last() + self._width - 1] = frames

    def beat(self, now: int) -> None:
        self._numbers[_BEAT] = now

    def publish(self, ledger: Ledger, held: int) -> None:
        numbers = self._numbers
        turn = numbers[_TURN] + 1
        begin = _TALLY + (turn & 1) * self._width
        by_sink = [n for sink in self._sinks for n in ledger.sink(sink).values()]
        numbers[begin : begin + self._width] = array(_NUMBERS, [*ledger.tally.values(), *by_sink, held])
        numbers[_TURN] = turn

    def publish_sessions(self, ledger: Ledger) -> None:
        """Dearer, where there are many: once in a while is enough."""
        for session, counts in ledger.sessions.items():
            begin = self._rows.get(session)
            if begin is None:
                begin = self._rows[session] = self._first + len(self._rows) * _ROW
            self._numbers[begin : begin + _ROW] = array(_NUMBERS, [session, *counts.values()])
        self._numbers[_ROWS] = len(self._rows)

    def held(self) -> int:
        return int(self._numbers[self._last() + self._width - 1])

    def last_beat(self) -> int:
        return int(self._numbers[_BEAT])

    def sessions(self) -> list[tuple[int, bool]]:
        """Mirror sessions, and whether anything of them was selected."""
        numbers = self._numbers
        begins = [self._first + row * _ROW for row in range(numbers[_ROWS])]
        return [(int(numbers[at]), numbers[at + _FRAMES] > numbers[at + _REFUSED]) for at in begins]

    def _last(self) -> int:
        """Where the last tally begins."""
        return _TALLY + (self._numbers[_TURN] & 1) * self._width

    def read(self) -> Ledger:
        """As last published."""
        ledger = Ledger()
        numbers = self._numbers
        turn = -1
        while turn != numbers[_TURN]:  # else the writer may have come round to what is being read
            turn = numbers[_TURN]
            begin = _TALLY + (turn & 1) * self._width
            values = iter(numbers[begin : begin + self._width - 1].tolist())
        ledger.tally = dict(zip(TABLE, values, strict=False))
        for sink in self._sinks:
            ledger.sinks[sink] = dict(zip(BY_SINK, values, strict=False))
        for row in range(numbers[_ROWS]):
            begin = self._first + row * _ROW
            session, *counts = numbers[begin : begin + _ROW].tolist()
            ledger.sessions[session] = dict(zip(BY_SESSION, counts, strict=True))
        return ledger


class Board:
    """To be made before the workers are."""

    def __init__(self, workers: int, sinks: Sequence[str] = ()) -> None:
        size = _TALLY + 2 * _width(sinks) + (MAX_SESSIONS + 1) * _ROW
        self._memory = mmap.mmap(-1, workers * size * _OCTETS)  # anonymous and shared across fork
        numbers = memoryview(self._memory).cast(_NUMBERS)
        self.parts = [Part(numbers[i * size : (i + 1) * size], sinks) for i in range(workers)]


def _width(sinks: Sequence[str]) -> int:
    """Of a tally, the rows of the sinks, and the frames read that the tally does not know of yet."""
    return len(TABLE) + len(sinks) * len(BY_SINK) + 1


def add(total: Ledger, one: Ledger) -> None:
    for name, count in one.tally.items():
        total.tally[name] += count
    for sink, row in one.sinks.items():
        into = total.sink(sink)
        for name, count in row.items():
            into[name] += count
    for session, counts in one.sessions.items():
        for name, count in counts.items():
            total.at(session, name, count)


# What a dead worker held, and what became of it.
_HELD_BY_THE_DEAD: Final[dict[str, str]] = {
    "fragment_held": "frame_worker_lost",
    "segment_held_bytes": "segment_worker_lost_bytes",
    "flow_open": "flow_worker_lost",
    "http_held_bytes": "http_worker_lost_bytes",
    "probe_held_bytes": "http_worker_lost_bytes",
    "exchange_open": "exchange_worker_lost",
}


def bury(part: Part, *, again: bool = False) -> Ledger:
    """The ledger of a worker that has died: what it held is lost, by name. Clears the part.

    ``again``: another one follows, which finds the spool as this one has left it.
    """
    ledger = part.read()
    held = part.held()
    ledger.count("frames", held)
    ledger.count("frame_worker_lost", held)
    for name, reason in _HELD_BY_THE_DEAD.items():
        ledger.count(reason, ledger.tally[name])
        ledger.tally[name] = 0
    for counts in (*ledger.sinks.values(), ledger.tally):
        counts["message_worker_lost"] += counts["message_queued"]
        counts["message_queued"] = 0
        if again:
            counts["message_handed_over"] += counts["message_spooled"]
            counts["message_spooled"] = 0
    part.clear()
    return ledger
