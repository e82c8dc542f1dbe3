"""Capture files as tests write and read them."""

from __future__ import annotations

from pathlib import Path

from appliance.model import LINK_ETHERNET, Frame
from appliance.sources.pcap import CaptureFiles

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND


def frames(n: int, start: int = T0, step: int = 1_000_000) -> list[Frame]:
    return [
        Frame(start + k * step, bytes([k % 256]) * (20 + k % 50), 100 + k, LINK_ETHERNET) for k in range(n)
    ]


def read(path: Path | str, *more: Path) -> tuple[list[tuple[int, bytes, int, int]], list[str]]:
    source = CaptureFiles([str(path), *map(str, more)])
    found = [(f.ts, f.data, f.wire_length, f.link) for batch in source for f in batch]
    assert source.frames == len(found)
    return found, [str(fault) for fault in source.faults]


def plain(some: list[Frame]) -> list[tuple[int, bytes, int, int]]:
    return [(f.ts, f.data, f.wire_length, f.link) for f in some]
