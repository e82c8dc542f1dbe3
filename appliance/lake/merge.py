"""Small files of an hour that is over -> few, in one atomic step.

Contract: a reader that lists a folder sees each call exactly once, before, during and after a merge, and
whatever crashes when. The trick: a hidden folder gets the merged files, and hard links to the files that
stay; then the two folders change places in one system call (renameat2, RENAME_EXCHANGE). There is no moment
with both or neither, so there is nothing to repair: a crash before leaves a hidden folder of copies, one
after a hidden folder of leftovers, and both are deleted at the next look.

That holds for ``date=*/hour=*/*.parquet`` and for engines that skip hidden names, as Spark, Trino and Athena
do. DuckDB's ``**`` does not: in the moment of the exchange (after a crash right then: until the next look) it
finds the hidden folder's files as well, and fails with "Hive partition mismatch" if hive_partitioning is on.

A query that listed the folder before, or while it changed, finds no file under any name that it has: it fails
with "No such file" or "No files found", loud, never a wrong number. That is why every file of the new folder
has a new name, also the one that stays, and why only hours are merged into which nothing has come for
``SETTLED``.

Only where it costs little: files of full size, as a busy capture writes them, are left alone. Where the
file system cannot exchange or link, nothing is merged. Bounds: ``GROUP`` octets of rows in memory; the disk
keeps its reserve.
"""

from __future__ import annotations

import calendar
import ctypes
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from appliance.lake.files import PART, WRITING, Files, Hour, Turn, full, private, sync_folder, unveil, veil
from appliance.lake.rows import SCHEMA

SMALL: Final = 4 << 20  # octets; what rolls by its size is larger, what rolls by its age is small
LARGE: Final = 128 << 20  # octets of a merged file
GROUP: Final = 64 << 20  # octets of rows in memory: a row group
SETTLED: Final = 600.0  # seconds since the newest file
_ROWS: Final = 1024  # read at a time
_EXCHANGE: Final = 2  # RENAME_EXCHANGE
_HERE: Final = -100  # AT_FDCWD


class CannotExchangeError(OSError):
    """The file system has no hard links, or no exchange of folders."""


class Merge:
    def __init__(self, files: Files, name: str) -> None:
        """``name``: unique to this process; what files are called begins with it."""
        self._files = files
        self._name = name
        self._number = 0
        self._damaged: set[str] = set()
        self.counts = {"lake_merged_files": 0}

    def all(self, now: float) -> None:
        """Every hour that is due. Only with ``Turn.KEEPER``. CannotExchangeError: no hour of this lake."""
        for hour in self._files.hours():
            if hour.name not in self._damaged and self.due(hour, now):
                try:
                    self.one(hour)
                except CannotExchangeError:
                    raise
                except FileNotFoundError:  # shed meanwhile
                    continue
                except (OSError, ValueError, pa.ArrowException) as error:  # one that is no Parquet of ours
                    if not (isinstance(error, OSError) and full(error)):
                        self._damaged.add(hour.name)  # it stays as it is

    def due(self, hour: Hour, now: float) -> bool:
        small = [name for name, octets in hour.files if octets < SMALL]
        if len(small) < len(("one", "another")):
            return False
        try:
            newest = max((self._files.root / hour.name / name).stat().st_mtime for name in small)
        except FileNotFoundError:
            return False
        begin = time.strptime(hour.name, "date=%Y-%m-%d/hour=%H")
        over = now // 3600 != calendar.timegm(begin) // 3600
        return over and now - newest >= SETTLED and not self._files.lacking(hour.octets)

    def one(self, hour: Hour) -> None:
        shown = self._files.root / hour.name
        hidden = self._files.root / f".merge-{hour.name.replace('/', '-')}-{os.getpid()}"
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(mode=0o750)
        exchanged = False
        try:
            small = [(name, octets) for name, octets in hour.files if octets < SMALL]
            for part in _parts(small):
                self._write(hidden, [shown / name for name in part])
            inputs = {name for name, _ in small}
            with self._files.turn(Turn.PUBLISH):
                found = {name for name, _ in self._files.hour(hour.name).files}
                if not inputs <= found:  # shed meanwhile
                    return
                try:
                    for name in found - inputs:  # too large, or come meanwhile
                        os.link(shown / name, self._path(hidden))
                    unveil(hidden)
                    sync_folder(hidden)
                    exchange(hidden, shown)
                except OSError as error:
                    raise CannotExchangeError(error.errno, error.strerror) from None
                exchanged = True
                veil(hidden)
                sync_folder(shown.parent)
            self.counts["lake_merged_files"] += len(inputs)
        finally:
            if not exchanged:  # else a reader may be listing it: the next look sweeps it
                shutil.rmtree(hidden, ignore_errors=True)

    def _path(self, hidden: Path) -> Path:
        """A name that no file had before."""
        self._number += 1
        return hidden / f"{self._name}-m{self._number:06d}.parquet{PART}"

    def _write(self, hidden: Path, inputs: list[Path]) -> None:
        path = self._path(hidden)
        with open(path, "wb", opener=private) as out:
            with pq.ParquetWriter(out, SCHEMA, **WRITING) as writer:
                for table in _groups(inputs):
                    writer.write_table(table, row_group_size=len(table))
            out.flush()
            os.fsync(out.fileno())


def _parts(files: list[tuple[str, int]]) -> list[list[str]]:
    """Inputs of one merged file each."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, octets in files:
        if size and size + octets > LARGE:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += octets
    return parts


def _groups(inputs: list[Path]) -> Iterator[Any]:
    held: list[Any] = []
    size = 0
    for path in inputs:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS, use_threads=False):
                held.append(batch.cast(SCHEMA))
                size += int(batch.nbytes)
                if size >= GROUP:
                    yield pa.Table.from_batches(held, SCHEMA)
                    held, size = [], 0
    if held:
        yield pa.Table.from_batches(held, SCHEMA)


def exchange(one: Path, other: Path) -> None:
    """Let two folders change places. OSError where the system or the file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(0, "the C library has no renameat2")
    if call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
