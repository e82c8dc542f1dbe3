"""Capture files: every format, every cut, and what is none."""

from __future__ import annotations

import gzip
import heapq
import io
import struct
import sys
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.model import LINK_ETHERNET, LINK_RAW, LINK_SLL, Frame
from appliance.sources import octets, pcap, pcapng
from appliance.sources.pcap import CaptureFiles
from tests.fuzz import fuzz_pcap
from tests.sources.files import SECOND, T0, frames, plain, read
from tests.support import captures as build


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_pcap_in_both_byte_orders_and_resolutions(put, order: str, nano: bool, packed: bool) -> None:
    some = frames(1300, step=1_000_001 if nano else 1_000_000)
    data = build.pcap(some, order=order, nano=nano)
    found, faults = read(put(gzip.compress(data) if packed else data))
    assert found == plain(some)
    assert faults == []


def test_microseconds_are_not_nanoseconds(put) -> None:
    found, _ = read(put(build.pcap([Frame(T0 + 123_456_789, b"x", 1, 1)])))
    assert found[0][0] == T0 + 123_456_000


@pytest.mark.parametrize("order", ["<", ">"])
def test_records_with_the_longer_header_of_patched_tcpdumps(put, order: str) -> None:
    data = struct.pack(order + "IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, 65535, 1)
    for octet in b"ab":
        data += struct.pack(order + "IIIIIHBB", 1_700_000_000, 7, 3, 9, 1, 2, 3, 0) + bytes([octet]) * 3
    assert read(put(data)) == ([(T0 + 7000, b"aaa", 9, 1), (T0 + 7000, b"bbb", 9, 1)], [])
    found, faults = read(put(data[:-4]))
    assert len(found) == 1
    assert "record 2 at octet 51 is cut short: 23 of 24 octets are there" in faults[0]


@pytest.mark.parametrize(
    ("bits", "captured", "wire", "left"),
    [
        (0x2400_0000, b"frame+FCS!", 10, (b"frame+", 6)),
        (0x1400_0000, b"frame+FCS!", 10, (b"frame+FC", 8)),
        (0x2000_0000, b"frame+FCS!", 10, (b"frame+FCS!", 10)),  # "length unknown"
        (0x0400_0000, b"frame+", 6, (b"frame+", 6)),  # "none"
        (0x2400_0000, b"frame+F", 10, (b"frame+", 6)),  # cut in the FCS
        (0x2400_0000, b"fra", 10, (b"fra", 6)),  # cut before it
        (0x2400_0000, b"abc", 3, (b"", 0)),
        (0x2400_0000, b"frame+FCS!", 0, (b"frame+", 6)),  # a writer that does not know the length
    ],
)
def test_frames_end_before_their_fcs(
    put, bits: int, captured: bytes, wire: int, left: tuple[bytes, int]
) -> None:
    found, _ = read(put(build.pcap([Frame(T0, captured, wire, 0)], link=bits | LINK_SLL)))
    assert found == [(T0, *left, LINK_SLL)]


def test_record_larger_than_a_piece_of_the_file(put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(octets, "PIECE", 64)
    some = [Frame(T0, b"x" * 5000, 5000, 1), Frame(T0, b"y" * 10, 10, 1)]
    assert read(put(build.pcap(some)))[0] == plain(some)


def test_pcapng_with_several_interfaces(put) -> None:
    data = (
        build.section()
        + build.interface(LINK_ETHERNET)
        + build.interface(LINK_RAW, options=build.option(9, b"\x09"))
    )
    data += build.enhanced(1, T0 + 7, b"raw") + build.enhanced(0, T0 // 1000 + 3, b"ether", wire=99)
    found, faults = read(put(data))
    assert found == [(T0 + 7, b"raw", 3, LINK_RAW), (T0 + 3000, b"ether", 99, LINK_ETHERNET)]
    assert faults == []


def test_pcapng_section_describes_its_interfaces_anew(put) -> None:
    data = build.section() + build.interface(LINK_ETHERNET) + build.enhanced(0, T0 // 1000, b"one")
    data += build.section(">") + build.interface(LINK_SLL, order=">")
    data += build.enhanced(0, T0 // 1000, b"two", order=">")
    assert [f[3] for f in read(put(data))[0]] == [LINK_ETHERNET, LINK_SLL]


@pytest.mark.parametrize(
    ("resolution", "units", "nanoseconds"),
    [
        (b"\x06", 1_700_000_000_000_001, T0 + 1000),
        (b"\x03", 1_700_000_000_001, T0 + 1_000_000),
        (b"\x0c", 1_700_000_000_000_000_002_000, T0 + 2),
        (b"\x8a", 1_700_000_000 * 1024 + 512, T0 + SECOND // 2),
    ],
)
def test_pcapng_resolution_of_time(put, resolution: bytes, units: int, nanoseconds: int) -> None:
    if units >= 1 << 64:
        units %= 1 << 64
        nanoseconds = units // 1000
    data = (
        build.section()
        + build.interface(options=build.option(9, resolution))
        + build.enhanced(0, units, b"x")
    )
    assert read(put(data))[0][0][0] == nanoseconds


def test_pcapng_offset_of_time(put) -> None:
    offset = build.option(14, struct.pack("<q", 1_700_000_000))
    data = build.section() + build.interface(options=offset) + build.enhanced(0, 5, b"x")
    assert read(put(data))[0][0][0] == T0 + 5000


def test_pcapng_simple_and_obsolete_blocks(put) -> None:
    data = build.section() + build.interface(snap=4) + build.enhanced(0, T0 // 1000, b"first")
    data += build.block(3, struct.pack("<I", 9) + b"cut!")
    data += build.block(
        2, struct.pack("<HHIIII", 0, 0, T0 // 1000 >> 32, T0 // 1000 & 0xFFFFFFFF, 3, 3) + b"old"
    )
    data += build.block(0x0BAD, b"something else")
    found, faults = read(put(data))
    assert [f[1:3] for f in found] == [(b"first", 5), (b"cut!", 9), (b"old", 3)]
    assert found[1][0] == T0
    assert faults == []


def test_several_files_are_one_timeline(put) -> None:
    a = frames(700, T0, 2_000_000)
    b = frames(700, T0 + 1_000_000, 2_000_000)
    found, _ = read(put(build.pcap(a), "a"), put(gzip.compress(build.pcap(b)), "b"))
    assert [f[0] for f in found] == sorted(f.ts for f in a + b)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 20), max_size=12), st.booleans()),
        min_size=2,
        max_size=5,
    )
)
def test_timeline_is_that_of_heapq_merge(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[list[int], bool]]
) -> None:
    """Also where a file is out of order in itself, has no frames, or is cut."""
    folder = tmp_path_factory.mktemp("timeline")
    paths, timelines = [], []
    for n, (times, cut) in enumerate(files):
        some = [Frame(ts * SECOND, bytes([n, k]), 2, 1) for k, ts in enumerate(times)]
        paths.append(folder / str(n))
        paths[-1].write_bytes(build.pcap(some) + b"x" * cut)
        timelines.append(plain(some))
    found, faults = read(*paths)
    assert found == list(heapq.merge(*timelines, key=itemgetter(0)))
    assert len(faults) == sum(cut for _, cut in files)


def test_files_one_after_the_other_are_open_one_after_the_other(put) -> None:
    """A day is a thousand files, and a process may open a thousand."""
    paths = [put(build.pcap(frames(300, T0 + n * SECOND)), f"{n:03}") for n in range(40)]
    source = CaptureFiles([str(path) for path in reversed(paths)], batch=10)
    most = max(len(source._open) for _ in source)
    assert source.frames == 40 * 300
    assert most <= 2
    assert source.octets_read == source.octets_total()


def test_several_files_are_not_read_ahead(put) -> None:
    """Compiled, a generator within a list is a list of all frames."""
    some = [Frame(T0 + k, b"x" * 1000, 1000, 1) for k in range(3000)]
    source = CaptureFiles([str(put(build.pcap(some), name)) for name in "ab"], batch=10)
    read_by_then = [source.octets_read for _ in source]
    assert len(read_by_then) == 600
    assert read_by_then[0] <= 2 * octets.PIECE


def test_standard_input_named_twice(put, monkeypatch: pytest.MonkeyPatch) -> None:
    some = [Frame(T0 + k * 1000, b"x" * 1000, 1000, 1) for k in range(2000)]
    with put(build.pcap(some)).open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        found, faults = read("-", Path("-"))
    assert found == plain(some)
    assert [fault.partition(": ")[2] for fault in faults] == [
        "cannot be read: standard input can be named once"
    ]


def test_standard_input_beside_a_file(put, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = frames(10), frames(10, T0 + 1000)
    with put(build.pcap(a)).open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        found, _ = read("-", put(build.pcap(b), "b"))
    assert found == sorted(plain(a) + plain(b))


def test_order_of_a_single_file_is_kept(put) -> None:
    some = frames(3)[::-1]
    assert read(put(build.pcap(some)))[0] == plain(some)


def test_standard_input(put, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(gzip.compress(build.pcap(frames(5))))
    with path.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        assert len(read("-")[0]) == 5


def test_gzip_of_several_members(put) -> None:
    data = build.pcap(frames(10))
    found, faults = read(put(gzip.compress(data[:100]) + gzip.compress(data[100:])))
    assert (len(found), faults) == (10, [])


# -- cut and damaged


@pytest.mark.parametrize("cut", [1, 5, 15, 16, 17, 30])
def test_pcap_cut_short_gives_everything_before_the_cut(put, cut: int) -> None:
    data = build.pcap(frames(3))
    whole = len(build.pcap(frames(2)))
    found, faults = read(put(data[: whole + cut]))
    assert len(found) == 2
    wanted = 16 if cut < 16 else 16 + 22
    says = f"record 3 at octet {whole} is cut short: {cut} of {wanted} octets are there"
    assert [fault.partition(": ")[2] for fault in faults] == [says]


def test_pcap_cut_between_records_is_whole(put) -> None:
    assert read(put(build.pcap(frames(2))))[1] == []


@pytest.mark.parametrize("size", range(4, 24))
def test_pcap_cut_in_its_header(put, size: int) -> None:
    found, faults = read(put(build.pcap(frames(1))[:size]))
    assert found == []
    assert "cut short in its header" in faults[0]


def test_every_cut_of_pcapng_gives_the_records_before_it(put) -> None:
    parts = [build.section(), build.interface(), *(build.enhanced(0, n, b"abc") for n in range(3))]
    data = b"".join(parts)
    ends = [sum(map(len, parts[:n])) for n in range(len(parts) + 1)]
    for size in range(24, len(data)):
        found, faults = read(put(data[:size]))
        assert len(found) == max(sum(end <= size for end in ends) - 3, 0)
        assert len(faults) == (0 if size in ends else 1), size


def test_every_cut_of_gzip_gives_a_fault_and_no_false_record(put) -> None:
    some = frames(50)
    data = gzip.compress(build.pcap(some))
    for size in range(2, len(data)):
        found, faults = read(put(data[:size]))
        assert found == plain(some)[: len(found)]
        assert len(faults) == 1


def test_damaged_gzip_says_so(put) -> None:
    data = bytearray(gzip.compress(build.pcap(frames(50))))
    data[-6] ^= 0xFF  # its CRC
    found, faults = read(put(bytes(data)))
    assert len(found) == 50
    assert "damaged" in faults[0]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"no capture at all", b"\x1f\x8b", gzip.compress(b"text " * 99, mtime=0)]
)
def test_no_capture_is_one_line_and_nothing_else(put, content: bytes) -> None:
    found, faults = read(put(content))
    assert found == []
    assert len(faults) == 1


def test_missing_file_and_folder_are_one_line_each(tmp_path: Path) -> None:
    assert "No such file" in read(tmp_path / "none")[1][0]
    assert "directory" in read(tmp_path)[1][0]


# -- hostile


def test_record_at_the_limit_and_above(put) -> None:
    at = Frame(T0, b"x" * pcap.RECORD_LIMIT, 1, 1)
    assert len(read(put(build.pcap([at])))[0]) == 1
    assert octets.PIECE <= pcap.RECORD_LIMIT  # or a longer one could be whole in the buffer
    above = Frame(T0, b"x" * (pcap.RECORD_LIMIT + 1), 1, 1)
    for before in ([], frames(1), frames(3000)):
        for pack in (bytes, gzip.compress):
            found, faults = read(put(pack(build.pcap([*before, above, at]))))
            assert len(found) == len(before)
            assert "announces 262145 octets" in faults[0]
    data = build.pcap(frames(1)) + struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 0) + b"x" * 100
    found, faults = read(put(data))
    assert len(found) == 1
    assert "announces 4294967295 octets" in faults[0]


def test_block_above_the_limit(put) -> None:
    data = build.section() + struct.pack("<II", 6, pcapng.BLOCK_LIMIT + 4) + bytes(100)
    assert "announces" in read(put(data))[1][0]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (build.enhanced(1, 0, b"x"), "names interface 1"),
        (build.block(6, struct.pack("<IIIII", 0, 0, 0, 50, 50) + b"x"), "announces 50 octets of a packet"),
        (build.block(6, b"short"), "too short for its kind"),
        (struct.pack("<III", 6, 13, 13), "announces 13 octets"),
        (struct.pack("<III", 6, 12, 16), "two different lengths"),
        (struct.pack("<IIII", 0x0A0D0D0A, 28, 0, 0) + b"\0" * 12, "unknown byte order"),
    ],
)
def test_broken_pcapng_block_ends_the_file_with_a_reason(put, damage: bytes, says: str) -> None:
    data = build.section() + build.interface() + build.enhanced(0, 1, b"good") + damage
    found, faults = read(put(data))
    assert [f[1] for f in found] == [b"good"]
    assert says in faults[0]


