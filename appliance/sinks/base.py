"""What a sink is: one file, ``build(options)``, and what comes of a batch.

Contract: ``send`` returns when the batch is delivered, whole, or raises: ``Retry`` where it may go better
later, ``Reject`` where it never will. Reasons are for logs: never payload, never a password. ``hurry``: the
end is near, and a sink that lets batches wait for each other no longer does. A module may have TRAITS, and
``check(options)``: what, seen from here, can never work, in one line that names the variable, or "".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from appliance.model import Batch

ROLL_SIZE: Final = 64 << 20  # octets of lines; about 4 to 10 MiB of Parquet


class Traits(NamedTuple):
    """How a sink wants to be served; a module says so as TRAITS where it is not as most."""

    in_flight: int = 4  # batches that it may have at a time
    keeps: bool = False  # it has a batch for long before it is anywhere: a spool has it meanwhile


def _quietly(_: str) -> None:
    """Says nothing."""


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """What ``build`` gets; each sink takes from it what it has use for."""

    url: str = ""
    compress: bool = True
    agent: str = ""  # name of the program, for a User-Agent
    say: Callable[[str], None] = _quietly
    lake_url: str = ""
    roll_size: int = ROLL_SIZE  # octets of lines that become one file
    roll_age: float = 60.0  # seconds that a call waits for company in its file
    lake_max: int = 0  # octets of a local lake; 0: as the disk allows
    lake_days: int = 0  # 0: for ever
    lake_reserve: int = 1 << 30  # octets of the disk that stay free, at most a 20th of it


class Retry(Exception):  # noqa: N818  # an answer, not an error
    def __init__(self, reason: str, after: float | None = None, *, unsure: bool = False) -> None:
        """``after``: seconds that the other side asks for; ``unsure``: it may have the batch nonetheless."""
        super().__init__(reason)
        self.reason = reason
        self.after = after
        self.unsure = unsure


class Reject(Exception):  # noqa: N818  # same
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Sink(Protocol):
    """May have ``counts() -> Mapping[str, int]`` of its own, by names of ledger.TABLE, and ``begin()``."""

    async def send(self, batch: Batch, /) -> None: ...
    def hurry(self) -> None: ...
    async def close(self) -> None: ...
