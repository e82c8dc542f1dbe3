"""Capture files -> batches of frames: pcap and pcapng, plain or gzip, several as one timeline.

Contract: frames in the order of the file; of several files in the order of time. Every record before a
cut or damage comes out; then ``faults`` has a line that names the file, the record and the octet. What
is no capture yields nothing and a line. Nothing is raised for what is in a file.

Bounds: a record ``RECORD_LIMIT`` octets (libpcap's MAXIMUM_SNAPLEN), a block ``BLOCK_LIMIT``; one batch
and two pieces of the file in memory.

Our own few lines instead of scapy's RawPcapReader: that costs 6 to 9 times as much a record (the ratio
is a row of ``make bench``), a third of the time allowed for a whole call. For pcapng, scapy's reader
(2.8.0) keeps the interfaces of the section before, takes a cut for an end, and reads blocks of any
length. It is the oracle in the tests.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple

from appliance.model import Frame
from appliance.sources.octets import Damaged, Octets
from appliance.sources.pcapng import SECTION, Pcapng

RECORD_LIMIT: Final = 262_144
FILE_HEADER: Final = 24
RECORD_HEADER: Final = 16
_MAGIC: Final[dict[bytes, tuple[str, int]]] = {  # byte order, nanoseconds in a unit of the fraction
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_SECOND: Final = 1_000_000_000
END: Final = "is the end"  # of a file that is whole


class Fault(NamedTuple):
    path: str
    cut: bool  # a capture that ends too early, rather than no capture
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


class CaptureFiles:
    """Iterate once. ``paths``: files, "-" is standard input.

    ``batch`` frames at a time: 128 stay in the processor's cache until their exchanges are out; with 512
    the whole pipeline takes 6 % longer.
    """

    def __init__(self, paths: Sequence[str], batch: int = 128) -> None:
        self.paths = list(paths)
        self.batch = batch
        self.faults: list[Fault] = []
        self.frames = 0
        self._open: list[Octets] = []
        self._done = 0

    @property
    def octets_read(self) -> int:
        """Of the files as they are stored."""
        return self._done + sum(o.consumed for o in self._open)

    def octets_total(self) -> int | None:
        """Of all files together; None where one of them has no length, as standard input."""
        total = 0
        try:
            for path in self.paths:
                if path == "-" or not Path(path).is_file():
                    return None
                total += Path(path).stat().st_size
        except OSError:  # opening it will say why
            return None
        return total

    def __iter__(self) -> Iterator[list[Frame]]:
        readers = [self._read(path) for path in self.paths]
        batches = readers[0] if len(readers) == 1 else _merge(readers, self.batch)
        for batch in batches:
            self.frames += len(batch)
            yield batch

    def _read(self, path: str) -> Iterator[list[Frame]]:
        try:
            octets = Octets(path)
        except OSError as error:
            self.faults.append(Fault(path, False, f"cannot be read: {error.strerror or error}"))
            return
        except Damaged as error:
            self.faults.append(Fault(path, False, f"cannot be read: {error}"))
            return
        self._open.append(octets)
        try:
            yield from self._frames(path, octets)
        finally:
            self._open.remove(octets)
            self._done += octets.consumed
            octets.close()

    def _frames(self, path: str, octets: Octets) -> Iterator[list[Frame]]:
        def fault(text: str, *, cut: bool = True) -> None:
            self.faults.append(Fault(path, cut, text))

        start = b""
        try:
            while len(start) < FILE_HEADER:
                piece = octets.read()
                if not piece:
                    break
                start += piece
        except Damaged as error:
            fault(f"{error}, before the first record", cut=False)
            return
        magic = _MAGIC.get(start[:4])
        if magic is None and start[:4] != SECTION:
            what = f"it starts with 0x{start[:4].hex()}" if start else "it is empty"
            fault(f"is no capture file: {what}", cut=False)
        elif magic is None:
            yield from Pcapng(octets, start, self.batch, fault).frames()
        elif len(start) < FILE_HEADER:
            fault(f"is cut short in its header: {len(start)} of {FILE_HEADER} octets are there")
        else:
            yield from _classic(octets, start, magic, self.batch, fault)


def _classic(
    octets: Octets, buffer: bytes, magic: tuple[str, int], batch: int, fault: Callable[[str], None]
) -> Iterator[list[Frame]]:
    order, scale = magic
    link = struct.unpack_from(order + "I", buffer, 20)[0] & 0xFFFF  # above: whether frames end with an FCS
    header = struct.Struct(order + "IIII").unpack_from
    frames: list[Frame] = []
    base, at, number = 0, FILE_HEADER, 1
    second, whole = -1, 0  # a second's nanoseconds are worked out once for all of its records
    more = True
    while more:
        end = len(buffer)
        while at + RECORD_HEADER <= end:  # common case: a whole record in the buffer
            seconds, fraction, captured, wire = header(buffer, at)
            data = at + RECORD_HEADER
            stop = data + captured
            if stop > end:
                break
            if seconds != second:
                second, whole = seconds, seconds * _SECOND
            frames.append(Frame(whole + fraction * scale, buffer[data:stop], wire, link))
            at = stop
            number += 1
            if len(frames) == batch:
                yield frames
                frames = []
        base += at
        buffer, why = _go_on(octets, buffer[at:], header)
        at = 0
        more = not why
    if frames:
        yield frames
    if why != END:
        fault(f"record {number} at octet {base} {why}")


def _go_on(octets: Octets, rest: bytes, header: Callable[[bytes, int], tuple[int, ...]]) -> tuple[bytes, str]:
    """What follows in the file behind ``rest``, or why nothing does; END between two records."""
    wanted = RECORD_HEADER
    if len(rest) >= RECORD_HEADER:
        captured = header(rest, 0)[2]
        wanted += captured
        if captured > RECORD_LIMIT:
            return rest, f"announces {captured} octets, more than the {RECORD_LIMIT} that a record may have"
    try:
        piece = octets.read()
    except Damaged as error:
        return rest, f"cannot be read: {error}"
    if piece:
        return rest + piece, ""
    return rest, f"is cut short: {len(rest)} of {wanted} octets are there" if rest else END


def _merge(readers: list[Iterator[list[Frame]]], size: int) -> Iterator[list[Frame]]:
    """Several files as one timeline."""
    timelines = [(frame for batch in reader for frame in batch) for reader in readers]
    batch: list[Frame] = []
    for frame in heapq.merge(*timelines, key=attrgetter("ts")):
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
