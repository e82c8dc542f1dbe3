"""A TPACKET_V3 ring: memory that the kernel fills and a worker reads (linux/if_packet.h).

Contract: a packet becomes one Frame: from Ethernet and loopback interfaces with its link layer, from all
others without (LINK_RAW, also what is not IP). Where several interfaces are captured, what crosses some of
them comes once (repeats.py); a super-frame (GRO, GSO) is no repeat of the packets that it was or will be.

How far a worker has read stands in the ring itself: the next worker goes on behind the last batch, so that
a packet which ends a worker does not end all that follow.

Bounds: a packet is BLOCK octets less its headers, the kernel cuts what is longer; a batch READ_FRAMES frames
and READ_OCTETS octets, the last frame beyond.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from typing import Final

from appliance.model import LINK_ETHERNET, LINK_RAW, NANOSECONDS, Frame
from appliance.sources.base import nobody
from appliance.sources.livefilter import ARPHRD_ETHER, ARPHRD_LOOPBACK
from appliance.sources.repeats import Repeats, identity

# With little traffic the timeout closes blocks that are nearly empty, so their number, not their size, is
# how long a worker may be away without loss: 256 of them for 5 s, where 64 of 1 MiB would last for 1.3.
# Linux' largest super-frames (BIG TCP as Cilium has it: 192 KiB) still fit.
BLOCK: Final = 256 << 10
READ_FRAMES: Final = 128  # as many as a file's batch: they stay in the processor's cache
READ_OCTETS: Final = 256 << 10

# struct tpacket_block_desc: status, number of packets, where the first is, sequence number.
_BLOCK_HEAD: Final = struct.Struct("=8x3I4xQ").unpack_from
_SEQUENCE: Final = 3
_STATUS: Final = 8
_LEFT: Final = 12
_SET_STATUS: Final = struct.Struct("=I").pack_into  # no "x": it would write zeros
_SET_LEFT: Final = struct.Struct("=2I").pack_into
_OF_KERNEL: Final = 0
_OF_USER: Final = 1
_ETHERNETS: Final = frozenset({ARPHRD_ETHER, ARPHRD_LOOPBACK})
# struct tpacket3_hdr and the sockaddr_ll behind it: distance to the next, time, octets kept and on the wire,
# where link and network layer begin, interface, link type.
_PACKET_HEAD: Final = struct.Struct("=5I4x2H24xiH").unpack_from


class Ring:
    """Blocks in a circle, each with packets one after the other."""

    __slots__ = ("_at", "_end", "_memory", "_repeats", "duplicates", "hold")

    def __init__(self, memory: mmap.mmap, *, several: bool) -> None:
        self._memory = memory
        self._end = len(memory)
        self._at = _oldest(memory)
        self._repeats = Repeats() if several else None
        self.duplicates = 0
        self.hold: Callable[[int], None] = nobody  # told how many were taken, before the kernel has them back

    def read(self) -> list[Frame]:
        """A batch; empty when there is nothing. Never waits."""
        memory = self._memory
        frames: list[Frame] = []
        in_hand = 0
        while not frames:  # all of a batch can be repeats
            at = self._at
            status, left, first, _ = _BLOCK_HEAD(memory, at)
            if not status & _OF_USER:
                break
            taken, following = self._take(frames, at + first, left)
            in_hand += taken
            self.hold(in_hand)
            if taken < left:  # the kernel does not look at these while the block is ours
                _SET_LEFT(memory, at + _LEFT, left - taken, following - at)
            else:
                _SET_STATUS(memory, at + _STATUS, _OF_KERNEL)
                self._at = (at + BLOCK) % self._end
        return frames

    def left(self) -> int:
        """Packets in all blocks that the kernel has given, and nobody has taken."""
        blocks = (_BLOCK_HEAD(self._memory, at) for at in range(0, self._end, BLOCK))
        return sum(left for status, left, *_ in blocks if status & _OF_USER)

    def _take(self, frames: list[Frame], at: int, left: int) -> tuple[int, int]:
        """How many packets were taken, and where the next one is."""
        memory, repeats, head = self._memory, self._repeats, _PACKET_HEAD
        room = READ_OCTETS
        taken = 0
        while taken < left and taken < READ_FRAMES and room > 0:
            step, seconds, fraction, kept, length, mac, network, index, kind = head(memory, at)
            start = at + mac
            data = memory[start : start + kept]
            ts = seconds * NANOSECONDS + fraction
            network -= mac
            if repeats is not None and repeats.again(identity(data, network), index, ts):
                self.duplicates += 1
            elif kind in _ETHERNETS:
                frames.append(Frame(ts, data, length, LINK_ETHERNET))
            else:
                frames.append(Frame(ts, data[network:], length - network, LINK_RAW))
            at += step
            room -= kept
            taken += 1
        return taken, at


def _oldest(memory: mmap.mmap) -> int:
    """The block that was not given back for the longest time, else the one that the kernel fills now.

    The kernel goes on meanwhile: so first the newest one, then those of us that are older.
    """
    blocks = range(0, len(memory), BLOCK)
    newest = max(blocks, key=lambda at: _BLOCK_HEAD(memory, at)[_SEQUENCE])
    ours = [at for at in blocks if _BLOCK_HEAD(memory, at)[0] & _OF_USER]
    return min([newest, *ours], key=lambda at: _BLOCK_HEAD(memory, at)[_SEQUENCE])
