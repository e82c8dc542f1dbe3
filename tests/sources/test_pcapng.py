"""pcapng: the blocks read at once are those read one by one, and what a section may hold is bounded."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.model import LINK_ETHERNET, LINK_RAW
from appliance.sources import octets, pcapng
from appliance.sources.pcapng import Pcapng
from tests.sources.files import SECOND, T0, plain, read
from tests.support import captures as build

MICRO = T0 // 1000


def parse(data: bytes, folder: Path, batch: int = 5) -> tuple[list[tuple[int, bytes, int, int]], list[str]]:
    path = folder / "a.pcapng"
    path.write_bytes(data)
    source = octets.Octets(str(path))
    faults: list[str] = []
    batches = list(Pcapng(source, source.read(), batch, faults.append).frames())
    source.close()
    assert all(0 < len(some) <= batch for some in batches)
    return [one for some in batches for one in plain(some)], faults


def any_block(order: str) -> st.SearchStrategy[bytes]:
    """Blocks of all kinds, good and bad."""
    data = st.binary(max_size=9)
    number = st.integers(0, 2)
    resolution = st.sampled_from([b"", b"\x03", b"\x06", b"\x09", b"\x0c", b"\x84", b"\x8a"])
    return st.one_of(
        st.builds(
            lambda n, t, d: build.enhanced(n, t, d, order=order), number, st.integers(0, 2**64 - 1), data
        ),
        st.builds(
            lambda r, link: build.interface(
                link, options=build.option(9, r, order) if r else b"", order=order
            ),
            resolution,
            st.sampled_from([LINK_ETHERNET, LINK_RAW]),
        ),
        st.builds(lambda d: build.block(3, struct.pack(order + "I", len(d)) + d, order), data),
        st.builds(lambda kind, d: build.block(kind, d, order), st.integers(4, 9), data),
    )


@given(
    st.lists(
        st.sampled_from("<>").flatmap(lambda o: st.tuples(st.just(o), st.lists(any_block(o)))), max_size=3
    ),
    st.tuples(st.integers(0, 400), st.integers(0, 255)),
)
def test_blocks_at_once_and_one_by_one_are_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    sections: list[tuple[str, list[bytes]]],
    damage: tuple[int, int],
) -> None:
    whole = bytearray(b"".join(build.section(order) + b"".join(blocks) for order, blocks in sections))
    at, octet = damage
    if at < len(whole):
        whole[at] = octet
    data = build.section() + build.interface() + bytes(whole)
    folder = tmp_path_factory.mktemp("pcapng")
    at_once = parse(data, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pcapng, "_enhanced_blocks", lambda *_: None)
        assert parse(data, folder, 1 << 20) == at_once


def test_number_and_place_of_a_bad_block_behind_good_ones(put) -> None:
    good = build.section() + build.interface() + build.enhanced(0, MICRO, b"abcd") * 300
    _, faults = read(put(good + build.enhanced(7, MICRO, b"x")))
    assert f"block 303 at octet {len(good)} names interface 7" in faults[0]


@pytest.mark.parametrize(
    ("resolution", "units"), [(b"\x00", 1), (b"\x89", 512), (b"\x8a", 1024), (b"\x0c", 10**12)]
)
def test_resolutions_that_are_whole_nanoseconds_and_those_that_are_not(
    put, resolution: bytes, units: int
) -> None:
    data = build.section() + build.interface(options=build.option(9, resolution))
    data += build.enhanced(0, 3 * units + units // 2, b"x")
    assert read(put(data))[0][0][0] == 3 * SECOND + units // 2 * SECOND // units


def test_simple_block_behind_many_enhanced_ones_takes_the_time_of_the_last(put) -> None:
    data = build.section() + build.interface()
    data += b"".join(build.enhanced(0, MICRO + n, b"x") for n in range(200))
    found, _ = read(put(data + build.block(3, struct.pack("<I", 1) + b"y")))
    assert found[-1][:2] == (T0 + 199_000, b"y")


def test_interfaces_of_a_section_at_the_limit_and_above(put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcapng, "INTERFACE_LIMIT", 3)
    at = (build.section() + build.interface() * 3 + build.enhanced(2, MICRO, b"x")) * 2
    assert len(read(put(at))[0]) == 2
    found, faults = read(put(gzip.compress(at + build.interface())))
    assert len(found) == 2
    assert "describes one interface more than the 3" in faults[0]


def test_block_of_many_pieces(put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(octets, "PIECE", 32)
    data = build.section() + build.interface() + build.enhanced(0, MICRO, b"x" * 5000)
    data += build.block(0x0BAD, bytes(3000)) + build.enhanced(0, MICRO, b"y")
    assert [f[1] for f in read(put(data))[0]] == [b"x" * 5000, b"y"]
