"""Calls -> rules -> lines -> batches -> a way to a sink.

Contract: every call is counted: what the rules leave of it is queued, or withheld where the user said that
nothing is to be sent; ``way`` takes the batches and says at the end what became of them. ``Patient`` is for
files: it blocks while the sink takes nothing, so that nothing is shed. ``Live`` is for what does not wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Protocol

import orjson

from appliance.ledger import BY_SINK, TABLE, Ledger
from appliance.model import Batch, HttpExchange, Message
from appliance.ship.batch import Batcher
from appliance.ship.carrier import Carrier

OUTCOMES: Final = (
    "message_delivered",
    "message_rejected",
    "message_shed",
    "message_spooled",
)
BESIDE: Final = tuple(name for name in TABLE if name.startswith("lake_") or name == "message_unsure")
ASKED: Final = 20.0  # seconds that are left for the rest once the user wants an end
TICK: Final = 0.25  # seconds between two looks at what has waited long enough


class Way(Protocol):
    def begin(self, flush: Callable[[], Batch | None], /) -> None: ...

    def put(self, batch: Batch, /) -> None: ...

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """By sink: what has become of the calls, by OUTCOMES, and those restored; others are queued."""
        ...

    def finish(self, last: Batch | None, /) -> None:
        """What is not sent then stays so."""
        ...


class Uploads:
    def __init__(
        self,
        publish: Callable[[HttpExchange], Message | None],
        ledger: Ledger,
        batcher: Batcher,
        way: Way | None,
        now: Callable[[], int],
    ) -> None:
        """``way`` None: nothing is sent. ``now``: nanoseconds."""
        self._publish = publish
        self._ledger = ledger
        self._tally = ledger.tally
        self._batcher = batcher
        self._alone = threading.Lock()  # the batcher: files may wait for input while calls wait to be sent
        self._way = way
        self._now = now
        self._withheld = way is None
        self._sinks = 1 if way is None else len(way.counts())
        self._taken = 0

    def begin(self) -> None:
        if self._way is not None:
            self._way.begin(self._overdue)
            self.settle()

    def take(self, exchange: HttpExchange) -> None:
        message = self._publish(exchange)
        if message is None:
            return
        if self._withheld:
            self._tally["message_withheld"] += 1
            return
        self._taken += 1
        self._tally["message_queued"] += self._sinks
        self._tally["message_copied"] += self._sinks - 1
        line = orjson.dumps(message)
        with self._alone:
            batch = self._batcher.add(line, self._now())
        if batch is not None and self._way is not None:
            self._way.put(batch)

    def pause(self) -> None:
        """Between two batches of frames, and when none come."""
        batch = self._overdue()
        if batch is not None and self._way is not None:
            self._way.put(batch)

    def settle(self) -> None:
        """Bring the ledger up to date."""
        if self._way is None:
            return
        found = self._way.counts()
        for sink, counts in found.items():
            row = self._ledger.sink(sink)
            for name in OUTCOMES:
                row[name] = counts[name]
            row["message_restored"] = counts["message_restored"]
            row["message_queued"] = (
                self._taken + counts["message_restored"] - sum(map(row.__getitem__, OUTCOMES))
            )
        for name in BESIDE:
            self._tally[name] = sum(counts.get(name, 0) for counts in found.values())
        self._sum()

    def _sum(self) -> None:
        for name in BY_SINK:
            self._tally[name] = sum(row[name] for row in self._ledger.sinks.values())

    def end(self) -> None:
        if self._way is not None:
            with self._alone:
                batch = self._batcher.flush()
            self._way.finish(batch)
            self.settle()
            for row in self._ledger.sinks.values():
                row["message_undelivered"] = row["message_queued"]
                row["message_queued"] = 0
            self._sum()

    def obey(self, publish: Callable[[HttpExchange], Message | None], *, withheld: bool) -> None:
        """Other rules, from the next call on; ``withheld``: nothing more is sent."""
        self._publish = publish
        self._withheld = withheld or self._way is None

    def _overdue(self) -> Batch | None:
        with self._alone:
            return self._batcher.tick(self._now())


class Patient:
    """Waits for room, and at the end until all is sent; the user's request limits that, a second ends it."""

    def __init__(  # the parts
        self,
        carrier: Carrier,
        drain: float | None,
        asked: Callable[[], bool],
        clock: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        """``drain``: seconds for the rest at the end, None: as long as it takes.

        ``asked``: whether the user wants an end: then ``drain``, or ASKED seconds, are left from that moment.
        ``clock``: seconds.
        """
        self._carrier = carrier
        self._drain = drain
        self._asked = asked
        self._clock = clock
        self._say = say
        self._until: float | None = None
        self._over = False

    def begin(self, flush: Callable[[], Batch | None]) -> None:
        self._carrier.every(TICK, flush)

    def put(self, batch: Batch) -> None:
        try:
            if self._over:
                self._carrier.leave(batch)
            else:
                self._over = not self._carrier.put(batch, self._is_over)
        except KeyboardInterrupt:  # asked again
            self._over = True

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        return self._carrier.counts()

    def finish(self, last: Batch | None) -> None:
        if self._drain is not None and self._until is None:
            self._until = self._clock() + self._drain
        if last is not None:
            self.put(last)
        with suppress(KeyboardInterrupt):
            self._carrier.finish(self._is_over)

    def _is_over(self) -> bool:
        if self._until is None and self._asked():
            seconds = ASKED if self._drain is None else self._drain
            self._until = self._clock() + seconds
            self._say(f"stopping: what is left is sent for {seconds:g} s at most; ask again to end at once")
        return self._over or (self._until is not None and self._clock() >= self._until)


class Live:
    """Never waits, but at the end."""

    def __init__(self, carrier: Carrier, is_over: Callable[[], bool]) -> None:
        """``is_over``: whether the time for the rest is over, asked at the end."""
        self._carrier = carrier
        self._is_over = is_over

    def begin(self, flush: Callable[[], Batch | None]) -> None:
        """Whoever captures comes by by itself."""

    def put(self, batch: Batch) -> None:
        self._carrier.offer(batch)

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        return self._carrier.counts()

    def finish(self, last: Batch | None) -> None:
        if last is not None:
            self._carrier.offer(last)
        self._carrier.finish(self._is_over)