def test_gzip_bomb_is_read_in_pieces(put) -> None:
    bomb = gzip.compress(build.pcap(frames(1)) + bytes(50 << 20))
    source = octets.Octets(str(put(bomb)))
    sizes = []
    while piece := source.read():
        sizes.append(len(piece))
    source.close()
    assert max(sizes) <= octets.PIECE
    assert sum(sizes) > 50 << 20


GOOD = (
    build.pcap(frames(4)),
    build.pcap(frames(4), order=">", nano=True, link=0x2400_0001),
    build.section() + build.interface() + b"".join(build.enhanced(0, n, b"abcd") for n in range(4)),
    build.section(">") + build.interface(order=">") + build.enhanced(0, 1, b"abcd", order=">") * 4,
)


@given(st.binary(max_size=400))
def test_any_octets_hold_the_invariants(data: bytes) -> None:
    fuzz_pcap.one_input(data)


@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), max_size=4),
    st.integers(0, 400),
    st.booleans(),
)
def test_mutated_files_hold_the_invariants(
    good: bytes, changes: list[tuple[int, bytes]], size: int, packed: bool
) -> None:
    """Plain, or as gzip that is damaged itself."""
    data = bytearray(gzip.compress(good, mtime=0) if packed else good)
    for at, octets_there in changes:
        data[at : at + len(octets_there)] = octets_there
    fuzz_pcap.one_input(bytes(data))
    fuzz_pcap.one_input(bytes(data[:size]))


