"""Batches on disk: what a queue cannot hold waits here for its sink, oldest first, across restarts.

Contract: ``put`` returns when the batch would survive kill -9 and a power cut (SQLite in WAL mode, each
commit synced); ``remove`` only after the sink has it, so a batch may be sent twice and is never lost on the
way: at least once. Beyond ``limit`` octets the oldest batches go first, and ``put`` says how many calls they
had. A disk that is full, or a file that cannot be written, raises SpoolError, and nothing has changed.

What is in here has passed the rules. The folder and its files are their owner's only (0700, 0600).
One process a file: the lock is held as long as the spool is open. Bounds: ``limit``, and a page more.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from appliance.model import Batch

OVERHEAD: Final = 4096  # octets charged for each batch: SQLite's pages are not filled to the last one
RESERVE: Final = 64 << 20  # octets of the disk that stay free: without any, nothing could even be removed
CHECKPOINT: Final = 64  # pages that the log may have: a part of the reserve, whatever is removed
PAGE: Final = 32_768  # octets; batches are megabytes, and each page costs: a third less than with 16 KiB
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT, calls INTEGER NOT NULL, oldest INTEGER NOT NULL,
    octets INTEGER NOT NULL, payload BLOB NOT NULL)
"""
_OLDEST: Final = "SELECT number, calls FROM batches WHERE number > ? ORDER BY number LIMIT 1"
_T = TypeVar("_T")


class SpoolError(Exception):
    """The disk does not take it, or does not give it back; one line that says why."""

    def __init__(self, text: str, number: int = 0, path: Path | None = None) -> None:
        """``number``: SQLite's, or that of the system's error that means the same."""
        super().__init__(text)
        self.path = path
        self.busy = number in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}  # another process has it
        self.full = number in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}  # which may pass
        self.damaged = number in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Spooled(NamedTuple):
    number: int
    batch: Batch


