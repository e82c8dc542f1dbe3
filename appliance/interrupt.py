"""Ctrl-C and SIGTERM, heard only where nothing is half done.

Contract: within ``with Interrupts()``, the first request to stop ends ``until`` before its next item; what
has been read is then finished as usual, and the ledger adds up. It also ends a read that waits, as for
standard input. A second request raises KeyboardInterrupt wherever the program is.
Signals that are ignored stay ignored, as for a background job. Outside the main thread nothing changes.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Final, Self, TypeVar

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


class Interrupts:
    def __init__(self) -> None:
        self.requested = False
        self._reading = False
        self._before: list[tuple[signal.Signals, object]] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:
                    signal.signal(number, self._notice)
                    self._before.append((number, before))
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before:
            signal.signal(number, before)  # type: ignore[arg-type]  # what getsignal returned

    def until(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until a stop is requested."""
        iterator = iter(items)
        while not self.requested:
            try:
                self._reading = True
                item = next(iterator)
                self._reading = False
            except (StopIteration, KeyboardInterrupt):
                self._reading = False
                return
            yield item

    def _notice(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if again or self._reading:
            raise KeyboardInterrupt
