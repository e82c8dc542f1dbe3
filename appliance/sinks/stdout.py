"""Batch -> standard output: one line a call, for pipes and for trying things out.

Contract: a batch is written whole, also where several processes write to the same pipe: they take turns by
a record lock on a file in memory that all of them inherit. One that is killed in the middle of a write
leaves a piece of a line; its mark in that file tells the next one, which ends the line first.
A closed pipe never takes anything again.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
from typing import Final

from appliance.model import Batch
from appliance.sinks.base import Reject, SinkOptions

_TURN: Final = os.memfd_create("turn", os.MFD_CLOEXEC)  # made before the fork, so that all have it
_WRITING: Final = b"w"


class StandardOutput:
    def __init__(self, fileno: int) -> None:
        self._fileno = fileno
        self._alone = asyncio.Lock()

    async def send(self, batch: Batch) -> None:
        async with self._alone:  # record locks are a process's, not a thread's
            try:
                await asyncio.get_running_loop().run_in_executor(None, self._write, batch.payload)
            except OSError as error:
                raise Reject(f"standard output: {error.strerror}") from None

    def hurry(self) -> None:
        """Nothing waits here."""

    async def close(self) -> None:
        """Not ours to close."""

    def _write(self, payload: bytes) -> None:
        fcntl.lockf(_TURN, fcntl.LOCK_EX)
        try:
            torn = os.pread(_TURN, 1, 0)
            os.pwrite(_TURN, _WRITING, 0)
            view = memoryview(b"\n" + payload if torn == _WRITING else payload)
            while view:
                try:
                    view = view[os.write(self._fileno, view) :]
                except BlockingIOError:  # a pipe that somebody has made so: it is full
                    select.select([], [self._fileno], [])
            os.ftruncate(_TURN, 0)
        finally:
            fcntl.lockf(_TURN, fcntl.LOCK_UN)


def build(_: SinkOptions) -> StandardOutput:
    return StandardOutput(1)
