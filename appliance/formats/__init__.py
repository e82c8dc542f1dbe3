"""HttpExchange -> octets: one file a format, found by its module name.

A format has ``build(options)``; what it returns has ``begin``, ``write`` for each exchange, and ``end``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance.model import HttpExchange, Message


@dataclass(frozen=True, slots=True)
class FormatOptions:
    host: str = "unknown"  # name of this machine
    width: int = 120  # columns of the terminal
    version: str = "0"
    publish: Callable[[HttpExchange], Message | None] = lambda _: None  # the rules; None: nothing may leave
