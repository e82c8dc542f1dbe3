"""What a live source is, on both sides of a fork.

A ``Capture`` belongs to the supervisor: it opens what the kernel delivers into, one part a worker, and keeps
it open, so that a worker that is started again gets its share again and what came in between. A ``Source``
belongs to a worker and reads its part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from appliance.model import Frame


class CaptureError(Exception):
    """The capture cannot begin; one line that says why, and the cure."""


@dataclass(slots=True)
class Aside:
    """What the kernel kept from the workers."""

    dropped: int = 0  # frames for which there was no room: lost
    refused: int = 0  # frames of networks that are not selected
    sample: dict[int, int] = field(default_factory=dict)  # of these, by VNI, as far as they were looked at


class Source(Protocol):
    def filenos(self) -> Sequence[int]:
        """What to wait for."""
        ...

    def read(self) -> list[Frame]:
        """A batch; empty when there is nothing. Never waits."""
        ...


class Capture(Protocol):
    notes: list[str]  # what the user should know

    def source(self, worker: int, /) -> Source: ...

    def aside(self) -> Aside:
        """Since the last time."""
        ...

    def refresh(self) -> list[str]:
        """Once a second: what has changed outside, as lines for the log."""
        ...

    def stop(self) -> None:
        """Take nothing more; what has come already can still be read."""
        ...

    def close(self) -> None: ...
