"""Octets of a head or a line that is not whole yet, held and accounted for.

Contract: ``line`` returns a whole line with its end, or holds what there is; every octet is counted as
framing or as held, and what is given up is counted under the name it is released as.
Bound: the caller's limit for a line; ``limit + 1`` octets are held at most.
"""

from __future__ import annotations

from appliance.decoders.http1.shared import Octets


class Lines:
    __slots__ = ("buffer", "octets", "scanned")

    def __init__(self, octets: Octets) -> None:
        self.octets = octets
        self.buffer = bytearray()
        self.scanned = 0  # octets of the buffer in which an end was looked for

    def line(self, payload: bytes, at: int, limit: int) -> tuple[bytes | None, int]:
        """The next line of ``payload[at:]``, or None; and where to go on."""
        counts = self.octets
        buffer = self.buffer
        room = limit + 1 - len(buffer)
        stop = payload.find(b"\n", at, at + room)
        if stop >= 0 and not buffer:  # common case
            counts.framing += stop + 1 - at
            return payload[at : stop + 1], stop + 1
        if stop < 0:
            taken = min(len(payload) - at, room)
            buffer += payload[at : at + taken]
            counts.held += taken
            return None, at + taken
        line = bytes(buffer) + payload[at : stop + 1]
        counts.held -= len(buffer)
        counts.framing += len(line)
        self.drop()
        return line, stop + 1

    def release(self, name: int) -> None:
        """What is held will not become anything; ``name`` is one of shared.py's."""
        held = len(self.buffer)
        if held:
            self.octets.release(held, name)
            self.drop()

    def drop(self) -> None:
        """What was held has become something."""
        self.buffer = bytearray()
        self.scanned = 0
