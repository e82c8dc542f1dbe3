"""A local lake within its bounds: the oldest hours go first.

Contract: ``make_room`` before a file is written: then the disk keeps its reserve, or OSError ENOSPC says that
nothing is left to shed. ``keep`` now and then: no hour older than ``days``, no more than ``octets`` in all.
An hour goes whole, out of readers' sight at once, and is counted and said by name. The newest hour and the
hours that are about to be written never go for want of room, only for their age.

A call's age is its own: what a replay reads from an old capture is old.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from appliance.lake.files import PART, Files, Hour, folder

_HOURS: Final = 24


@dataclass(frozen=True, slots=True)
class Bounds:
    octets: int = 0  # of Parquet in all; 0: as the disk allows
    days: int = 0  # 0: for ever


class Retention:
    def __init__(self, files: Files, bounds: Bounds, say: Callable[[str], None]) -> None:
        self._files = files
        self._bounds = bounds
        self._say = say
        self._octets: int | None = None  # in the lake as of the last look, and what we have written since
        self._fixed: set[str] = set()  # hours that cannot be deleted, as far as it was said
        self.counts = {"lake_shed_calls": 0, "lake_shed_bytes": 0}

    def make_room(self, octets: int, spare: set[str]) -> None:
        """For so many octets in the folders ``spare``."""
        lacking = self._files.lacking(octets)
        if lacking:
            for hour in self._candidates(spare):
                self._shed(hour, "the disk is full")
                lacking = self._files.lacking(octets)
                if not lacking:
                    break
            else:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def wrote(self, octets: int, spare: set[str]) -> None:
        """Looks again as soon as the bound may be passed."""
        if self._octets is not None:
            self._octets += octets
        if self._bounds.octets and (self._octets is None or self._octets > self._bounds.octets):
            self._by_size(spare)

    def keep(self, now: float) -> None:
        """``now``: seconds since the epoch."""
        if self._bounds.days:
            oldest = folder(int(now // 3600) - self._bounds.days * _HOURS)
            for hour in self._files.hours():
                if hour.name < oldest:
                    self._shed(hour, f"older than {self._bounds.days} days")
        if self._bounds.octets:
            self._by_size({folder(int(now // 3600))})  # it may not be the newest: clocks differ

    def _by_size(self, spare: set[str]) -> None:
        self._octets = sum(hour.octets for hour in self._files.hours())
        if self._octets > self._bounds.octets:
            for hour in self._candidates(spare):
                if self._shed(hour, f"the lake is larger than {self._bounds.octets} octets"):
                    self._octets -= hour.octets
                if self._octets <= self._bounds.octets:
                    return

    def _candidates(self, spare: set[str]) -> list[Hour]:
        return [hour for hour in self._files.hours()[:-1] if hour.name not in spare]

    def _shed(self, hour: Hour, why: str) -> bool:
        """Whether it was there and is gone. What cannot be deleted is said, once, and holds up no other."""
        begin = time.monotonic()
        try:
            hidden = self._files.remove(hour.name)
        except FileNotFoundError:  # another process was faster, and has counted it
            return False
        except OSError as error:
            if hour.name not in self._fixed:
                self._fixed.add(hour.name)
                self._say(f"{hour.name} cannot be deleted: {error.strerror}; {why}")
            return False
        rows = octets = files = 0
        for path in hidden.glob("*.parquet" + PART):
            files += 1
            octets += path.stat().st_size
            try:
                rows += int(pq.read_metadata(path).num_rows)
            except (OSError, pa.ArrowException):  # damaged; its rows are not known
                continue
        shutil.rmtree(hidden, ignore_errors=True)
        self.counts["lake_shed_calls"] += rows
        self.counts["lake_shed_bytes"] += octets
        took = time.monotonic() - begin
        self._say(f"{hour.name} shed, {why}: {rows} calls, {files} files, {octets} octets ({took:.1f} s)")
        return True
