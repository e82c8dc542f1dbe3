"""A capture file as octets: plain or gzip, from disk or standard input, never more than a piece at a time.

Contract: ``read`` returns the next octets, empty at the end. What is damaged raises ``Damaged`` with a
reason, after everything before the damage has been returned.
Bound: ``PIECE`` octets in, ``PIECE`` out, whatever gzip makes of them.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import BinaryIO, Final

PIECE: Final = 1 << 18  # more costs page faults (1.25 against 1.0 us a record at 1 MiB)
_GZIP: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31  # zlib: 15 bits of window, and a gzip header (RFC 1952)


class Damaged(Exception):  # noqa: N818  # a statement about the file, not about us
    """The file cannot be read on; the text says why."""


class Octets:
    def __init__(self, path: str) -> None:
        """Raises OSError where the file cannot be opened."""
        self._file: BinaryIO = sys.stdin.buffer if path == "-" else Path(path).open("rb")  # noqa: SIM115  # close()
        self.consumed = 0  # octets read of the file as it is stored
        self._ahead = self._raw()
        self._gunzip = zlib.decompressobj(_GZIP_WINDOW) if self._ahead[:2] == _GZIP else None
        self._damage = ""

    def close(self) -> None:
        if self._file is not sys.stdin.buffer:
            self._file.close()

    def read(self) -> bytes:
        if self._gunzip is not None:
            return self._inflate()
        data, self._ahead = self._ahead, b""
        return data or self._raw()

    def _raw(self) -> bytes:
        try:
            data = self._file.read(PIECE)
        except OSError as error:
            raise Damaged(error.strerror or str(error)) from error
        self.consumed += len(data)
        return data

    def _inflate(self) -> bytes:
        while True:
            assert self._gunzip is not None  # noqa: S101
            if self._damage:
                raise Damaged(self._damage)
            if not self._ahead:
                self._ahead = self._raw()
            if not self._ahead:
                if self._gunzip.eof:
                    return b""
                raise Damaged("the gzip stream is cut short")
            if self._gunzip.eof:  # another member (RFC 1952 §2.2), or padding
                if self._ahead[:2] != _GZIP and self._ahead.strip(b"\0") == b"":
                    self._ahead = b""
                    continue
                self._gunzip = zlib.decompressobj(_GZIP_WINDOW)
            before = self._gunzip.copy()
            try:
                data = self._gunzip.decompress(self._ahead, PIECE)
            except zlib.error as error:
                self._damage = f"the gzip stream is damaged ({error})"
                data = _before_damage(before, self._ahead)
            self._ahead = self._gunzip.unused_data if self._gunzip.eof else self._gunzip.unconsumed_tail
            if data:
                return data


def _before_damage(gunzip: zlib._Decompress, data: bytes) -> bytes:
    """What comes out until zlib notices; it gives nothing of the call that fails."""
    out = bytearray()
    for at in range(len(data)):
        try:
            out += gunzip.decompress(data[at : at + 1])
        except zlib.error:
            break
        if len(out) > PIECE:
            break
    return bytes(out)
