"""HttpExchange -> octets: one file a format, found by its module name.

A format has ``build(options)``; what it returns has ``begin``, ``write`` for each exchange, and ``end``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FormatOptions:
    host: str = "unknown"  # name of this machine
    width: int = 120  # columns of the terminal
    version: str = "0"
