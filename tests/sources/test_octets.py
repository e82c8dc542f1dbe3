"""Capture files as octets: gzip of all shapes, and standard input of all kinds."""

from __future__ import annotations

import gzip
import io
import os
import random
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest

from appliance.sources import octets
from appliance.sources.octets import Damaged, Octets
from tests.sources.files import frames, plain, read
from tests.support import captures as build


def drain(path: Path) -> tuple[list[bytes], str]:
    """The pieces, and why there are no more."""
    source = Octets(str(path))
    pieces: list[bytes] = []
    try:
        while piece := source.read():
            pieces.append(piece)
    except Damaged as damaged:
        return pieces, str(damaged)
    else:
        return pieces, ""
    finally:
        source.close()


def text(n: int) -> bytes:
    """Compressible, but not to nothing."""
    dice = random.Random(1)
    return b"".join(dice.choice((b"alpha", b"beta", b"gamma ", b"\0\0\0")) for _ in range(n))


@pytest.mark.parametrize("piece", [1, 64, 1000, 1 << 18])
def test_every_cut_of_gzip_gives_all_that_zlib_gives(
    put, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(octets, "PIECE", piece)
    data = gzip.compress(text(300) + bytes(3000), mtime=0)
    for size in range(2, len(data), 7):
        pieces, why = drain(put(data[:size]))
        assert b"".join(pieces) == zlib.decompressobj(31).decompress(data[:size])
        assert why == "the gzip stream is cut short"


def test_everything_before_a_damaged_checksum_comes_out(put) -> None:
    whole = text(200_000)
    data = bytearray(gzip.compress(whole, mtime=0))
    data[-8] ^= 1
    pieces, why = drain(put(bytes(data)))
    assert b"".join(pieces) == whole
    assert "damaged" in why


def test_what_a_read_gives_is_full_however_short_the_members(put, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a block of many members is put together again for each of them: a hang."""
    monkeypatch.setattr(octets, "PIECE", 500)
    whole = text(300)
    pieces, why = drain(put(b"".join(gzip.compress(bytes([octet]), mtime=0) for octet in whole)))
    assert b"".join(pieces) == whole
    assert why == ""
    assert {len(piece) for piece in pieces[:-1]} == {500}


def test_members_without_content(put) -> None:
    assert drain(put(gzip.compress(b"", mtime=0) * 2000 + gzip.compress(b"x"))) == ([b"x"], "")


@pytest.mark.parametrize("zeros", [1, 512, 1 << 18])
def test_padding_behind_members(put, zeros: int) -> None:
    data = (gzip.compress(b"one ") + bytes(zeros)) + (gzip.compress(b"two") + bytes(zeros))
    assert drain(put(data)) == ([b"one two"], "")


def test_octets_behind_gzip_that_are_none(put) -> None:
    pieces, why = drain(put(gzip.compress(b"one") + b"no gzip"))
    assert pieces == [b"one"]
    assert "damaged" in why


def test_standard_input_left_non_blocking_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    some = frames(30)
    data = build.pcap(some)
    out, into = os.pipe()
    os.set_blocking(out, False)

    def write() -> None:
        for at in range(0, len(data), 700):
            os.write(into, data[at : at + 700])
            time.sleep(0)
        os.close(into)

    with open(out, "rb") as file:  # noqa: PTH123  # a descriptor
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        writer = threading.Thread(target=write)
        writer.start()
        found = read("-")
        writer.join()
    assert found == (plain(some), [])
