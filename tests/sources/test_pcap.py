"""Capture files: every format, every cut, and what is none."""

from __future__ import annotations

import gzip
import io
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.model import LINK_ETHERNET, LINK_RAW, LINK_SLL, Frame
from appliance.sources import octets, pcap, pcapng
from appliance.sources.pcap import CaptureFiles
from tests.support import captures as build

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND


def frames(n: int, start: int = T0, step: int = 1_000_000) -> list[Frame]:
    return [
        Frame(start + k * step, bytes([k % 256]) * (20 + k % 50), 100 + k, LINK_ETHERNET) for k in range(n)
    ]


def read(path: Path | str, *more: Path) -> tuple[list[tuple[int, bytes, int, int]], list[str]]:
    source = CaptureFiles([str(path), *map(str, more)])
    found = [(f.ts, f.data, f.wire_length, f.link) for batch in source for f in batch]
    assert source.frames == len(found)
    return found, [str(fault) for fault in source.faults]


def plain(some: list[Frame]) -> list[tuple[int, bytes, int, int]]:
    return [(f.ts, f.data, f.wire_length, f.link) for f in some]


@pytest.fixture
def put(tmp_path: Path):
    def write(data: bytes, name: str = "a.pcap") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


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


def test_link_type_without_the_fcs_bits(put) -> None:
    found, _ = read(put(build.pcap(frames(1), link=0x24000000 | LINK_SLL)))
    assert found[0][3] == LINK_SLL


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


@given(st.binary(max_size=400), st.integers(0, 400), st.sampled_from(["pcap", "pcapng"]))
def test_no_octets_raise(data: bytes, at: int, kind: str) -> None:
    good = (
        build.pcap(frames(4))
        if kind == "pcap"
        else build.section() + build.interface() + b"".join(build.enhanced(0, n, b"abcd") for n in range(4))
    )
    import tempfile  # noqa: PLC0415

    with tempfile.NamedTemporaryFile() as file:
        file.write(good[:at] + data + good[at + len(data) :])
        file.flush()
        found, faults = read(file.name)
    assert len(faults) <= 1
    assert sum(len(f[1]) for f in found) <= len(good) + len(data)


# -- the oracle


def test_records_are_those_that_scapy_reads(shared: Path) -> None:
    from scapy.utils import RawPcapReader  # noqa: PLC0415

    compared = 0
    for path in sorted((shared / "captures").glob("*.pcap*")):
        found, faults = read(path)
        with RawPcapReader(str(path)) as reader:
            theirs = [(bytes(data), meta.wirelen) for data, meta in reader]
        if faults:  # scapy gives the record that is cut
            theirs = theirs[:-1]
        assert [f[1:3] for f in found] == theirs, path.name
        compared += 1
    assert compared > 70
