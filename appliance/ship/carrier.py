"""Shippers, one a sink, on a loop in a thread of its own, for those who are not asynchronous themselves.

Contract: every batch goes to every sink. ``put`` waits while a queue is full, so that a file is read no
faster than its calls are taken; ``offer`` never waits, so that no sink holds up a capture, nor another sink.
``finish`` delivers the rest, to all at a time, and returns the counts by sink. Waits are left when
``give_up`` says so, which is asked every ``ASK`` seconds, and by KeyboardInterrupt. What goes wrong in the
thread is raised by the next call.

Nothing in here outlives ``finish``: name resolution and compression run in daemon threads, since a resolver
that does not answer would else hold up the end of the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

from appliance.model import Batch
from appliance.ship.outside import Outside
from appliance.ship.shipper import Shipper, ShipperOptions
from appliance.ship.spool import Spool
from appliance.sinks.base import Sink

ASK: Final = 0.1  # seconds
ENDING: Final = 1.0  # seconds for closing connections

_P = ParamSpec("_P")
_T = TypeVar("_T")


def never() -> bool:
    return False


class _Daemons(ThreadPoolExecutor):
    """A thread a task, as many as uploads at a time. asyncio insists on the class, which joins its own."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # it belongs to who waits for it
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=run, daemon=True).start()
        return future


@dataclass(frozen=True, slots=True)
class Route:
    """To one sink."""

    name: str
    sink: Sink
    options: ShipperOptions
    outside: Outside
    spool: Spool | None = None


class Carrier:
    def __init__(self, routes: Sequence[Route]) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_Daemons())
        self._thread = threading.Thread(target=self._loop.run_forever, name="uploads", daemon=True)
        self._thread.start()
        self._repeating: list[Future[None]] = []
        self._routes = routes
        self._shippers = self._run(self._begin()).result()

    def put(self, batch: Batch, give_up: Callable[[], bool] = never) -> bool:
        """Waits for room; whether there was any. Where not, the batch is what is left at the end."""
        return self._wait(self._run(self._put(batch)), give_up)

    def leave(self, batch: Batch) -> None:
        """There is no time to wait for room: it is what is left at the end."""
        for shipper in self._shippers.values():
            self._loop.call_soon_threadsafe(shipper.leave, batch)

    def offer(self, batch: Batch) -> None:
        """Never waits: what there is no room for goes to the spool, or is shed."""
        for shipper in self._shippers.values():
            self._loop.call_soon_threadsafe(shipper.offer, batch)

    def every(self, seconds: float, flush: Callable[[], Batch | None]) -> None:
        """Ask ``flush``, in the loop's thread, for what has waited long enough."""
        self._repeating.append(self._run(self._repeat(seconds, flush)))

    def finish(self, give_up: Callable[[], bool] = never) -> dict[str, dict[str, int]]:
        """Deliver the rest, or until ``give_up``; the counts."""
        for one in self._repeating:
            one.cancel()
        try:
            try:
                delivered = self._wait(self._run(self._drain(None)), give_up)
            except KeyboardInterrupt:
                delivered = False
            if not delivered:
                self._wait(self._run(self._drain(0.0)), never)
            self._wait(self._run(self._close()), never)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(ENDING)
            if not self._thread.is_alive():
                self._loop.close()
        return self.counts()

    def counts(self) -> dict[str, dict[str, int]]:
        """By sink; names of shipper.COUNTS, and the sink's own."""
        return {name: {**one.counts, **one.sink_counts()} for name, one in self._shippers.items()}

    def _wait(self, future: Future[Any], give_up: Callable[[], bool]) -> bool:
        try:
            while True:  # at least once: what is never begun cannot say what becomes of its batch
                try:
                    future.result(ASK)
                except TimeoutError:
                    if future.done():
                        raise  # the work's own
                else:
                    return True
                if give_up():
                    break
        except KeyboardInterrupt:
            future.cancel()
            raise
        future.cancel()
        return False

    def _run(self, work: Coroutine[object, object, _T]) -> Future[_T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _repeat(self, seconds: float, flush: Callable[[], Batch | None]) -> None:
        while True:
            await asyncio.sleep(seconds)
            batch = flush()
            if batch is not None:
                await self._put(batch)

    async def _begin(self) -> dict[str, Shipper]:
        shippers = {one.name: Shipper(one.sink, one.options, one.outside, one.spool) for one in self._routes}
        for shipper in shippers.values():
            shipper.start()
        return shippers

    async def _put(self, batch: Batch) -> None:
        await asyncio.gather(*(shipper.put(batch) for shipper in self._shippers.values()))

    async def _drain(self, seconds: float | None) -> None:
        await asyncio.gather(*(shipper.drain(seconds) for shipper in self._shippers.values()))

    async def _close(self) -> None:
        for one in self._routes:
            with suppress(TimeoutError):
                await asyncio.wait_for(one.sink.close(), ENDING)
            if one.spool is not None:
                one.spool.close()
