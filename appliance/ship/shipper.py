"""Batches -> a sink: a bounded queue, several uploads at a time, retries.

Contract: a batch is delivered, rejected or still queued, never lost on the way: at any moment calls taken =
delivered + rejected + shed + queued + undelivered. What may go better later is tried again without limit,
after a wait that doubles with every failure up to ``LONGEST``, shortened by dice so that many appliances do
not come back at once (full jitter), lengthened to what the server asks for. ``drain`` ends it.

With a spool, what the queue has no room for, and what is left at the end, waits on disk instead: it is sent
oldest first beside what is new, and removed when the sink has it. Without, the one is shed, the other
undelivered. A spool that fails is said, and the batch counts as if there were none.

One sink, one shipper: sinks do not hold each other up. Clock, dice and sleep come from the caller.
Bounds: ``queue`` batches of ``octets`` in all wait (one larger than that waits alone) and ``in_flight`` are
being sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from appliance.model import Batch
from appliance.ship.spool import Spool, SpoolError
from appliance.sinks.base import Reject, Retry, Sink

SHORTEST: Final = 1.0  # seconds
LONGEST: Final = 60.0
QUIET: Final = 60.0  # seconds between two reports of one reason


@dataclass(frozen=True, slots=True)
class ShipperOptions:
    queue: int = 128
    octets: int = 256 << 20
    in_flight: int = 4


@dataclass(frozen=True, slots=True)
class Outside:
    """What a shipper may not have of its own."""

    clock: Callable[[], float]  # seconds, from any start
    dice: Callable[[], float]  # 0 to 1
    sleep: Callable[[float], Awaitable[None]]
    say: Callable[[str], None]


class Shipper:
    def __init__(
        self, sink: Sink, options: ShipperOptions, outside: Outside, spool: Spool | None = None
    ) -> None:
        self._sink = sink
        self._spool = spool
        self._spooled = asyncio.Event()
        self._disk = asyncio.Lock()  # one thing at a time
        self._keeping: set[asyncio.Task[None]] = set()
        self._kept_octets = 0  # on their way to the disk
        self._options = options
        self._outside = outside
        self._queue: asyncio.Queue[Batch] = asyncio.Queue(options.queue)
        self._octets = 0  # in the queue
        self._sending: dict[int, Batch] = {}
        self._freed = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []
        self._reports = Reports(outside)
        self.counts = {
            "message_delivered": 0,
            "message_rejected": 0,
            "message_queued": 0,
            "message_shed": 0,
            "message_undelivered": 0,
            "message_restored": 0 if spool is None else spool.calls,
            "message_spooled": 0 if spool is None else spool.calls,
            "upload_bytes": 0,
            "uploads": 0,
            "upload_retries": 0,
        }

    def start(self) -> None:
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._options.in_flight)]
        if self._spool is not None:
            self._workers.append(asyncio.create_task(self._empty(self._spool)))

    async def put(self, batch: Batch) -> None:
        """Waits for room. Cancelled, the batch is undelivered."""
        self.counts["message_queued"] += batch.count
        try:
            while not self._has_room(batch):
                self._freed.clear()
                await self._freed.wait()
            self._octets += len(batch.payload)
            self._queue.put_nowait(batch)
        except asyncio.CancelledError:
            self.counts["message_queued"] -= batch.count
            self.counts["message_undelivered"] += batch.count
            raise

    def offer(self, batch: Batch) -> None:
        """For those who cannot wait: without room it goes to the spool, or is shed."""
        if self._has_room(batch):
            self._queue.put_nowait(batch)
            self._octets += len(batch.payload)
            self.counts["message_queued"] += batch.count
        elif self._spool is not None and self._kept_octets + len(batch.payload) <= self._options.octets:
            self.counts["message_queued"] += batch.count
            task = asyncio.create_task(self._keep(self._spool, batch, "message_shed"))
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)
        else:
            self.counts["message_shed"] += batch.count
            self._reports.add("the queue is full: calls are shed")

    async def _keep(self, spool: Spool, batch: Batch, otherwise: str) -> None:
        """To the disk; ``otherwise``: what it counts as where that fails."""
        size = len(batch.payload)
        self._kept_octets += size
        try:
            async with self._disk:
                shed = await asyncio.to_thread(spool.put, batch)
        except SpoolError as error:
            self._reports.add(str(error))
            self.counts[otherwise] += batch.count
        else:
            self.counts["message_shed"] += shed
            self.counts["message_spooled"] += batch.count - shed
            if shed:
                self._reports.add("the spool is full: the oldest calls are shed")
            self._spooled.set()
        finally:
            self._kept_octets -= size
            self.counts["message_queued"] -= batch.count

    async def _empty(self, spool: Spool) -> None:
        """Send what is on disk, oldest first."""
        while True:
            self._spooled.clear()
            try:
                async with self._disk:
                    found = await asyncio.to_thread(spool.first)
            except SpoolError as error:
                self._reports.add(str(error))
                found = None
            if found is None:
                await self._spooled.wait()
                continue
            reason = await self._deliver(found.batch)
            try:
                async with self._disk:
                    held = await asyncio.to_thread(spool.remove, found.number)
            except SpoolError as error:  # it would be sent again and again
                self._reports.add(str(error))
                return
            self.counts[reason] += held  # none: it was shed meanwhile, and counted so
            self.counts["message_spooled"] -= held

    def _has_room(self, batch: Batch) -> bool:
        if self._queue.full():
            return False
        return not self._octets or self._octets + len(batch.payload) <= self._options.octets

    async def drain(self, seconds: float | None) -> None:
        """Until all is delivered or rejected, or the time is over; then the rest is undelivered."""
        waiting = asyncio.ensure_future(self._queue.join())
        try:
            await asyncio.wait([waiting], timeout=seconds)
        finally:
            waiting.cancel()
        for task in self._workers:
            task.cancel()
        await asyncio.gather(waiting, *self._workers, *self._keeping, return_exceptions=True)
        if self._spool is not None:
            for batch in self._left():
                await self._keep(self._spool, batch, "message_undelivered")
        self.counts["message_undelivered"] += self.counts["message_queued"]
        self.counts["message_queued"] = 0
        self._reports.flush()

    def _left(self) -> list[Batch]:
        """Those that were being sent, then those that waited."""
        left = list(self._sending.values())
        while not self._queue.empty():
            left.append(self._queue.get_nowait())
        return left

    async def _work(self) -> None:
        while True:
            batch = await self._queue.get()
            self._octets -= len(batch.payload)
            self._freed.set()
            self._sending[id(batch)] = batch
            reason = await self._deliver(batch)
            del self._sending[id(batch)]
            self.counts["message_queued"] -= batch.count
            self.counts[reason] += batch.count
            self._queue.task_done()

    async def _deliver(self, batch: Batch) -> str:
        """Try until there is an answer; which count the batch belongs to."""
        failures = 0
        while True:
            try:
                await self._sink.send(batch)
            except Reject as rejection:
                self._reports.add(f"{rejection.reason}: refused, not sent again")
                return "message_rejected"
            except Retry as retry:
                reason, after = retry.reason, retry.after
            except Exception as error:  # noqa: BLE001  # a defect of the sink must not stop the others' batches
                reason, after = f"defect: {type(error).__name__}", None
            else:
                self.counts["uploads"] += 1
                self.counts["upload_bytes"] += len(batch.payload)
                return "message_delivered"
            failures += 1
            self.counts["upload_retries"] += 1
            self._reports.add(f"{reason}: will be sent again")
            await self._outside.sleep(self._wait(failures, after))

    def _wait(self, failures: int, after: float | None) -> float:
        longest = min(SHORTEST * 2.0 ** min(failures - 1, 16), LONGEST)
        return max(longest * self._outside.dice(), after or 0.0)


class Reports:
    """Each reason at once when it is new, then once a minute with its number."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._last: dict[str, float] = {}
        self._since: dict[str, int] = {}

    def add(self, reason: str) -> None:
        now = self._outside.clock()
        self._since[reason] = self._since.get(reason, 0) + 1
        if reason not in self._last or now - self._last[reason] >= QUIET:
            self._last[reason] = now
            self._say(reason)

    def flush(self) -> None:
        for reason in list(self._since):
            self._say(reason)

    def _say(self, reason: str) -> None:
        times = self._since.pop(reason, 0)
        if times:
            with suppress(OSError, ValueError):  # a log that cannot be written stops no delivery
                self._outside.say(reason if times == 1 else f"{reason} ({times} times)")
