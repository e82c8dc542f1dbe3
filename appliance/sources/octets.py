"""A capture file as octets: plain or gzip, from disk or standard input, never more than a piece at a time.

Contract: ``read`` returns the next octets, empty at the end: ``PIECE`` of them but for the last, however
short the members of a gzip file (RFC 1952 §2.2) are, since whoever reads joins pieces; of a pipe what it has.
What is damaged raises ``Damaged`` with a reason, after everything before the damage has been returned.
Bound: ``PIECE`` octets in, ``PIECE`` out, whatever gzip makes of them.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import zlib
from pathlib import Path
from typing import BinaryIO, Final

PIECE: Final = 1 << 18  # more costs page faults (1.25 against 1.0 us a record at 1 MiB)
_FEED: Final = 1 << 14  # of gzip at a time: zlib copies what it leaves, for each member
_GZIP: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31  # zlib: 15 bits of window, and a gzip header (RFC 1952)


class Damaged(Exception):  # noqa: N818  # a statement about the file, not about us
    """The file cannot be read on; the text says why."""


class Octets:
    def __init__(self, path: str) -> None:
        """Raises OSError where the file cannot be opened, Damaged where its first piece cannot be read."""
        self._file: BinaryIO = sys.stdin.buffer if path == "-" else Path(path).open("rb")  # noqa: SIM115  # close()
        # A pipe from a capture that is running: what it has now is not held back for what it may have later.
        self.live = not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        self.consumed = 0  # octets read of the file as it is stored
        self._damage = ""
        self._gunzip = zlib.decompressobj(_GZIP_WINDOW)
        self._at = 0  # of _ahead, inflated
        self._ahead = self._raw()
        if len(self._ahead) == 1:  # a pipe that does not wait gives what it has
            self._ahead += self._raw()
        self._packed = self._ahead[:2] == _GZIP
        if self._damage:
            self.close()
            raise Damaged(self._damage)

    def close(self) -> None:
        if self._file is not sys.stdin.buffer:
            self._file.close()

    def read(self) -> bytes:
        if self._packed:
            data = self._inflate()
        else:
            data, self._ahead = self._ahead or self._raw(), b""
        if not data and self._damage:
            raise Damaged(self._damage)
        return data

    def _raw(self) -> bytes:
        """The next octets as they are stored; none at the end, and where ``_damage`` says why."""
        try:
            data: bytes | None = None
            while data is None:
                data = self._some()
        except OSError as error:
            self._damage = error.strerror or str(error)
            return b""
        self.consumed += len(data)
        return data

    def _some(self) -> bytes | None:
        """None: whoever started us left the pipe non-blocking, and now it has something."""
        try:
            return os.read(self._file.fileno(), PIECE) if self.live else self._file.read(PIECE)
        except BlockingIOError:
            select.select([self._file], [], [])
            return None

    def _inflate(self) -> bytes:
        parts = []
        room = PIECE
        while room > 0 and not self._damage:
            if self._at == len(self._ahead):
                self._ahead, self._at = self._raw(), 0
            if self._ahead:
                data = self._step(room)
            elif self._gunzip.eof or self._damage:
                break
            else:
                data = self._gunzip.decompress(b"", room)  # what had no room before
                if not data:
                    self._damage = "the gzip stream is cut short"
            parts.append(data)
            room -= len(data)
        return b"".join(parts)

    def _step(self, room: int) -> bytes:
        """What the next octets of the file inflate to; may be nothing."""
        feed = self._ahead[self._at : self._at + _FEED]
        if self._gunzip.eof:  # another member, or padding
            padding = len(feed) - len(feed.lstrip(b"\0"))
            if padding:
                self._at += padding
                return b""
            self._gunzip = zlib.decompressobj(_GZIP_WINDOW)
        before = self._gunzip.copy()
        try:
            data = self._gunzip.decompress(feed, room)
        except zlib.error as error:
            self._damage = f"the gzip stream is damaged ({error})"
            return _before_damage(before, feed)
        left = self._gunzip.unused_data if self._gunzip.eof else self._gunzip.unconsumed_tail
        self._at += len(feed) - len(left)
        return data


def _before_damage(gunzip: zlib._Decompress, feed: bytes) -> bytes:
    """What comes out until zlib notices; it gives nothing of the call that fails."""
    out = bytearray()
    for at in range(len(feed)):
        try:
            out += gunzip.decompress(feed[at : at + 1])
        except zlib.error:
            break
    return bytes(out)
