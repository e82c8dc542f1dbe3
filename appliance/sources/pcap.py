"""Capture files -> batches of frames: pcap and pcapng, plain or gzip, several as one timeline.

Contract: frames in the order of the file; of several files in the order of time. Every record before a
cut or damage comes out; then ``faults`` has a line that names the file, the record and the octet. What
is no capture yields nothing and a line. Nothing is raised for what is in a file.

Bounds: a record ``RECORD_LIMIT`` octets (libpcap's MAXIMUM_SNAPLEN), a block ``BLOCK_LIMIT``; one batch
(``BATCH_OCTETS``) and two pieces of each file in memory whose times are being read (not of those before
and after).

Our own few lines instead of scapy's RawPcapReader: that costs 2.4 times as much a record, and 3.2 times
where we are compiled (a row of ``make bench``): half the time allowed for a whole call. For pcapng,
scapy's reader (2.8.0) keeps the interfaces of the section before, takes a cut for an end, and reads
blocks of any length. It is the oracle in the tests.
"""

from __future__ import annotations

import heapq
import itertools
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from appliance.model import Frame
from appliance.sources.octets import Damaged, Octets
from appliance.sources.pcapng import SECTION, Pcapng

RECORD_LIMIT: Final = 262_144  # not less than octets.PIECE: a longer record is never whole in the buffer
BATCH_OCTETS: Final = 256 << 10  # of frames in a batch, or one frame that is longer
FILE_HEADER: Final = 24
RECORD_HEADER: Final = 16
_PATCHED_HEADER: Final = 24  # libpcap's KUZNETZOV_TCPDUMP_MAGIC: 8 more octets that say nothing to us
_FCS_KNOWN: Final = 0x0400_0000  # the length of the FCS, in units of 16 bits, is in the highest 4 bits
_SECOND: Final = 1_000_000_000
END: Final = "is the end"  # of a file that is whole


class Layout(NamedTuple):
    order: str
    scale: int  # nanoseconds in a unit of the fraction
    header: int  # octets before a record's data


_MAGIC: Final[dict[bytes, Layout]] = {
    b"\xd4\xc3\xb2\xa1": Layout("<", 1000, RECORD_HEADER),
    b"\xa1\xb2\xc3\xd4": Layout(">", 1000, RECORD_HEADER),
    b"\x4d\x3c\xb2\xa1": Layout("<", 1, RECORD_HEADER),
    b"\xa1\xb2\x3c\x4d": Layout(">", 1, RECORD_HEADER),
    b"\x34\xcd\xb2\xa1": Layout("<", 1000, _PATCHED_HEADER),
    b"\xa1\xb2\xcd\x34": Layout(">", 1000, _PATCHED_HEADER),
}


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
        self._standard_input = False  # is being read
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
        batches = self._read(self.paths[0]) if len(self.paths) == 1 else self._merged()
        for batch in batches:
            self.frames += len(batch)
            octets = 0
            for frame in batch:
                octets += len(frame.data)
            if octets <= BATCH_OCTETS:  # common case
                yield batch
            else:
                yield from _smaller(batch)

    def _merged(self) -> Iterator[list[Frame]]:
        """Several files as one timeline; where times are equal, in the order of ``paths``.

        A file is open only from its first frame to its last: a day in a thousand files has one or two.
        """
        waiting = self._starts()
        running: list[tuple[int, int, Frame, Iterator[Frame]]] = []
        batch: list[Frame] = []
        while waiting or running:
            if waiting and (not running or waiting[-1][:2] < running[0][:2]):
                _, number, batches = waiting.pop()
                frames = _flat(self._read(self.paths[number]) if batches is None else batches)
                first = next(frames, None)
                if first is not None:
                    heapq.heappush(running, (first.ts, number, first, frames))
                continue
            _, number, frame, frames = running[0]
            batch.append(frame)
            following = next(frames, None)
            if following is None:
                heapq.heappop(running)
            else:  # common case
                heapq.heapreplace(running, (following.ts, number, following, frames))
            if len(batch) == self.batch:
                yield batch
                batch = []
        if batch:
            yield batch

    def _starts(self) -> list[tuple[int, int, Iterator[list[Frame]] | None]]:
        """The latest first: time of the first frame, number of the path, and what cannot be read twice."""
        starts: list[tuple[int, int, Iterator[list[Frame]] | None]] = []
        for number, path in enumerate(self.paths):
            done = self._done
            batches = self._read(path)
            first = next(batches, None)
            if first is None:
                continue
            if path != "-" and Path(path).is_file():
                batches.close()  # compiled, a generator that is only dropped leaves its file open
                self._done = done
                starts.append((first[0].ts, number, None))
            else:
                starts.append((first[0].ts, number, itertools.chain((first,), batches)))
        return sorted(starts, key=_time_and_number, reverse=True)

    def _read(self, path: str) -> Generator[list[Frame], None, None]:
        if path == "-" and self._standard_input:
            self.faults.append(Fault(path, False, "cannot be read: standard input can be named once"))
            return
        self._standard_input = self._standard_input or path == "-"
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
            extra = struct.unpack_from(magic.order + "I", start, 20)[0]
            records = _classic(octets, start, magic, self.batch, fault)
            yield from _without_fcs(records, (extra >> 28) * 2) if extra & _FCS_KNOWN else records


def _classic(
    octets: Octets, buffer: bytes, layout: Layout, batch: int, fault: Callable[[str], None]
) -> Iterator[list[Frame]]:
    order, scale, before = layout
    link = struct.unpack_from(order + "I", buffer, 20)[0] & 0xFFFF  # above: what frames have of an FCS
    header = struct.Struct(order + "IIII").unpack_from
    frames: list[Frame] = []
    base, at, number = 0, FILE_HEADER, 1
    second, whole = -1, 0  # a second's nanoseconds are worked out once for all of its records
    more = True
    while more:
        end = len(buffer)
        while at + before <= end:  # common case: a whole record in the buffer
            seconds, fraction, captured, wire = header(buffer, at)
            data = at + before
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
        if frames and octets.live:
            yield frames
            frames = []
        base += at
        buffer, why = _go_on(octets, buffer[at:], header, before)
        at = 0
        more = not why
    if frames:
        yield frames
    if why != END:
        fault(f"record {number} at octet {base} {why}")


def _go_on(
    octets: Octets, rest: bytes, header: Callable[[bytes, int], tuple[int, ...]], before: int
) -> tuple[bytes, str]:
    """What follows in the file behind ``rest``, or why nothing does; END between two records."""
    wanted = before
    if len(rest) >= before:
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


def _without_fcs(batches: Iterator[list[Frame]], octets: int) -> Iterator[list[Frame]]:
    """Frames without the frame check sequence at their end: where IP gives no length, it would be payload."""
    for batch in batches:
        for frame in batch:
            frame.wire_length = max(max(frame.wire_length, len(frame.data)) - octets, 0)
            frame.data = frame.data[: frame.wire_length]
        yield batch


def _smaller(batch: list[Frame]) -> Iterator[list[Frame]]:
    """The same frames, ``BATCH_OCTETS`` at a time: small requests take fifty times what they are long."""
    part: list[Frame] = []
    room = BATCH_OCTETS
    for frame in batch:
        if part and len(frame.data) > room:
            yield part
            part, room = [], BATCH_OCTETS
        part.append(frame)
        room -= len(frame.data)
    yield part


def _flat(batches: Iterator[list[Frame]]) -> Iterator[Frame]:
    for batch in batches:
        yield from batch


def _time_and_number(start: tuple[int, int, Iterator[list[Frame]] | None]) -> tuple[int, int]:
    return start[:2]
