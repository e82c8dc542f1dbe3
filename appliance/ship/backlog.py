"""A spool as the shipper uses it: off the loop's thread, one thing at a time, each batch handed out once.

Contract: ``keep`` puts a batch on disk, or says why not (SpoolError) and nothing has changed; ``next`` gives
every batch once, oldest first, and waits for one; ``done`` removes it. What has been handed out is no longer
shed for want of room, so that nothing counts as both shed and delivered. ``calls`` are those on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from appliance.model import Batch
from appliance.ship.spool import Spool, Spooled, SpoolError

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Backlog:
    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._disk = asyncio.Lock()
        self._changed = asyncio.Event()
        self._over = asyncio.Event()
        self._given = 0  # number of the last one handed out
        self._stuck: dict[int, int] = {}  # calls that were sent and could not be removed yet
        self._note()

    def has_room(self, octets: int) -> bool:
        """Whether so many find room without anything having to go."""
        return self._spool.has_room(octets)

    async def keep(self, batch: Batch) -> int:
        """How many calls, the oldest that wait or its own, had to go for want of room."""
        shed = await self._alone(lambda: self._spool.put(batch, self._given))  # as it is when it is our turn
        self._note()
        self._changed.set()
        return shed

    async def next(self) -> Spooled:
        """For one at a time. SpoolError: the disk does not give it back now; ask again later."""
        while True:
            self._changed.clear()
            try:
                found = await self._alone(self._spool.first, self._given)
            except SpoolError:
                self._over.set()
                raise
            if found is not None:
                self._given = found.number
                return found
            await self._changed.wait()

    async def done(self, found: Spooled) -> None:
        """SpoolError: it is still there, and is sent again if nobody removes it before the next start."""
        try:
            await self._alone(self._spool.remove, found.number)
        except SpoolError:
            self._stuck[found.number] = found.batch.count
            raise
        else:
            self._stuck.pop(found.number, None)
        finally:
            self._note()

    async def over(self) -> None:
        """Waits until nothing is on disk that could still be sent."""
        await self._over.wait()

    async def _alone(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """In a thread, which goes on where its task is cancelled: until then nobody else has the spool."""
        async with self._disk:
            job = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
            try:
                return await asyncio.shield(job)
            except asyncio.CancelledError:
                await asyncio.wait([job])
                raise

    def _note(self) -> None:
        if self._spool.calls > sum(self._stuck.values()):
            self._over.clear()
        else:
            self._over.set()
