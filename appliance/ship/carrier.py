"""A shipper on a loop in a thread of its own, for those who are not asynchronous themselves.

Contract: ``put`` waits while the queue is full, so that a file is read no faster than its calls are taken;
``offer`` never waits, so that no sink holds up a capture. ``finish`` delivers the rest and returns the
counts. Waits are left when ``give_up`` says so, which is asked every ``ASK`` seconds, and by
KeyboardInterrupt. What goes wrong in the thread is raised by the next call.

Nothing in here outlives ``finish``: name resolution and compression run in daemon threads, since a resolver
that does not answer would else hold up the end of the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from appliance.model import Batch
from appliance.ship.shipper import Outside, Shipper, ShipperOptions
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


class Carrier:
    def __init__(
        self, sink: Sink, options: ShipperOptions, outside: Outside, spool: Spool | None = None
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_Daemons())
        self._thread = threading.Thread(target=self._loop.run_forever, name="uploads", daemon=True)
        self._thread.start()
        self._repeating: list[Future[None]] = []
        self._sink = sink
        self._shipper = self._run(self._begin(sink, options, outside, spool)).result()

    def put(self, batch: Batch, give_up: Callable[[], bool] = never) -> bool:
        """Waits for room; whether there was any."""
        return self._wait(self._run(self._shipper.put(batch)), give_up)

    def offer(self, batch: Batch) -> None:
        """Never waits: what there is no room for is shed."""
        self._loop.call_soon_threadsafe(self._shipper.offer, batch)

    def every(self, seconds: float, flush: Callable[[], Batch | None]) -> None:
        """Ask ``flush``, in the loop's thread, for what has waited long enough."""
        self._repeating.append(self._run(self._repeat(seconds, flush)))

    def finish(self, give_up: Callable[[], bool] = never) -> dict[str, int]:
        """Deliver the rest, or until ``give_up``; the counts."""
        for one in self._repeating:
            one.cancel()
        try:
            try:
                delivered = self._wait(self._run(self._shipper.drain(None)), give_up)
            except KeyboardInterrupt:
                delivered = False
            if not delivered:
                self._wait(self._run(self._shipper.drain(0.0)), never)
            self._wait(self._run(asyncio.wait_for(self._sink.close(), ENDING)), never)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(ENDING)
            if not self._thread.is_alive():
                self._loop.close()
        return self.counts()

    def counts(self) -> dict[str, int]:
        return dict(self._shipper.counts)

    def _wait(self, future: Future[Any], give_up: Callable[[], bool]) -> bool:
        try:
            while not give_up():
                try:
                    future.result(ASK)
                except TimeoutError:
                    if future.done():
                        raise  # the work's own
                else:
                    return True
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
                await self._shipper.put(batch)

    @staticmethod
    async def _begin(sink: Sink, options: ShipperOptions, outside: Outside, spool: Spool | None) -> Shipper:
        shipper = Shipper(sink, options, outside, spool)
        shipper.start()
        return shipper
