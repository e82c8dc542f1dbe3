"""Batches -> a sink: a bounded queue, several uploads at a time, retries, a spool for what has no room.

Contract: a batch is delivered, rejected or still here, never lost on the way: at any moment calls taken =
delivered + rejected + shed + queued + spooled + undelivered. What may go better later is tried again without
limit, after a wait that doubles with every failure up to ``LONGEST``, shortened by dice so that many
appliances do not come back at once (full jitter), lengthened to what the server asks for. ``drain`` ends it,
and the waits: what may be well by now is tried at once.

With a spool, what the queue has no room for, and what is left at the end, waits on disk instead: it is sent
oldest first beside what is new, and removed when the sink has it. Without, the one is shed, the other
undelivered. ``ahead``: what is offered goes by way of the disk, since the sink keeps it long; a crash then
loses nothing. A spool that fails is said, and the batch goes on as if there were none.

One sink, one shipper: sinks do not hold each other up. Clock, dice and sleep come from the caller.
Bounds: ``queue`` batches of ``octets`` in all wait, and as many octets wait for the disk (one larger than
that waits alone); ``in_flight`` are being sent from the queue and as many from the spool, of ``sending``
octets in all and one batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from appliance.model import Batch
from appliance.ship.backlog import Backlog
from appliance.ship.outside import Outside, Reports
from appliance.ship.spool import Spool, Spooled, SpoolError
from appliance.sinks.base import Reject, Retry, Sink

SHORTEST: Final = 1.0  # seconds
AGAIN: Final = 5.0  # seconds until the disk is asked again to remove what was sent
_T = TypeVar("_T")
LONGEST: Final = 60.0
LAST: Final = 2.0  # at the end: nobody waits a minute for what may be well by now
COUNTS: Final = (
    "message_delivered",
    "message_rejected",
    "message_queued",
    "message_shed",
    "message_undelivered",
    "message_restored",
    "message_spooled",
    "message_unsure",
    "upload_bytes",
    "uploads",
    "upload_retries",
)


@dataclass(frozen=True, slots=True)
class ShipperOptions:
    queue: int = 128
    octets: int = 256 << 20
    in_flight: int = 4
    sending: int = 96 << 20
    ahead: bool = False


class Shipper:
    def __init__(
        self, sink: Sink, options: ShipperOptions, outside: Outside, spool: Spool | None = None
    ) -> None:
        self._sink = sink
        self._backlog = None if spool is None else Backlog(spool)
        self._options = options
        self._outside = outside
        self._queue: asyncio.Queue[Batch] = asyncio.Queue(options.queue)
        self._octets = 0  # in the queue
        self._under_way = 0  # octets being sent
        self._lighter = asyncio.Event()
        self._sending: dict[int, Batch] = {}  # of the queue, by number
        self._number = 0
        self._late: list[Batch] = []  # come when there was no time left
        self._freed = asyncio.Event()
        self._ending = asyncio.Event()
        self._takers: list[asyncio.Task[None]] = []
        self._sends: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._kept_octets = 0  # on their way to the disk
        self._reports = Reports(outside)
        self.counts = dict.fromkeys(COUNTS, 0)
        self._begin: Callable[[], None] = getattr(sink, "begin", lambda: None)
        self.sink_counts: Callable[[], Mapping[str, int]] = getattr(sink, "counts", dict)
        if spool is not None:
            self.counts["message_restored"] = self.counts["message_spooled"] = spool.calls

    def start(self) -> None:
        self._begin()
        self._takers = [asyncio.create_task(self._empty_queue())]
        if self._backlog is not None:
            self._takers.append(asyncio.create_task(self._empty_spool(self._backlog)))

    # -- in

    async def put(self, batch: Batch) -> None:
        """Waits for room. Cancelled, the batch is what is left at the end."""
        self.counts["message_queued"] += batch.count
        try:
            while not self._has_room(batch):
                self._freed.clear()
                await self._freed.wait()
        except asyncio.CancelledError:
            self._late.append(batch)
            raise
        self._enqueue(batch)

    def leave(self, batch: Batch) -> None:
        """There is no time to wait for room: it is what is left at the end."""
        self.counts["message_queued"] += batch.count
        self._late.append(batch)

    def offer(self, batch: Batch) -> None:
        """For those who cannot wait: without room it goes to the spool, or is shed."""
        self.counts["message_queued"] += batch.count
        backlog, size = self._backlog, len(batch.payload)
        if self._kept_octets and self._kept_octets + size > self._options.octets:
            backlog = None  # too much waits for the disk
        ahead = self._options.ahead and backlog is not None and backlog.has_room(self._kept_octets + size)
        if not ahead and self._has_room(batch):  # common case
            self._enqueue(batch)
        elif backlog is not None:
            self._kept_octets += size
            self._task(self._keep(backlog, batch))
        else:
            self._shed(batch)

    def _has_room(self, batch: Batch) -> bool:
        if self._queue.full():
            return False
        return not self._octets or self._octets + len(batch.payload) <= self._options.octets

    def _enqueue(self, batch: Batch) -> None:
        self._octets += len(batch.payload)
        self._queue.put_nowait(batch)

    def _shed(self, batch: Batch) -> None:
        self.counts["message_queued"] -= batch.count
        self.counts["message_shed"] += batch.count
        self._reports.add("the queue is full: calls are shed")

    async def _keep(self, backlog: Backlog, batch: Batch) -> None:
        try:
            kept = await self._store(backlog, batch)
        finally:
            self._kept_octets -= len(batch.payload)
        if not kept:
            if self._has_room(batch):
                self._enqueue(batch)
            else:
                self._shed(batch)

    async def _store(self, backlog: Backlog, batch: Batch) -> bool:
        """To the disk; false: it does not take it, and the batch is still queued."""
        try:
            shed = await backlog.keep(batch)
        except SpoolError as error:
            self._reports.add(str(error))
            return False
        self.counts["message_queued"] -= batch.count
        self.counts["message_spooled"] += batch.count - shed
        self.counts["message_shed"] += shed
        if shed:
            self._reports.add("the spool is full: the oldest calls are shed")
        return True

    # -- out

    async def _empty_queue(self) -> None:
        slots = asyncio.Semaphore(self._options.in_flight)
        while True:
            await slots.acquire()
            await self._light()
            batch = await self._queue.get()
            self._octets -= len(batch.payload)
            self._under_way += len(batch.payload)
            self._freed.set()
            self._number += 1
            self._sending[self._number] = batch
            self._send(self._new(self._number, batch), slots)

    async def _new(self, number: int, batch: Batch) -> None:
        reason = await self._deliver(batch)
        del self._sending[number]
        self.counts["message_queued"] -= batch.count
        self.counts[reason] += batch.count
        self._queue.task_done()

    async def _empty_spool(self, backlog: Backlog) -> None:
        """Oldest first."""
        slots = asyncio.Semaphore(self._options.in_flight)
        while True:
            await slots.acquire()
            await self._light()
            while True:
                try:
                    found = await backlog.next()
                    break
                except SpoolError as error:
                    self._reports.add(str(error))
                    await self._outside.sleep(LONGEST)
            self._under_way += len(found.batch.payload)
            self._send(self._old(backlog, found), slots)

    async def _old(self, backlog: Backlog, found: Spooled) -> None:
        reason = await self._deliver(found.batch)
        while not await asyncio.shield(
            self._task(self._settle(backlog, found, reason))
        ):  # whole or not at all
            await self._outside.sleep(AGAIN)

    def _send(self, work: Coroutine[None, None, None], slots: asyncio.Semaphore) -> None:
        task = asyncio.create_task(work)
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)
        task.add_done_callback(lambda _: slots.release())

    async def _settle(self, backlog: Backlog, found: Spooled, reason: str) -> bool:
        try:
            await backlog.done(found)
        except SpoolError as error:
            self._reports.add(f"{error}: calls that were sent stay in it, and may be sent once more")
            return False
        self.counts["message_spooled"] -= found.batch.count
        self.counts[reason] += found.batch.count
        return True

    def _task(self, work: Coroutine[None, None, _T]) -> asyncio.Task[_T]:
        """One that is waited for at the end."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _light(self) -> None:
        """Wait while too much is under way."""
        while self._under_way >= self._options.sending:
            self._lighter.clear()
            await self._lighter.wait()

    async def _deliver(self, batch: Batch) -> str:
        """Try until there is an answer; which count the batch belongs to."""
        try:
            return await self._try(batch)
        finally:
            self._under_way -= len(batch.payload)
            self._lighter.set()

    async def _try(self, batch: Batch) -> str:
        failures = 0
        unsure = 0  # calls of a batch that its sink may have, though we send it again; each counts once
        while True:
            try:
                await self._sink.send(batch)
            except asyncio.CancelledError:
                self.counts["message_unsure"] += batch.count - unsure
                raise
            except Reject as rejection:
                self._reports.add(f"{rejection.reason}: refused, not sent again")
                return "message_rejected"
            except Retry as retry:
                reason, after = retry.reason, retry.after
                if retry.unsure and not unsure:
                    unsure = batch.count
                    self.counts["message_unsure"] += unsure
            except Exception as error:  # noqa: BLE001  # a defect of the sink must not stop the others' batches
                reason, after = f"defect: {type(error).__name__}", None
            else:
                self.counts["uploads"] += 1
                self.counts["upload_bytes"] += len(batch.payload)
                return "message_delivered"
            failures += 1
            self.counts["upload_retries"] += 1
            self._reports.add(f"{reason}: will be sent again")
            await self._rest(failures, after)

    async def _rest(self, failures: int, after: float | None) -> None:
        longest = LAST if self._ending.is_set() else LONGEST
        wait = min(SHORTEST * 2.0 ** min(failures - 1, 16), longest) * self._outside.dice()
        if after or self._ending.is_set():
            await self._outside.sleep(max(wait, after or 0.0))
            return
        both = [asyncio.ensure_future(self._outside.sleep(wait)), asyncio.ensure_future(self._ending.wait())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()

    # -- the end

    async def drain(self, seconds: float | None) -> None:
        """Until all is delivered or rejected, or the time is over; then the rest is undelivered."""
        self._sink.hurry()
        self._ending.set()
        ending = asyncio.ensure_future(self._end())
        try:
            await asyncio.wait([ending], timeout=seconds)
        finally:
            ending.cancel()
        for task in (*self._takers, *self._sends):
            task.cancel()
        await asyncio.gather(ending, *self._takers, *self._sends, return_exceptions=True)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._backlog is not None:
            for batch in self._left():
                await self._store(self._backlog, batch)
        self.counts["message_undelivered"] += self.counts["message_queued"]
        self.counts["message_queued"] = 0
        self._reports.flush()

    async def _end(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._queue.join()
        if self._backlog is not None:
            await self._backlog.over()

    def _left(self) -> list[Batch]:
        """Those that were being sent, those that waited, those that came late; each once."""
        left = [*self._sending.values()]
        while not self._queue.empty():
            left.append(self._queue.get_nowait())
        left += self._late
        self._sending, self._late = {}, []
        return left
