"""What a sink is: one file, ``build(options)``, and what comes of a batch.

Contract: ``send`` returns when the batch is delivered, whole, or raises: ``Retry`` where it may go better
later, ``Reject`` where it never will. Reasons are for logs: never payload, never a password.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from appliance.model import Batch


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """What ``build`` gets; each sink takes from it what it has use for."""

    url: str = ""
    compress: bool = True
    agent: str = ""  # name of the program, for a User-Agent


class Retry(Exception):  # noqa: N818  # an answer, not an error
    def __init__(self, reason: str, after: float | None = None) -> None:
        """``after``: seconds that the other side asks for."""
        super().__init__(reason)
        self.reason = reason
        self.after = after


class Reject(Exception):  # noqa: N818  # same
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Sink(Protocol):
    async def send(self, batch: Batch, /) -> None: ...
    async def close(self) -> None: ...