# -- the oracle


def oracle(path: Path) -> list[tuple[int, bytes, int, int]]:
    """Time, data, length and link of each record as scapy's readers have them."""
    from scapy.utils import RawPcapNgReader, RawPcapReader  # noqa: PLC0415

    # Typed as the reader of pcap, it makes the other one where it is pcapng.
    with RawPcapReader(str(path)) as reader:
        records: list[Any] = list(reader)
    if isinstance(reader, RawPcapNgReader):
        return [
            ((m.tshigh << 32 | m.tslow) * SECOND // m.tsresol, bytes(data), m.wirelen, m.linktype)
            for data, m in records
        ]
    unit = 1 if reader.nano else 1000
    return [(m.sec * SECOND + m.usec * unit, bytes(data), m.wirelen, reader.linktype) for data, m in records]


def test_records_are_those_that_scapy_reads(shared: Path) -> None:
    compared = 0
    for path in sorted((shared / "captures").glob("*.pcap*")):
        found, faults = read(path)
        theirs = oracle(path)
        if faults:  # scapy gives the record that is cut
            theirs = theirs[:-1]
        assert found == theirs, path.name
        compared += 1
    assert compared > 70


@pytest.mark.parametrize("options", [{}, {"nano": True}, {"endianness": ">"}, {"gz": True}])
def test_pcap_that_scapy_wrote(tmp_path: Path, options: dict) -> None:
    from scapy.utils import RawPcapWriter  # noqa: PLC0415

    path = tmp_path / "a.pcap"
    with RawPcapWriter(str(path), linktype=LINK_RAW, **options) as writer:
        writer.write_header(None)
        for n in range(300):
            writer.write_packet(bytes([n % 256]) * n, sec=1_700_000_000 + n, usec=n * 7, wirelen=n + 3)
    unit = 1 if "nano" in options else 1000
    expected = [(T0 + n * SECOND + n * 7 * unit, bytes([n % 256]) * n, n + 3, LINK_RAW) for n in range(300)]
    assert read(path) == (expected, [])
    assert oracle(path) == expected


def test_pcapng_that_scapy_wrote(tmp_path: Path) -> None:
    from scapy.layers.l2 import Ether  # noqa: PLC0415
    from scapy.utils import PcapNgWriter  # noqa: PLC0415

    path = tmp_path / "a.pcapng"
    with PcapNgWriter(str(path)) as writer:
        for n in range(300):
            packet = Ether(bytes([n % 256]) * (14 + n))
            packet.time, packet.wirelen, packet.sniffed_on = 1_700_000_000 + n, 20 + n, f"eth{n % 3}"
            packet.comments = [b"why"] * (n % 2)
            writer.write(packet)
    expected = [(T0 + n * SECOND, bytes([n % 256]) * (14 + n), 20 + n, LINK_ETHERNET) for n in range(300)]
    assert read(path) == (expected, [])
    assert oracle(path) == expected
