"""Lines -> batches, by size and by time.

Contract: every line comes out once, in order, ended by LF; a batch is never empty. It closes when its
payload reaches ``size`` octets or when its first line has waited for ``wait`` nanoseconds.
Bound: ``size`` and one line.
"""

from __future__ import annotations

from appliance.model import Batch


class Batcher:
    """Sans I/O: the time is passed in, in nanoseconds."""

    def __init__(self, size: int, wait: int) -> None:
        self._size = size
        self._wait = wait
        self._lines: list[bytes] = []
        self._octets = 0
        self._oldest = 0

    def add(self, line: bytes, now: int) -> Batch | None:
        """``line`` without its LF. The batch that it fills, if it does."""
        if not self._lines:
            self._oldest = now
        self._lines.append(line)
        self._octets += len(line) + 1
        return self.flush() if self._octets >= self._size else None

    def tick(self, now: int) -> Batch | None:
        return self.flush() if self._lines and now - self._oldest >= self._wait else None

    def flush(self) -> Batch | None:
        if not self._lines:
            return None
        self._lines.append(b"")
        batch = Batch(b"\n".join(self._lines), len(self._lines) - 1, self._oldest)
        self._lines = []
        self._octets = 0
        return batch
