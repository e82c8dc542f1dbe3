"""A local lake's files: where they lie, how they get there, and who may move them.

Contract: a file is complete and on the disk before it has a name that readers look for (``*.parquet`` in
``date=*/hour=*``): it is written and synced under ``.new``, then renamed. The files of one ``publish`` are
all written before the first gets its name, so that a full disk leaves none of them. Hidden names (``.``)
are nobody's but ours and may be deleted while nobody holds ``Turn.KEEPER``. DuckDB's ``**`` looks into hidden
folders too, so what lies there is called ``*.part``.

Turns are flocks, for all processes of this machine: writers share ``PUBLISH`` while they rename; whoever
exchanges or removes a folder has it alone. One host writes to a local lake; many hosts: S3.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from appliance.lake.rows import SCHEMA

LEVEL: Final = 1  # of zstd; 3 costs half as much again and packs no better
SHARE: Final = 20  # the reserve is at most a 20th of the disk
_HOUR: Final = re.compile(r"date=(\d{4})-(\d\d)-(\d\d)/hour=(\d\d)", re.ASCII)
_NEW: Final = ".new"
PART: Final = ".part"
_MODE: Final = 0o640  # calls are nobody else's; a group may query them


class Turn(enum.Enum):
    PUBLISH = ".lock-publish"
    KEEPER = ".lock-keeper"  # one at a time merges and sweeps


@dataclass(frozen=True, slots=True)
class Hour:
    """A folder of the lake."""

    name: str  # date=YYYY-MM-DD/hour=HH
    octets: int
    files: tuple[tuple[str, int], ...]  # (name, octets)


def folder(hour: int) -> str:
    """Of an hour since the epoch."""
    return time.strftime("date=%Y-%m-%d/hour=%H", time.gmtime(hour * 3600))


def encode(table: Any) -> Any:  # noqa: ANN401  # pyarrow has no types
    """A Parquet file in memory."""
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(out, SCHEMA, **WRITING) as writer:
        writer.write_table(table, row_group_size=max(len(table), 1))
    return out.getvalue()


WRITING: Final[dict[str, Any]] = {
    "compression": "zstd",
    "compression_level": LEVEL,
    "write_page_index": True,
    "write_statistics": ["time", "method", "url", "host", "path", "status", "client", "server", "vni"],
}  # statistics of what people select by: those of bodies cost a tenth and help nobody


class Files:
    def __init__(self, root: Path, reserve: int) -> None:
        """``reserve``: octets of the disk that stay free, at most a ``SHARE``."""
        self.root = root
        self._reserve = reserve

    def publish(self, files: list[tuple[str, str, Any]]) -> None:
        """(folder, name, octets) each. OSError: none is there."""
        hidden = []
        placed: list[Path] = []
        try:
            for _, name, octets in files:
                hidden.append(self._write(name, octets))
            with self.turn(Turn.PUBLISH, shared=True):
                for (where, name, _), path in zip(files, hidden, strict=True):
                    (self.root / where).mkdir(parents=True, exist_ok=True)
                    path.rename(self.root / where / name)
                    placed.append(self.root / where / name)
                for where in {where for where, _, _ in files}:
                    sync_folder(self.root / where)
                    sync_folder((self.root / where).parent)
                sync_folder(self.root)
        except OSError:
            for path in (*hidden, *placed):
                with suppress(OSError):
                    path.unlink()
            raise

    def _write(self, name: str, octets: Any) -> Path:  # noqa: ANN401
        path = self.root / _NEW / (name + PART)
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        try:
            with open(path, "wb", opener=private) as out:
                out.write(octets)
                out.flush()
                os.fsync(out.fileno())
        except OSError:
            with suppress(OSError):
                path.unlink()
            raise
        return path

    @contextmanager
    def turn(self, turn: Turn, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
        """BlockingIOError where another has it and ``wait`` is false."""
        self.root.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = os.open(self.root / turn.value, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            yield
        finally:
            os.close(lock)

    def hours(self) -> list[Hour]:
        """Oldest first. What is removed meanwhile is left out."""
        names = [
            f"{date.name}/{hour.name}"
            for date in _entries(self.root)
            if date.name.startswith("date=")
            for hour in _entries(date)
        ]
        return [self.hour(name) for name in sorted(names) if _HOUR.fullmatch(name)]

    def hour(self, name: str) -> Hour:
        files = []
        for path in _entries(self.root / name):
            with suppress(OSError):
                if path.suffix == ".parquet" and not path.name.startswith("."):
                    files.append((path.name, path.stat().st_size))
        return Hour(name, sum(octets for _, octets in files), tuple(sorted(files)))

    def lacking(self, octets: int) -> int:
        """How many octets must go before so many can be written and the reserve stays; 0: none."""
        usage = os.statvfs(self.root)
        reserve = min(self._reserve, usage.f_blocks * usage.f_frsize // SHARE)
        return max(reserve + octets - usage.f_bavail * usage.f_frsize, 0)

    def remove(self, name: str) -> Path:
        """Take a folder out of readers' sight at once, with all that is in it. Its hidden place."""
        hidden = self.root / f".shed-{name.replace('/', '-')}-{os.getpid()}-{time.monotonic_ns()}"
        with self.turn(Turn.PUBLISH):
            (self.root / name).rename(hidden)
            veil(hidden)
            with suppress(OSError):  # not its last hour
                (self.root / name).parent.rmdir()
        return hidden

    def sweep(self) -> None:
        """Delete what dead processes have left. Only with ``Turn.KEEPER``."""
        for path in _entries(self.root):
            if path.name.startswith((".shed-", ".merge-", ".old-")):
                shutil.rmtree(path, ignore_errors=True)
        for path in _entries(self.root / _NEW):
            with suppress(OSError, ValueError):
                if not _lives(int(path.name.split("-")[-3])):
                    path.unlink()


def veil(hidden: Path) -> None:
    """Give all files names that nobody looks for."""
    for path in _entries(hidden):
        path.rename(path.with_name(path.name + PART))


def unveil(hidden: Path) -> None:
    for path in _entries(hidden):
        path.rename(path.with_name(path.name.removesuffix(PART)))


def private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, _MODE)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def full(error: OSError) -> bool:
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def _entries(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
