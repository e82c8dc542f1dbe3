"""pcapng blocks -> batches of frames (draft-ietf-opsawg-pcapng).

Contract: as pcap.py. Each section has its own byte order and interfaces; each interface its own link
type, resolution and offset of time. Enhanced, Simple and the obsolete Packet Blocks give frames; other
blocks are passed over. A Simple Packet Block has no time: it takes that of the record before it.

Bounds: a block ``BLOCK_LIMIT`` octets, a section ``INTERFACE_LIMIT`` interfaces.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from appliance.model import Frame
from appliance.sources.octets import Damaged, Octets

BLOCK_LIMIT: Final = 16 << 20  # libpcap's MAX_BLOCKSIZE for pcapng
INTERFACE_LIMIT: Final = 65_536  # what the 16 bits of a Packet Block can name; 4 kB of gzip can hold as many
SECTION: Final = b"\x0a\x0d\x0d\x0a"  # reads the same in both byte orders
_ORDERS: Final = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_INTERFACE, _PACKET, _SIMPLE, _ENHANCED = 1, 2, 3, 6
_TSRESOL, _TSOFFSET = 9, 14
_SECOND: Final = 1_000_000_000
_LEAST: Final = 12  # type, length, length again
_LEAST_ENHANCED: Final = 32


class Interface(NamedTuple):
    link: int
    snap: int  # 0: no limit
    units: int  # of time in a second
    offset: int  # nanoseconds
    scale: int  # nanoseconds in a unit; 0 where they are no whole number


class _Broken(Exception):  # noqa: N818
    """The block contradicts itself; the text says how."""


class Pcapng:
    def __init__(self, octets: Octets, start: bytes, batch: int, fault: Callable[[str], None]) -> None:
        self._octets = octets
        self._buffer = start
        self._at = 0
        self._base = 0  # position of buffer[0] in the file
        self._batch = batch
        self._fault = fault
        self._number = 1  # of the block at _at
        self._order = "<"
        self._head = struct.Struct("<7I").unpack_from  # of an Enhanced Packet Block
        self._interfaces: list[Interface] = []
        self._last = 0
        self._readers: dict[int, Callable[[bytes], Frame]] = {
            _ENHANCED: self._enhanced,
            _SIMPLE: self._simple,
            _PACKET: self._packet,
        }

    def frames(self) -> Iterator[list[Frame]]:
        frames: list[Frame] = []
        while True:
            self._enhanced_blocks(frames)
            if len(frames) == self._batch or (frames and self._octets.live):
                yield frames
                frames = []
                continue
            where = self._base + self._at
            try:
                block = self._block()
                if block is None:
                    break
                self._take(*block, frames)
            except (_Broken, struct.error) as error:
                if frames:
                    yield frames
                reason = "is too short for its kind" if isinstance(error, struct.error) else str(error)
                self._fault(f"block {self._number} at octet {where} {reason}")
                return
            self._number += 1
        if frames:
            yield frames

    def _enhanced_blocks(self, frames: list[Frame]) -> None:
        """Common case: those whole in the buffer, up to a batch (1.6 us each; one by one 3.0).

        Stops before the first block that is anything else, or wrong in any way.
        """
        buffer, at, head, interfaces = self._buffer, self._at, self._head, self._interfaces
        end = len(buffer)
        for _ in range(self._batch - len(frames)):
            if at + _LEAST_ENHANCED > end:
                break
            kind, length, number, high, low, captured, wire = head(buffer, at)
            stop = at + length
            if kind != _ENHANCED or stop > end or captured > length - _LEAST_ENHANCED:
                break
            if length & 3 or buffer[stop - 4 : stop] != buffer[at + 4 : at + 8] or number >= len(interfaces):
                break
            link, _, _, offset, scale = interfaces[number]
            if not scale:
                break
            self._last = (high << 32 | low) * scale + offset
            frames.append(Frame(self._last, buffer[at + 28 : at + 28 + captured], wire, link))
            at = stop
            self._number += 1
        self._at = at

    def _take(self, kind: int, body: bytes, frames: list[Frame]) -> None:
        reader = self._readers.get(kind)
        if reader is not None:
            frames.append(reader(body))
        elif kind == _INTERFACE:
            if len(self._interfaces) == INTERFACE_LIMIT:
                raise _Broken(f"describes one interface more than the {INTERFACE_LIMIT} a section may have")
            self._interfaces.append(self._interface(body))

    def _block(self) -> tuple[int, bytes] | None:
        """The next block's type and body; None at the end of the file."""
        if not self._have(_LEAST):
            if self._at == len(self._buffer):
                return None
            raise _Broken(
                f"is cut short: {len(self._buffer) - self._at} of at least {_LEAST} octets are there"
            )
        at = self._at
        if self._buffer[at : at + 4] == SECTION:
            order = _ORDERS.get(self._buffer[at + 8 : at + 12])
            if order is None:
                raise _Broken("is a section of unknown byte order")
            self._order = order
            self._head = struct.Struct(order + "7I").unpack_from
            self._interfaces = []
        kind, length = struct.unpack_from(self._order + "II", self._buffer, at)
        if length < _LEAST or length % 4 or length > BLOCK_LIMIT:
            raise _Broken(f"announces {length} octets, which no block has")
        if not self._have(length):
            raise _Broken(f"is cut short: {len(self._buffer) - self._at} of {length} octets are there")
        at = self._at
        self._at += length
        if struct.unpack_from(self._order + "I", self._buffer, at + length - 4)[0] != length:
            raise _Broken("has two different lengths")
        return kind, self._buffer[at + 8 : at + length - 4]

    def _have(self, n: int) -> bool:
        """Whether ``n`` octets follow; then they are in the buffer."""
        missing = n - (len(self._buffer) - self._at)
        if missing <= 0:  # common case
            return True
        parts = [self._buffer[self._at :]]
        while missing > 0:
            try:
                piece = self._octets.read()
            except Damaged as error:
                raise _Broken(f"cannot be read: {error}") from error
            if not piece:
                break
            parts.append(piece)
            missing -= len(piece)
        self._base += self._at
        self._at = 0
        self._buffer = b"".join(parts)
        return missing <= 0

    def _interface(self, body: bytes) -> Interface:
        link, _, snap = struct.unpack_from(self._order + "HHI", body)
        units, offset = 1_000_000, 0
        at = 8
        while at + 4 <= len(body):
            code, length = struct.unpack_from(self._order + "HH", body, at)
            value = body[at + 4 : at + 4 + length]
            if code == 0:
                break
            if code == _TSRESOL and len(value) == 1:
                units = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
            elif code == _TSOFFSET and len(value) == 8:  # noqa: PLR2004
                offset = struct.unpack(self._order + "q", value)[0] * _SECOND
            at += 4 + length + -length % 4
        return Interface(link, snap, units, offset, 0 if _SECOND % units else _SECOND // units)

    def _of(self, number: int) -> Interface:
        if number >= len(self._interfaces):
            raise _Broken(f"names interface {number}, but its section has described {len(self._interfaces)}")
        return self._interfaces[number]

    def _frame(
        self, interface: Interface, time: tuple[int, int], data: bytes, captured: int, wire: int
    ) -> Frame:
        if len(data) < captured:
            raise _Broken(f"announces {captured} octets of a packet and has {len(data)}")
        units = time[0] << 32 | time[1]
        # Not before 1970: a time below zero means "never" further on, and no packet is that old.
        ts = max(units * _SECOND // interface.units + interface.offset, 0)
        self._last = ts
        return Frame(ts, data, wire, interface.link)

    def _enhanced(self, body: bytes) -> Frame:
        number, high, low, captured, wire = struct.unpack_from(self._order + "IIIII", body)
        return self._frame(self._of(number), (high, low), body[20 : 20 + captured], captured, wire)

    def _packet(self, body: bytes) -> Frame:
        number, _, high, low, captured, wire = struct.unpack_from(self._order + "HHIIII", body)
        return self._frame(self._of(number), (high, low), body[20 : 20 + captured], captured, wire)

    def _simple(self, body: bytes) -> Frame:
        wire = struct.unpack_from(self._order + "I", body)[0]
        interface = self._of(0)
        captured = min(wire, interface.snap or wire)
        data = body[4 : 4 + captured]
        if len(data) < captured:
            raise _Broken(f"announces {captured} octets of a packet and has {len(data)}")
        return Frame(self._last, data, wire, interface.link)