class Spool:
    def __init__(self, path: Path, limit: int) -> None:
        """Raises SpoolError: no such folder, not ours to write, another process's, or damaged."""
        self.path = path
        self.limit = limit
        self.calls = 0
        self.octets = 0
        self._database = self._try(self._open)

    def put(self, batch: Batch, spare: int = 0) -> int:
        """Keep it; how many calls had to go for it: the oldest behind number ``spare``, else its own."""
        size = _charge(len(batch.payload))
        if size > self.limit:
            return batch.count
        disk = self._try(lambda: os.statvfs(self.path.parent))
        if disk.f_bavail * disk.f_frsize < size + RESERVE:
            raise SpoolError(
                f"spool {self.path}: the disk is full but for {RESERVE >> 20} MiB", sqlite3.SQLITE_FULL
            )
        return self._try(lambda: self._put(batch, size, spare))

    def has_room(self, octets: int) -> bool:
        return self.octets + _charge(octets) <= self.limit

    def first(self, after: int = 0) -> Spooled | None:
        """The oldest that was put after the one of that number."""
        row = self._try(
            lambda: self._database.execute(
                "SELECT number, payload, calls, oldest FROM batches WHERE number > ? ORDER BY number LIMIT 1",
                (after,),
            ).fetchone()
        )
        return None if row is None else Spooled(row[0], Batch(bytes(row[1]), row[2], row[3]))

    def remove(self, number: int) -> int:
        """Its sink has it, or never will; its calls, none where it was shed meanwhile."""
        before = self.calls
        self._try(lambda: self._drop(number))
        return before - self.calls

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._database.close()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=0.0)
        try:
            database.execute(f"PRAGMA page_size = {PAGE}")
            # Free pages are used again, and neither tracked nor overwritten: that was half of all the work.
            database.execute("PRAGMA auto_vacuum = NONE")
            database.execute("PRAGMA secure_delete = OFF")
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA journal_size_limit = 0")
            database.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
            database.execute("BEGIN EXCLUSIVE")
            database.execute(_SCHEMA)
            found = database.execute("SELECT total(calls), total(octets) FROM batches").fetchone()
            database.execute("COMMIT")
        except sqlite3.Error:
            database.close()
            raise
        self.calls, self.octets = int(found[0]), int(found[1])
        return database

    def _put(self, batch: Batch, size: int, spare: int) -> int:
        before = self.calls, self.octets
        shed = 0
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("BEGIN IMMEDIATE")
        try:
            while self.octets + size > self.limit:
                row = self._database.execute(_OLDEST, (spare,)).fetchone()
                if row is None:  # all that is here is on its way
                    self._database.execute("ROLLBACK")
                    self.calls, self.octets = before
                    return batch.count
                shed += row[1]
                self._forget(row[0])
            self._database.execute(
                "INSERT INTO batches (calls, oldest, octets, payload) VALUES (?, ?, ?, ?)",
                (batch.count, batch.oldest, size, batch.payload),
            )
            self._database.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            self.calls, self.octets = before
            raise
        self.calls += batch.count
        self.octets += size
        return shed

    def _drop(self, number: int) -> None:
        before = self.calls, self.octets
        self._database.execute("PRAGMA synchronous = NORMAL")  # a power cut may bring it back: sent once more
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._forget(number)
            self._database.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            self.calls, self.octets = before
            raise
        if not self.octets:  # the disk gets it back: only now, since moving what remains would cost a write
            (free,) = self._database.execute("PRAGMA freelist_count").fetchone()
            if free > CHECKPOINT:
                self._database.executescript("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")

    def _forget(self, number: int) -> None:
        sql = "DELETE FROM batches WHERE number = ? RETURNING calls, octets"
        rows = self._database.execute(sql, (number,))
        for calls, octets in rows.fetchall():
            self.calls -= calls
            self.octets -= octets

    def _try(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except sqlite3.Error as error:
            number = getattr(error, "sqlite_errorcode", 0) & 0xFF  # none where the module itself refuses
            why = "in use by another process" if number == sqlite3.SQLITE_BUSY else str(error)
            raise SpoolError(f"spool {self.path}: {why}", number, self.path) from None
        except OSError as error:
            number = sqlite3.SQLITE_FULL if error.errno in {errno.ENOSPC, errno.EDQUOT} else 0
            raise SpoolError(f"spool {self.path}: {error.strerror or error}", number) from None


def set_aside(path: Path) -> Path:
    """A damaged one, out of the way, as it is; its new place."""
    place = path.with_name(f"{path.name}.damaged")
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(place.with_name(place.name + suffix))
    return path.rename(place)


def _charge(octets: int) -> int:
    """What a batch takes on the disk, at most: small ones share pages, others have whole ones."""
    return octets + OVERHEAD if octets <= PAGE // 4 else -(-octets // PAGE) * PAGE + OVERHEAD


def adopt(folder: Path, sink: str, spools: Sequence[Spool]) -> list[str]:
    """Move what lies in other spools of ``sink`` into these, and remove their files; lines for the log."""
    lines = []
    ours = {spool.path for spool in spools}
    for number, path in enumerate(sorted(folder.glob(f"{sink}-*.db"))):
        if path in ours:
            continue
        try:
            other = Spool(path, 1 << 62)
        except SpoolError as error:
            lines.append(f"{error}: left as it is")
            continue
        target = spools[number % len(spools)]
        moved, shed = other.calls, 0
        try:
            while (found := other.first()) is not None:
                shed += target.put(found.batch)
                other.remove(found.number)
        except SpoolError as error:
            lines.append(f"{error}: {other.calls} calls stay in {path.name} until the next start")
            continue
        finally:
            other.close()
        for leftover in folder.glob(f"{path.name}*"):
            leftover.unlink()
        lines.append(
            f"{moved} calls were in {path.name}, a spool that no worker has now"
            + (f"; {shed} shed" if shed else "")
        )
    return lines
