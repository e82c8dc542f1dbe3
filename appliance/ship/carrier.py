"""A shipper on a loop in a thread of its own, for those who are not asynchronous themselves.

Contract: ``put`` blocks while the queue is full, so that a file is read no faster than its calls are taken.
``finish`` delivers the rest, within its time, and returns the counts. What goes wrong in the thread is
raised by the next call.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import TypeVar

from appliance.model import Batch
from appliance.ship.shipper import Outside, Shipper, ShipperOptions
from appliance.sinks.base import Sink

_T = TypeVar("_T")


class Carrier:
    def __init__(self, sink: Sink, options: ShipperOptions, outside: Outside) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="uploads", daemon=True)
        self._thread.start()
        self._sink = sink
        self._shipper = self._run(self._begin(sink, options, outside)).result()

    def put(self, batch: Batch) -> None:
        """Waits for room. KeyboardInterrupt ends the wait; the batch then counts as undelivered."""
        waiting = self._run(self._shipper.put(batch))
        try:
            waiting.result()
        except KeyboardInterrupt:
            waiting.cancel()
            raise

    def finish(self, seconds: float | None) -> dict[str, int]:
        """Deliver the rest within ``seconds``, or until KeyboardInterrupt; the counts."""
        try:
            self._finish(seconds)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
        return self._shipper.counts

    def _finish(self, seconds: float | None) -> None:
        ending = self._run(self._end(seconds))
        try:
            ending.result()
        except KeyboardInterrupt:  # the user waits no longer
            ending.cancel()
            self._run(self._end(0.0)).result()

    def counts(self) -> dict[str, int]:
        return dict(self._shipper.counts)

    def _run(self, work: Coroutine[object, object, _T]) -> Future[_T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    @staticmethod
    async def _begin(sink: Sink, options: ShipperOptions, outside: Outside) -> Shipper:
        shipper = Shipper(sink, options, outside)
        shipper.start()
        return shipper

    async def _end(self, seconds: float | None) -> None:
        await self._shipper.drain(seconds)
        await self._sink.close()
