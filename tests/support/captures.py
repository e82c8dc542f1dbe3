"""Capture files as octets, block by block, so that tests can cut and damage them where they mean to."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from appliance.model import LINK_ETHERNET, Frame

SECOND = 1_000_000_000


def pcap(
    frames: Iterable[Frame], *, order: str = "<", nano: bool = False, link: int = LINK_ETHERNET
) -> bytes:
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262_144, link)]
    for frame in frames:
        seconds, rest = divmod(frame.ts, SECOND)
        fraction = rest if nano else rest // 1000
        out += struct.pack(order + "IIII", seconds, fraction, len(frame.data), frame.wire_length), frame.data
    return b"".join(out)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += b"\0" * (-len(body) % 4)
    length = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + b"\0" * (-len(value) % 4)


def interface(link: int = LINK_ETHERNET, snap: int = 0, options: bytes = b"", order: str = "<") -> bytes:
    return block(1, struct.pack(order + "HHI", link, 0, snap) + options, order)


def enhanced(number: int, units: int, data: bytes, wire: int | None = None, order: str = "<") -> bytes:
    head = struct.pack(
        order + "IIIII",
        number,
        units >> 32,
        units & 0xFFFFFFFF,
        len(data),
        len(data) if wire is None else wire,
    )
    return block(6, head + data, order)
