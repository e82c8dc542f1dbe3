"""What a live source is, on both sides of a fork.

A ``Capture`` belongs to the supervisor: it opens what the kernel delivers into, one part a worker, and keeps
it open, so that a worker that is started again gets its share again and what came in between. A ``Source``
belongs to a worker and reads its part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from appliance.model import Frame
from appliance.packet.vni import VniSelection


class CaptureError(Exception):
    """The capture cannot begin; one line that says why, and the cure."""


@dataclass(slots=True)
class Aside:
    """What the kernel kept from the workers."""

    dropped: int = 0  # frames for which there was no room: lost
    refused: int = 0  # frames of networks that are not selected
    sample: dict[int, int] = field(default_factory=dict)  # of these, by VNI, as far as they were looked at


class Source(Protocol):
    duplicates: int  # frames left out so far: the same packet had come by another interface
    held: int  # frames taken from the kernel and not given yet

    def attend(self, hold: Callable[[int], None], /) -> None:
        """``hold`` is to be told how many frames are in hand as soon as the kernel has given some."""
        ...

    def filenos(self) -> Sequence[int]:
        """What to wait for."""
        ...

    def read(self) -> list[Frame]:
        """A batch; empty when there is nothing. Never waits."""
        ...

    def stop(self) -> None:
        """Take nothing more; where there is no supervisor any more to say so."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """What ``build`` gets; each capture takes from it what it has use for."""

    workers: int = 1
    vnis: VniSelection | None = None  # None: all
    ports: frozenset[int] | None = None
    vxlan_port: int | None = 4789
    geneve_port: int | None = 6081
    receive_buffer: int = 64 << 20  # octets a worker
    devices: str = ""
    promiscuous: bool = False
    filtered: bool = True
    ring: int = 64 << 20  # octets a worker


class Capture(Protocol):
    title: str  # what it captures, for the log
    notes: list[str]  # what the user should know
    workers: int  # as many as it can keep apart; no more than asked for

    def keep(self, worker: int, /) -> None:
        """In a worker's process: close the others' parts, so that each ends with its owner."""
        ...

    def source(self, worker: int, /) -> Source: ...

    def select(self, vnis: VniSelection | None, ports: frozenset[int] | None, /) -> None:
        """From the next frame on."""
        ...

    def aside(self) -> Aside:
        """Since the last time."""
        ...

    def refresh(self) -> list[str]:
        """Once a second: what has changed outside, as lines for the log."""
        ...

    def stop(self) -> None:
        """Take nothing more; what has come already can still be read."""
        ...

    def leftover(self) -> int:
        """Frames that the kernel holds and nobody reads any more; for the supervisor, when all is over."""
        ...

    def close(self) -> None: ...


def nobody(_: int) -> None:
    """Where nobody asks what is in hand."""
