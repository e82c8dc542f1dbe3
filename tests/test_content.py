"""Content codings undone: whole, cut, corrupt, several in a row, and bombs."""

from __future__ import annotations

import gzip
import random
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from appliance.content import DAMAGED, DECODERS, GOOD, MEMBERS, OVER_LIMIT, UNKNOWN, charset, decode, text

LIMIT = 1 << 20
PLAIN = random.Random(1).randbytes(3000) + b"hello world " * 3000


def raw_deflate(octets: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(octets) + packer.flush()


CODED = {
    "gzip": gzip.compress(PLAIN, mtime=0),
    "x-gzip": gzip.compress(PLAIN[:9], mtime=0) + gzip.compress(PLAIN[9:], mtime=0),
    "deflate": zlib.compress(PLAIN),
    "zlib": zlib.compress(PLAIN),
    "deflated": raw_deflate(PLAIN),
    "br": brotli.compress(PLAIN),
    "zstd": zstandard.compress(PLAIN[:9]) + zstandard.compress(PLAIN[9:]),
}


def test_every_coding_has_a_vector() -> None:
    assert set(CODED) == set(DECODERS)


@pytest.mark.parametrize("name", CODED)
def test_whole_body_is_decoded(name: str) -> None:
    assert decode(CODED[name], [name], LIMIT) == (PLAIN, GOOD)


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_body_keeps_its_readable_part(name: str, share: float) -> None:
    octets, verdict = decode(CODED[name][: int(len(CODED[name]) * share)], [name], LIMIT)
    assert verdict == DAMAGED
    assert PLAIN.startswith(octets)
    assert octets


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_corrupt_body_keeps_what_comes_before_the_damage(name: str) -> None:
    coded = bytearray(CODED[name])
    coded[2000] ^= 0xFF
    octets, verdict = decode(bytes(coded), [name], LIMIT)
    assert verdict == DAMAGED
    assert octets[:1900] == PLAIN[:1900]


def test_wrong_checksum_is_named() -> None:
    coded = bytearray(CODED["gzip"])
    coded[-6] ^= 1
    assert decode(bytes(coded), ["gzip"], LIMIT) == (PLAIN, DAMAGED)


@pytest.mark.parametrize("name", CODED)
def test_body_that_is_not_coded_stays_as_it_is(name: str) -> None:
    assert decode(b"\xffplain text, not coded at all", [name], LIMIT) == (
        b"\xffplain text, not coded at all",
        DAMAGED,
    )


@pytest.mark.parametrize("name", CODED)
def test_bomb_costs_what_its_first_octets_cost(name: str) -> None:
    bombs = {
        "gzip": gzip.compress(bytes(64 << 20)),
        "zstd": zstandard.compress(bytes(64 << 20)),
        "br": brotli.compress(bytes(64 << 20), quality=1),
    }
    bomb = bombs.get(name) or (raw_deflate if name == "deflated" else zlib.compress)(bytes(64 << 20))
    if name == "x-gzip":
        bomb = bombs["gzip"]
    assert decode(bomb, [name], LIMIT) == (bytes(LIMIT), OVER_LIMIT)


def test_exactly_the_limit_is_not_over_it() -> None:
    for name, coded in CODED.items():
        assert decode(coded, [name], len(PLAIN)) == (PLAIN, GOOD)
        assert decode(coded, [name], len(PLAIN) - 1) == (PLAIN[:-1], OVER_LIMIT)


def test_codings_are_undone_from_the_last_to_the_first() -> None:
    coded = brotli.compress(gzip.compress(PLAIN))
    assert decode(coded, ["gzip", "identity", "br"], LIMIT) == (PLAIN, GOOD)
    assert decode(coded, ["br", "gzip"], LIMIT)[1] == DAMAGED


@pytest.mark.parametrize("codings", [["compress"], ["gzip"] * 5, ["gzip", "dcb"]])
def test_unknown_or_too_many_codings_leave_the_body_as_it_is(codings: list[str]) -> None:
    assert decode(b"abc", codings, LIMIT) == (b"abc", UNKNOWN)


@pytest.mark.parametrize("one", [gzip.compress(b"", mtime=0), zstandard.compress(b"")])
def test_members_are_limited(one: bytes) -> None:
    name = "gzip" if one[:2] == b"\x1f\x8b" else "zstd"
    assert decode(one * MEMBERS, [name], LIMIT)[1] in {GOOD, DAMAGED}
    assert decode(one * (MEMBERS + 1), [name], LIMIT)[1] == DAMAGED


def test_padding_behind_gzip_is_no_damage() -> None:
    assert decode(CODED["gzip"] + bytes(9), ["gzip"], LIMIT) == (PLAIN, GOOD)


@given(st.binary(max_size=200), st.lists(st.sampled_from([*DECODERS, "compress"]), max_size=5))
def test_any_octets_are_decoded_to_something_within_the_limit(octets: bytes, codings: list[str]) -> None:
    out, _ = decode(octets, codings, 1000)
    assert len(out) <= 1000


@pytest.mark.parametrize(
    ("field", "codec"),
    [
        (b"text/html; charset=ISO-8859-1", "iso-8859-1"),
        (b'text/html;Charset="windows-1252"', "windows-1252"),
        (b"text/html; charset=utf-8", ""),
        (b"text/html; charset=rot13", ""),
        (b"text/html; charset=idna", ""),
        (b"text/html", ""),
        (None, ""),
        (b"text/html; charset=macintosh", "mac_roman"),
    ],
)
def test_only_character_sets_of_the_web_are_codecs(field: bytes | None, codec: str) -> None:
    assert charset(field) == codec
    assert text(b"abc", codec) == "abc"


@pytest.mark.parametrize(
    "label", ["shift_jis", "sjis", "euc-jp", "euc-kr", "gbk", "gb18030", "big5", "koi8-r"]
)
def test_declared_character_set_is_used(label: str) -> None:
    sample = "\u0416" if label == "koi8-r" else "\u4e2d"
    if label == "euc-kr":
        sample = "\ud55c"
    codec = charset(f"text/plain; charset={label}".encode())
    assert text(sample.encode(codec), codec) == sample


def test_octets_that_are_no_text_are_replaced() -> None:
    assert text(b"a\xff\xfeb") == "a\ufffd\ufffdb"
    assert text(b"\xed\xa0\x80") == "\ufffd" * 3  # no lone surrogate gets out
    assert text(b"\x00\xd8", "utf-16-le") == "\ufffd"
    assert text(b"abc", "iso-8859-99") == "abc"
