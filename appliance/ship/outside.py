"""What a shipper may not have of its own, and how it tells what goes wrong without flooding the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

QUIET: Final = 60.0  # seconds between two reports of one reason


@dataclass(frozen=True, slots=True)
class Outside:
    clock: Callable[[], float]  # seconds, from any start
    dice: Callable[[], float]  # 0 to 1
    sleep: Callable[[float], Awaitable[None]]
    say: Callable[[str], None]


class Reports:
    """Each reason at once when it is new, then once a minute with its number."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._last: dict[str, float] = {}
        self._since: dict[str, int] = {}

    def add(self, reason: str) -> None:
        now = self._outside.clock()
        self._since[reason] = self._since.get(reason, 0) + 1
        if reason not in self._last or now - self._last[reason] >= QUIET:
            self._last[reason] = now
            self._say(reason)

    def flush(self) -> None:
        for reason in list(self._since):
            self._say(reason)

    def _say(self, reason: str) -> None:
        times = self._since.pop(reason, 0)
        if times:
            with suppress(OSError, ValueError):  # a log that cannot be written stops no delivery
                self._outside.say(reason if times == 1 else f"{reason} ({times} times)")
