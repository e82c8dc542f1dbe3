"""Body octets without their content coding, and as text.

Contract: ``decode`` undoes codings from the last applied to the first (RFC 9110 §8.4); it never raises, never
returns more than ``limit`` octets, and reads no more than it needs for them: a bomb costs what its first
``limit`` octets cost. What can be read of a damaged body is kept. ``text`` always succeeds.

Bounds: output ``limit`` after every coding; codings ``CODINGS_LIMIT``; gzip members and zstd frames
``MEMBERS``; the window of zstd ``ZSTD_WINDOW`` (RFC 8878 §3.1.1.1.2). brotli's is 16 MiB by its format.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import Final

import brotli
import zstandard
from isal import isal_zlib

CODINGS_LIMIT: Final = 4
MEMBERS: Final = 1024
ZSTD_WINDOW: Final = 8 << 20
STEP: Final = 16 << 10  # octets handed to a decoder at a time
ZSTD_STEP: Final = 256  # same; its output cannot be limited, and 4 octets can stand for 128 KiB

GOOD: Final = ""
DAMAGED: Final = "coding-damaged"
UNKNOWN: Final = "coding-unknown"
OVER_LIMIT: Final = "over-limit"

_BROKEN_DEFLATE: Final[type[Exception]] = isal_zlib.error  # type: ignore[assignment]  # isal's stubs err
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31  # zlib's wbits: 15 for the window, 16 for the gzip header
_RAW_WINDOW: Final = -15
_ZLIB_METHOD: Final = 8
_ZLIB_CHECK: Final = 31  # RFC 1950 §2.2: the first two octets are a multiple of it
_ZLIB_HEADER: Final = 2


class _Output:
    """Octets up to a limit."""

    def __init__(self, limit: int) -> None:
        self.parts: list[bytes] = []
        self.room = limit
        self.over = False  # there was more

    def add(self, octets: bytes) -> None:
        if len(octets) > self.room:
            octets = octets[: self.room]
            self.over = True
        self.parts.append(octets)
        self.room -= len(octets)


def decode(octets: bytes, codings: list[str], limit: int) -> tuple[bytes, str]:
    """``codings`` in lower case, in the order in which they were applied. The octets, and what was wrong."""
    names = [name for name in codings if name not in NOTHING]
    if len(names) > CODINGS_LIMIT:
        return octets, UNKNOWN
    verdict = GOOD
    for name in reversed(names):
        decoder = DECODERS.get(name)
        if decoder is None:
            return octets, UNKNOWN
        if not octets:
            break
        out = _Output(limit)
        try:
            whole = decoder(octets, out)
        except _ERRORS:
            whole = False
        if not whole and not out.over and not any(out.parts):
            return octets, DAMAGED  # not coded at all, as some servers send it: as it is
        octets = b"".join(out.parts)
        verdict = verdict or (OVER_LIMIT if out.over else GOOD if whole else DAMAGED)
    return octets, verdict


# -- one decoder for each coding: the octets it reads go to ``out``; whether the body was whole


def _gzip(octets: bytes, out: _Output) -> bool:
    """All members, one after the other (RFC 1952 §2.2)."""
    at = 0
    for _ in range(MEMBERS):
        stop = _inflate(octets, at, out, _GZIP_WINDOW)
        if stop < 0 or out.over:
            return False
        if octets[stop : stop + 2] != _GZIP_MAGIC:
            return True  # nothing more, or padding
        at = stop
    return False


def _deflate(octets: bytes, out: _Output) -> bool:
    """Zlib as RFC 9110 §8.4.1.2 has it, or raw as some send it."""
    wrapped = (
        len(octets) >= _ZLIB_HEADER
        and octets[0] & 0x0F == _ZLIB_METHOD
        and int.from_bytes(octets[:_ZLIB_HEADER]) % _ZLIB_CHECK == 0
    )
    return _inflate(octets, 0, out, 15 if wrapped else _RAW_WINDOW) >= 0


def _inflate(octets: bytes, at: int, out: _Output, window: int) -> int:
    """Where the stream that starts at ``at`` ends; -1: damaged, cut, or over the limit."""
    parts, room = len(out.parts), out.room
    stop, broken = _inflate_to(len(octets), octets, at, out, window)
    if broken >= 0:  # a call that fails keeps what it has read to itself: once more, there octet by octet
        del out.parts[parts:]
        out.room, out.over = room, False
        stop, _ = _inflate_to(broken, octets, at, out, window)
    return stop


def _inflate_to(fine: int, octets: bytes, at: int, out: _Output, window: int) -> tuple[int, int]:
    """The same, octet by octet from ``fine`` on; and where the piece starts that broke it, or -1."""
    stream = isal_zlib.decompressobj(window)
    size = len(octets)
    begin = at
    try:
        while not stream.eof and at < size and not out.over:
            begin = at
            piece = octets[at : min(at + STEP, fine)] if at < fine else octets[at : at + 1]
            at += len(piece)
            while piece and not out.over:
                out.add(stream.decompress(piece, out.room + 1))
                piece = stream.unconsumed_tail
    except _BROKEN_DEFLATE:
        return -1, begin
    return (at - len(stream.unused_data) if stream.eof else -1), -1


def _brotli(octets: bytes, out: _Output) -> bool:
    stream = brotli.Decompressor()
    for at in range(0, len(octets), STEP):
        out.add(stream.process(octets[at : at + STEP], output_buffer_limit=out.room + 1))
        while not out.over and not stream.can_accept_more_data():
            out.add(stream.process(b"", output_buffer_limit=out.room + 1))
        if out.over or stream.is_finished():
            break
    return bool(stream.is_finished())


def _zstd(octets: bytes, out: _Output) -> bool:
    """All frames, one after the other (RFC 8878 §3)."""
    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    stream = decoder.decompressobj()
    frames = 1
    for at in range(0, len(octets), ZSTD_STEP):
        piece = octets[at : at + ZSTD_STEP]
        while piece and not out.over:
            if stream.eof:
                frames += 1
                if frames > MEMBERS:
                    return False
                stream = decoder.decompressobj()
            out.add(stream.decompress(piece))
            piece = stream.unused_data if stream.eof else b""
    return bool(stream.eof) and not out.over


NOTHING: Final = frozenset({"", "identity", "chunked"})
DECODERS: Final[dict[str, Callable[[bytes, _Output], bool]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "zlib": _deflate,  # the predecessor's names for it
    "deflated": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
_ERRORS: Final = (_BROKEN_DEFLATE, brotli.error, zstandard.ZstdError, EOFError)

# -- text

# Python knows codecs that are no character sets (rot13, idna, unicode_escape): these are what the web uses.
_CHARSET = re.compile(
    r"(?:iso-?8859-\d{1,2}|latin-?1|windows-?125\d|cp125\d|koi8-[ru]|macintosh|shift[_-]jis|sjis|euc-(?:jp|kr)"
    r"|iso-2022-(?:jp|kr)|gb2312|gbk|gb18030|big5(?:-hkscs)?|utf-?(?:16|32)(?:-?[lb]e)?|tis-620)",
    re.IGNORECASE,
)
_ALIASES: Final = {"macintosh": "mac_roman"}
_DECLARED = re.compile(rb"""charset\s*=\s*["']?([A-Za-z0-9_.:-]{1,40})""", re.IGNORECASE)


def charset(content_type: bytes | None) -> str:
    """The codec of a declared character set; empty for UTF-8 and for what is not known."""
    match = _DECLARED.search(content_type) if content_type else None
    if match is None:  # common case
        return ""
    name = match[1].decode().lower()
    return _ALIASES.get(name, name) if _CHARSET.fullmatch(name) else ""


def text(octets: bytes, codec: str = "") -> str:
    """In ``codec``, else UTF-8; U+FFFD for what is none."""
    if codec:
        try:
            return codecs.decode(octets, codec, "replace")
        except (LookupError, UnicodeError):
            pass
    return octets.decode("utf-8", "replace")
