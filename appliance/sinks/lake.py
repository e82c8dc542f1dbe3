"""Batch -> a data lake of Parquet files, in a local folder or in S3 (docs/lake.md).

Contract: ``send`` returns when all rows of the batch are in files that readers see: synced to the disk, or
put into S3. Until then the batch is its caller's, so a crash loses nothing that a spool has. Batches wait for
each other and share a file; it is written when they have ``roll_size`` octets, when the first has waited for
``roll_age``, when all ``TRAITS.in_flight`` senders wait here and so no more can come, or from ``hurry`` on.

At least once: where writing fails half-way, what was placed is taken back; a crash between placing and
returning, or a send cancelled while its file is being written, makes the batch come twice. Every failure is
one that somebody can cure: nothing is refused for good.

All work on rows and files is in the executor; the loop only waits. One file is written at a time.
Bounds: ``TRAITS.in_flight`` batches wait, at most ``roll_size`` and one batch are columns at a time; a local
lake keeps those of ``Bounds`` and the disk's reserve.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from appliance.lake.bucket import Bucket, refusal
from appliance.lake.files import Files, Turn, encode, folder, full
from appliance.lake.merge import CannotExchangeError, Merge
from appliance.lake.retention import Bounds, Retention
from appliance.lake.rows import Rows, by_hour
from appliance.model import Batch
from appliance.sinks.base import Retry, SinkOptions, Traits

TRAITS: Final = Traits(in_flight=1024, keeps=True)  # with few calls, a batch a second for roll_age
KEEPING: Final = 60.0  # seconds between two looks at what is to be merged or shed
_S3: Final = "s3://"

_File = tuple[str, str, Any]  # folder, name, octets


class Store(Protocol):
    """Where files go. Its methods block."""

    @property
    def counts(self) -> dict[str, int]: ...
    def publish(self, files: list[_File], /) -> None: ...
    def keep(self, now: float, /) -> None: ...
    def reason(self, error: Exception, /) -> str: ...


class Local:
    def __init__(self, root: Path, options: SinkOptions, name: str) -> None:
        self._files = Files(root, options.lake_reserve)
        self._retention = Retention(self._files, Bounds(options.lake_max, options.lake_days), options.say)
        self._merge: Merge | None = Merge(self._files, name)
        self._merged = self._merge.counts
        self._say = options.say

    @property
    def counts(self) -> dict[str, int]:
        return self._retention.counts | self._merged

    def publish(self, files: list[_File]) -> None:
        octets = sum(each.size for _, _, each in files)
        folders = {where for where, _, _ in files}
        self._files.root.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._retention.make_room(octets, folders)
        try:
            self._files.publish(files)
        except OSError as error:
            if not full(error):
                raise
            self._retention.make_room(2 * octets, folders)  # another writer was faster
            self._files.publish(files)
        with suppress(OSError):  # the rows are there, whatever becomes of older ones
            self._retention.wrote(octets, folders)

    def keep(self, now: float) -> None:
        """By one process at a time."""
        try:
            with self._files.turn(Turn.KEEPER, wait=False):
                self._files.sweep()
                self._retention.keep(now)
                if self._merge is not None:
                    self._merge.all(now)
        except BlockingIOError:
            return
        except CannotExchangeError as error:
            self._merge = None
            self._say(f"small files stay as they are: {_words(error)}")
        except Exception as error:  # noqa: BLE001  # next time; nothing here may stop the lake
            self._say(f"not looked after this time: {_words(error)}")

    def reason(self, error: Exception) -> str:
        if isinstance(error, PermissionError):
            return f"{_words(error)}: make its folder writable for this user"
        return _words(error)


class Remote:
    def __init__(self, place: str) -> None:
        self._bucket = Bucket(place)

    @property
    def counts(self) -> dict[str, int]:
        return {}

    def publish(self, files: list[_File]) -> None:
        self._bucket.publish(files)

    def keep(self, now: float) -> None:
        """S3 keeps itself."""

    def reason(self, error: Exception) -> str:
        return refusal(error)


class _Waiting:
    __slots__ = ("batch", "done", "since")

    def __init__(self, batch: Batch, loop: asyncio.AbstractEventLoop) -> None:
        self.batch = batch
        self.done: asyncio.Future[None] = loop.create_future()
        self.since = loop.time()


class Lake:
    def __init__(
        self, options: SinkOptions, now: Callable[[], float] = time.time, together: int = TRAITS.in_flight
    ) -> None:
        """``together``: batches that can come at a time; when so many wait, no more will come."""
        self._options = options
        self._together = together
        self._now = now
        self._store: Store | None = None  # made on first use: a worker's own, after the fork
        self._name = ""
        self._number = 0
        self._rows = Rows()
        self._waiting: list[_Waiting] = []
        self._octets = 0
        self._hurry = False
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._counts = {"lake_files": 0, "lake_bytes": 0}

    def counts(self) -> dict[str, int]:
        return self._counts | (self._store.counts if self._store is not None else {})

    def begin(self) -> None:
        """Look after what is there, whether calls come or not."""
        self._opened()
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def send(self, batch: Batch) -> None:
        one = _Waiting(batch, asyncio.get_running_loop())
        self._waiting.append(one)
        self._octets += len(batch.payload)
        self._look()
        try:
            await one.done
        except asyncio.CancelledError:
            if one in self._waiting:
                self._waiting.remove(one)
                self._octets -= len(batch.payload)
            raise

    def hurry(self) -> None:
        """The end is near: from now on nothing waits for company. In the loop's thread."""
        self._hurry = True
        self._look()

    async def close(self) -> None:
        self.hurry()
        if self._keeping is not None:
            self._keeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeping
        while self._writing is not None:
            await self._writing

    def _look(self) -> None:
        """Write what is due, or come back when it will be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None or not self._waiting:
            return
        loop = asyncio.get_running_loop()
        left = self._waiting[0].since + self._options.roll_age - loop.time()
        if (
            self._hurry
            or left <= 0
            or self._octets >= self._options.roll_size
            or len(self._waiting) >= self._together
        ):
            self._writing = loop.create_task(self._write(self._taken()))
        else:
            self._timer = loop.call_later(left, self._look)

    def _taken(self) -> list[_Waiting]:
        """The oldest, until they fill a file."""
        size = count = 0
        while count < len(self._waiting) and size < self._options.roll_size:
            size += len(self._waiting[count].batch.payload)
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        self._octets -= size
        return group

    async def _write(self, group: list[_Waiting]) -> None:
        fault = ""
        try:
            payloads = [one.batch.payload for one in group]
            await asyncio.get_running_loop().run_in_executor(None, self._publish, payloads)
        except (OSError, pa.ArrowException) as error:
            fault = self._store.reason(error) if self._store is not None else _words(error)
        except Exception as error:  # noqa: BLE001  # a defect: whoever waits must hear of it
            fault = f"defect: {type(error).__name__}"
        finally:
            self._writing = None
        for one in group:
            if one.done.done():  # cancelled
                continue
            if fault:
                one.done.set_exception(Retry(fault))
            else:
                one.done.set_result(None)
        self._look()

    def _publish(self, payloads: list[bytes]) -> None:
        table = self._rows.table(*payloads)
        store = self._opened()
        files = []
        for hour, part in by_hour(table, int(self._now() * 1000)):
            self._number += 1
            files.append((folder(hour), f"{self._name}-{self._number:06d}.parquet", encode(part)))
        store.publish(files)
        self._counts["lake_files"] += len(files)
        self._counts["lake_bytes"] += sum(each.size for _, _, each in files)

    def _opened(self) -> Store:
        if self._store is None:
            host = "".join(c if c.isalnum() else "_" for c in socket.gethostname())[:63]
            self._name = f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
            url = self._options.lake_url
            if url.startswith(_S3):
                self._store = Remote(url.removeprefix(_S3))
            else:
                self._store = Local(Path(url.removeprefix("file://")), self._options, self._name)
        return self._store

    async def _keep(self) -> None:
        while True:
            store = self._opened()
            await asyncio.get_running_loop().run_in_executor(None, store.keep, self._now())
            await asyncio.sleep(KEEPING)


def _words(error: Exception) -> str:
    """By its number: the text has the path in it."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__


def build(options: SinkOptions) -> Lake:
    return Lake(options)


def check(options: SinkOptions) -> str:
    """A folder of ours must be there and writable; S3 may come later."""
    url = options.lake_url
    if url.startswith(_S3):
        return ""
    root = Path(url.removeprefix("file://"))
    try:
        root.mkdir(mode=0o750, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return ""
    except OSError as error:
        return f"SNIFFER_LAKE_URL={url}: cannot be written: {error.strerror or error}"
