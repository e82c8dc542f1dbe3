"""One direction of an HTTP/1 connection: octets in order -> heads, bodies, ends.

Contract: the messages' boundaries are ours (framing.py); a hole of known length inside a body is counted
and stepped over, a hole that may hide a boundary ends the message and the direction is ``lost`` until
its conversation finds a boundary again. Every octet is counted once: head, body, framing, held,
unframed, cut head or tunnel.

Bounds: a head ``HEAD_LIMIT`` (Envoy's largest is 8 MiB, nginx's default 32 KiB, Node's 16 KiB), a line of
chunked coding ``LINE_LIMIT``, a trailer section ``TRAILER_LIMIT``; beyond them the octets are no HTTP. All
unfinished heads together: shared.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from appliance.decoders.http1.framing import CHUNKED, CLOSE, LENGTH, NO_FLAWS, NONE, TUNNEL
from appliance.decoders.http1.head import is_start_line, is_whole_start, may_begin
from appliance.decoders.http1.lines import Lines
from appliance.decoders.http1.shared import CUT_HEAD, TUNNELLED, UNFRAMED
from appliance.flaws import flaw
from appliance.model import REQUEST, Body, EndOfMessage, Head, HttpEvent, Missing

if TYPE_CHECKING:
    from appliance.decoders.http1.conversation import Conversation

HEAD_LIMIT: Final = 256 << 10
LINE_LIMIT: Final = 16 << 10
TRAILER_LIMIT: Final = 64 << 10

# States; the first five are indices of STEPS.
HEAD: Final = 0
FIXED: Final = 1
CHUNK_LINE: Final = 2
CHUNK_DATA: Final = 3
CHUNK_END: Final = 4
TRAILER: Final = 5
UNTIL_CLOSE: Final = 6
SILENT: Final = 7
LOST: Final = 8

_BLANK = re.compile(rb"\n\r?\n")
_CHUNK = re.compile(rb"0*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?(\r?)\n")


class Reader(Lines):
    __slots__ = (
        "acked",
        "after_loss",
        "conv",
        "doubtful",
        "ended",
        "flaws",
        "head_acked",
        "head_offset",
        "head_ts",
        "heads",
        "kind",
        "lost",
        "missing",
        "need",
        "place",
        "proven",
        "side",
        "state",
        "stream",
        "truncated",
        "ts",
    )

    def __init__(self, conv: Conversation, side: int, kind: int, *, lost: bool) -> None:
        super().__init__(conv.shared.octets)
        self.conv = conv
        self.heads = conv.shared.heads
        self.side = side
        self.kind = kind
        self.state = LOST if lost else HEAD
        self.lost = lost
        self.proven = True
        self.after_loss = False  # it has been lost since its last message began
        self.doubtful = False  # what is held counts only if it becomes a start line that cannot be a tail
        self.place = -1  # while lost: the position after what was last looked at
        self.ended = False
        self.acked = -1  # what this side had of the other when it last spoke
        self.ts = 0
        self.need = 0  # octets to come in FIXED and CHUNK_DATA
        self.stream = 0  # of the message at hand; 0: none
        self.flaws = NO_FLAWS
        self.missing = 0  # octets of its body that are known to lack
        self.truncated = 0  # of these, cut by the capture
        self.head_ts = 0
        self.head_offset = -1
        self.head_acked = -1

    def data(self, payload: bytes, at: int, offset: int, ts: int, out: list[HttpEvent]) -> None:
        """``payload[at:]`` comes next; ``offset`` is the position of ``payload[0]``."""
        self.ts = ts
        size = len(payload)
        while at < size:
            if self.state == HEAD:  # common case
                at = self._head(payload, at, offset, out)
            elif self.state == FIXED:
                at = self._fixed(payload, at, offset, out)
            else:
                at = STEPS[self.state](self, payload, at, offset, out)

    # -- one step each: returns where the next one starts

    def _head(self, payload: bytes, at: int, offset: int, out: list[HttpEvent]) -> int:
        if self.buffer:
            return self._head_goes_on(payload, at, out)
        blank = _BLANK.search(payload, at)
        if blank is not None:
            stop = blank.end()
            head = self.heads.parse(self.kind, payload, at, stop)
            if head is not None and not head.flaws:  # common case: whole, in one segment, no flaw
                self._note_start(at, offset)
                self._begin(head, out)
                return stop
        return self._head_begins(payload, at, offset, out)

    def _head_begins(self, payload: bytes, at: int, offset: int, out: list[HttpEvent]) -> int:
        """A head after blank lines (RFC 9112 §2.2), one with a flaw, or the first part of one."""
        start = at
        while start < len(payload) and payload[start] in b"\r\n":
            start += 1
        self.octets.framing += start - at
        if start == len(payload):
            return start
        self._note_start(start, offset)
        blank = _BLANK.search(payload, start)
        if blank is None or blank.end() - start > HEAD_LIMIT:
            return self._head_goes_on(payload, start, out)
        self._whole_head(payload[start : blank.end()], out)
        return blank.end()

    def _note_start(self, at: int, offset: int) -> None:
        self.head_ts = self.ts
        self.head_offset = offset + at
        self.head_acked = self.acked

    def _head_goes_on(self, payload: bytes, at: int, out: list[HttpEvent]) -> int:
        """A head split over segments: all of ``payload`` is taken, what is not of this head given back."""
        buffer = self.buffer
        before = len(buffer)
        buffer += payload[at:]
        self.octets.held += len(payload) - at
        match = _BLANK.search(buffer, max(self.scanned - 2, 0))
        if match is None or match.end() > HEAD_LIMIT:
            if len(buffer) > HEAD_LIMIT or self.octets.full() or not self._plausible():
                self._lose()
            self.scanned = len(self.buffer)
            return len(payload)
        raw = bytes(buffer[: match.end()])
        self.octets.held -= len(buffer)
        self.drop()
        self._whole_head(raw, out)
        return at + match.end() - before

    def _whole_head(self, raw: bytes, out: list[HttpEvent]) -> None:
        head = None
        if not self.doubtful or is_whole_start(self.kind, raw):
            head = self.heads.parse(self.kind, raw, 0, len(raw))
        if head is None:
            self.octets.unframed += len(raw)
            self._lose()
        else:
            self._begin(head, out)

    def _plausible(self) -> bool:
        """The octets so far may become a head."""
        buffer = self.buffer
        line = buffer.find(b"\n", self.scanned)
        if line >= 0 and buffer.find(b"\n", 0, self.scanned) < 0:  # the first line has just become whole
            if self.doubtful:
                return is_whole_start(self.kind, buffer)
            return is_start_line(self.kind, bytes(buffer[:line]).removesuffix(b"\r"))
        return may_begin(self.kind, buffer)

    def _begin(self, head: Head, out: list[HttpEvent]) -> None:
        conv = self.conv
        self.doubtful = False
        self.octets.head += head.size
        stream, mode, length, flaws = (
            conv.request(self, head, out) if self.kind == REQUEST else conv.response(self, head, out)
        )
        if not stream:  # interim: the next head follows
            return
        self.stream = stream
        self.missing = 0
        self.truncated = 0
        self.flaws = head.flaws + flaws if head.flaws or flaws else NO_FLAWS
        if not self.proven:
            self.flaws = [*self.flaws, "resynchronised"]
            self.proven = True
        if mode == LENGTH:
            self.state = FIXED
            self.need = length
        elif mode == NONE:
            self._finish(out, complete=True)
        elif mode == CHUNKED:
            self.state = CHUNK_LINE
        elif mode == CLOSE:
            self.state = UNTIL_CLOSE
        elif mode == TUNNEL:
            self._finish(out, complete=True)
            self.state = SILENT
        else:
            self._finish(out, complete=False)
            self._lose()

    def _fixed(self, payload: bytes, at: int, offset: int, out: list[HttpEvent]) -> int:
        size = len(payload) - at
        if size < self.need:  # common case in a long body
            self.need -= size
            self._body(payload[at:] if at else payload, out)
            return at + size
        end = at + self.need
        self._body(payload[at:end] if at or end < at + size else payload, out)
        self.need = 0
        self._finish(out, complete=not self.missing)
        return end

    def _body(self, data: bytes, out: list[HttpEvent]) -> None:
        self.octets.body += len(data)
        out.append(Body(self.conv.flow, self.stream, self.kind, data))

    def _chunk_line(self, payload: bytes, at: int, offset: int, out: list[HttpEvent]) -> int:
        line, at = self.line(payload, at, LINE_LIMIT)
        if line is None:
            if len(self.buffer) > LINE_LIMIT:
                self._break("chunk-malformed", out)
            elif self.octets.full():
                self._break("line-evicted", out)
            return at
        match = _CHUNK.fullmatch(line)
        if match is None:
            self._break("chunk-malformed", out)
            return at
        if not match[2]:
            self._note("bare-lf")
        self.need = int(match[1], 16)
        self.state = CHUNK_DATA if self.need else TRAILER
        return at

    def _chunk_data(self, payload: bytes, at: int, offset: int, out: list[HttpEvent]) -> int:
        part = payload[at : at + self.need]
        self._body(part, out)
        self.need -= len(part)
        if not self.need:
            self.state = CHUNK_END
        return at + len(part)

    def _chunk_end(self, payload: bytes, at: int, offset: int, out: list[HttpEvent]) -> int:
        line, at = self.line(payload, at, 2)
        if line is None:
            if len(self.buffer) > 1:
                self._break("chunk-malformed", out)
            return at
        if line in {b"\r\n", b"\n"}:
            if line == b"\n":
                self._note("bare-lf")
            self.state = CHUNK_LINE
        else:
            self._break("chunk-malformed", out)
        return at

    def _trailer(self, payload: bytes, at: int, offset: int, out: list[HttpEvent]) -> int:
        """RFC 9112 §7.1.2: fields up to a blank line; their octets are framing."""
        line, at = self.line(payload, at, TRAILER_LIMIT)
        if line is None:
            if len(self.buffer) > TRAILER_LIMIT:
                self._break("trailer-too-large", out)
            elif self.octets.full():
                self._break("line-evicted", out)
            return at
        self.need += len(line)
        if line in (b"\r\n", b"\n"):
            self.need = 0
            self._finish(out, complete=not self.missing)
        elif self.need > TRAILER_LIMIT:
            self._break("trailer-too-large", out)
        return at

    def _until_close(self, payload: bytes, at: int, offset: int, out: list[HttpEvent]) -> int:
        self._body(payload[at:] if at else payload, out)
        return len(payload)

    def _silent(self, payload: bytes, at: int, offset: int, out: list[HttpEvent]) -> int:
        self.octets.tunnel += len(payload) - at
        return len(payload)

    def _skip(self, payload: bytes, at: int, offset: int, out: list[HttpEvent]) -> int:
        self.octets.unframed += len(payload) - at
        return len(payload)

    # -- holes and ends

    def gap(self, length: int | None, truncated: bool, ts: int, out: list[HttpEvent]) -> None:
        self.ts = ts
        state = self.state
        if state in {SILENT, LOST}:
            return
        name = "truncated" if truncated else "gap"
        if length is None:
            self._note(name)
        elif state in {FIXED, CHUNK_DATA}:
            if self._step_over(state, length, truncated, out):
                return
        elif state == UNTIL_CLOSE:
            self._lack(length, truncated)
            self._go_on(out)
            return
        elif self.stream:
            self._lack(length, truncated)
        elif self.buffer:
            self._cut_head(name, length, out)
        if self.stream:
            self._finish(out, complete=False)
        self._lose()

    def _step_over(self, state: int, length: int, truncated: bool, out: list[HttpEvent]) -> bool:
        """A hole in octets whose number is known; whether it ends inside them."""
        inside = min(length, self.need)
        self._lack(inside, truncated)
        self.need -= inside
        if inside < length:
            return False
        if self.need or state == CHUNK_DATA:
            self._go_on(out)
        if self.need == 0:
            self._after_gap(state, out)
        return True

    def _go_on(self, out: list[HttpEvent]) -> None:
        """The body goes on behind a hole."""
        out.append(Missing(self.conv.flow, self.stream, self.kind))

    def _lack(self, octets: int, truncated: bool) -> None:
        self.missing += octets
        if truncated:
            self.truncated += octets

    def _after_gap(self, state: int, out: list[HttpEvent]) -> None:
        if state == FIXED:
            self._finish(out, complete=False)
        else:
            self.state = CHUNK_END

    def end(self, reason: str, ts: int, out: list[HttpEvent]) -> None:
        self.ts = ts
        self.ended = True
        if self.stream:
            self.release(UNFRAMED)
            if self.state == UNTIL_CLOSE and reason == "fin":
                self._finish(out, complete=not self.missing)
            else:
                self._note("unfinished-" + reason, self.need if self.state == FIXED else -1)
                self._finish(out, complete=False)
        elif self.buffer:
            self._cut_head("unfinished-" + reason, -1, out)
        self.release(CUT_HEAD)
        if self.state != SILENT:
            self.state = LOST

    def _cut_head(self, name: str, octets: int, out: list[HttpEvent]) -> None:
        """Use what is there of a head whose rest is missing, if its first line is whole."""
        raw = bytes(self.buffer)
        stop = raw.rfind(b"\n")
        if stop < 0:
            return
        kind = self.kind
        head = self.heads.parse(kind, raw, 0, stop + 1)
        if head is None:
            return
        counts = self.octets
        counts.held -= len(self.buffer)
        counts.head += stop + 1
        counts.cut_head += len(self.buffer) - stop - 1
        self.drop()
        conv = self.conv
        found = conv.request(self, head, out) if kind == REQUEST else conv.response(self, head, out)
        stream, _, _, flaws = found
        if stream:
            self.stream = stream
            self.missing = 0
            self.flaws = head.flaws + [f for f in flaws if f in {"orphan", "resynchronised"}]
            self._note("head-cut")
            self._note(name, octets)
            self._finish(out, complete=False)

    def silence(self, out: list[HttpEvent]) -> None:
        """What comes from now on is no HTTP."""
        self.release(TUNNELLED)
        if self.stream:
            self._finish(out, complete=False)
        self.lost = False
        self.state = SILENT

    def resume(self, proven: bool, *, doubtful: bool = False) -> None:
        self.lost = False
        self.doubtful = doubtful
        self.after_loss = True
        self.proven = proven
        self.state = HEAD

    def _break(self, name: str, out: list[HttpEvent]) -> None:
        self._note(name)
        self.release(UNFRAMED)
        self._finish(out, complete=False)
        self._lose()

    def _lose(self) -> None:
        self.release(CUT_HEAD)
        if self.state != SILENT:
            self.state = LOST
            self.lost = True
            self.conv.unordered = True

    def _finish(self, out: list[HttpEvent], *, complete: bool) -> None:
        if self.missing:
            if self.missing > self.truncated:
                self._note("gap", self.missing - self.truncated)
            if self.truncated:
                self._note("truncated", self.truncated)
        out.append(EndOfMessage(self.conv.flow, self.stream, self.kind, self.ts, complete, self.flaws))
        self.stream = 0
        self.flaws = NO_FLAWS
        self.state = HEAD

    def _note(self, name: str, octets: int = -1) -> None:
        text = flaw(self.kind, name, octets)
        if text not in self.flaws:
            self.flaws = [*self.flaws, text]


Step = Callable[[Reader, bytes, int, int, "list[HttpEvent]"], int]
STEPS: Final[tuple[Step, ...]] = (
    Reader._head,  # noqa: SLF001
    Reader._fixed,  # noqa: SLF001
    Reader._chunk_line,  # noqa: SLF001
    Reader._chunk_data,  # noqa: SLF001
    Reader._chunk_end,  # noqa: SLF001
    Reader._trailer,  # noqa: SLF001
    Reader._until_close,  # noqa: SLF001
    Reader._silent,  # noqa: SLF001
    Reader._skip,  # noqa: SLF001
)
