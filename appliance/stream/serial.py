"""Sequence numbers are integers modulo 2**32 (RFC 9293 §3.4)."""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFFFFFF
HALF: Final = 0x80000000


def diff(a: int, b: int) -> int:
    """How far ``a`` is ahead of ``b``: -2**31 <= result < 2**31."""
    return ((a - b + HALF) & MASK) - HALF
