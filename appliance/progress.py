"""A progress bar on standard error, for people who wait."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn


class Bar:
    def __init__(self, total: int | None) -> None:
        """``total``: octets; None where nobody knows."""
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("replay", total=total)
        self._bar.start()

    def update(self, octets: int) -> None:
        self._bar.update(self._task, completed=octets)

    def close(self) -> None:
        self._bar.stop()
