"""What all fuzz targets share: how atheris is started, and how a number of any size is read from octets."""

from __future__ import annotations

import sys
from collections.abc import Callable


def run(one_input: Callable[[bytes], None]) -> None:
    """Run atheris over a target with the command line's options."""
    try:
        import atheris  # noqa: PLC0415  # optional
    except ImportError:
        sys.exit("fuzzing needs atheris: pip install atheris")
    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


class Cursor:
    """Reads an input from the front; zeros where it has ended."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def more(self) -> bool:
        return self.at < len(self.data)

    def take(self, n: int) -> bytes:
        part = self.data[self.at : self.at + n]
        self.at += n
        return part

    def number(self, octets: int = 1) -> int:
        return int.from_bytes(self.take(octets).ljust(octets, b"\0"))
