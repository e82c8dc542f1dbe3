r"""The expressions of rules: RE2 where it can, else look-around and the like under a time limit.

Contract: ``compile_pattern`` takes what stands between the delimiters. ``whole``: the anchors are pasted as
text, as all loggers do, so ``a|b`` becomes ``^a|b$`` (specification §3.5). ``found`` tells whether a text
has a hit, ``replace`` replaces all hits with Go's meaning of empty hits and templates (§3.6).
Both raise ``TimeoutError`` when ``TimeLimit`` says that it is over; the caller then treats the value
as one that must not leave.

RE2 is linear, so it is preferred, and ``$``, ``\d``, ``\w`` mean what the predecessor means. What it does
not know (look-around, back-references, possessive quantifiers) goes to the ``regex`` package, whose
searches end at a time limit.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

import re2  # has no types
import regex

if TYPE_CHECKING:
    from collections.abc import Callable

REPLACE_LIMIT: Final = 0.4  # seconds for all hits of RE2 in one value; 1 MiB of nothing but hits takes half
SEARCH_LIMIT: Final = 0.02  # seconds for one search with look-around; it takes microseconds
SHORT_LIMIT: Final = 0.001  # seconds, where too much has been spent lately
REFILL: Final = 0.1  # of the time that passes may go into searches that come to nothing
BURST: Final = 0.1  # seconds of it that may be saved up
# What RE2 says of look-around, atomic groups, back-references and possessive quantifiers.
_BACKTRACKING = re.compile(
    r"invalid perl operator: \(\?<?[!=>]|invalid escape sequence: \\[1-9k]|bad repetition operator: [*+?}]+\+"
)
_LOOK_EVERY: Final = 8  # hits between two looks at the clock
_CONTINUATION: Final = range(0x80, 0xC0)  # the octets inside a character of UTF-8


class PatternError(ValueError):
    """Not an expression; the text says why."""


class TimeLimit:
    """How long a search may take: little where hostile values keep running into the limit."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock``: seconds, from any start."""
        self.clock = clock
        self._credit = BURST
        self._at = clock()

    def seconds(self, most: float = SEARCH_LIMIT) -> float:
        now = self.clock()
        self._credit = min(self._credit + (now - self._at) * REFILL, BURST)
        self._at = now
        return most if self._credit > 0 else SHORT_LIMIT

    def charge(self, seconds: float) -> None:
        self._credit -= seconds


class Pattern(Protocol):
    source: str

    def found(self, text: str, limit: TimeLimit) -> bool: ...
    def replace(self, text: str, template: Template, limit: TimeLimit) -> str: ...


_TEMPLATE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})", re.ASCII)


class Template:
    """Go's replacement text (regexp.Expand): ``$1 ${1} $name ${name} $$``; an unknown group is nothing."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.parts: list[tuple[str, str]] = []  # (literal, group after it or "")
        literal, at = "", 0
        for hit in _TEMPLATE.finditer(text):
            literal += text[at : hit.start()]
            at = hit.end()
            if hit[1]:
                literal += "$"
            else:
                self.parts.append((literal, hit[2] or hit[3]))
                literal = ""
        self.parts.append((literal + text[at:], ""))

    def numbered(self, names: dict[str, int], groups: int) -> list[tuple[str, int]]:
        """The parts with groups as numbers; -1: none."""
        found = []
        for literal, name in self.parts:
            number = int(name) if name.isdigit() else names.get(name, -1)
            found.append((literal, number if name and number <= groups else -1))
        return found


def compile_pattern(inner: str, *, whole: bool) -> Pattern:
    """Raises PatternError."""
    if inner in {"*", "+", "?"} and whole:
        raise PatternError(f"there is nothing that {inner} could repeat")
    source = inner
    if whole:
        source = source if source.startswith("^") else "^" + source
        source = source if source.endswith("$") else source + "$"
    try:
        return Linear(source)
    except re2.error as refused:
        reason = refused.args[0] if refused.args else ""
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        if _BACKTRACKING.match(text) is None:
            raise PatternError(text) from None
        try:
            return Timed(source)
        except (regex.error, ValueError, OverflowError) as error:
            raise PatternError(str(error)) from None


class Linear:
    """RE2, over the UTF-8 octets of a text: so an offset costs nothing."""

    def __init__(self, source: str) -> None:
        self.source = source
        options = re2.Options()
        options.log_errors = False  # it would write the pattern to standard error
        self._re = re2.compile(source.encode(), options=options)
        self._names = {name.decode(): number for name, number in self._re.groupindex.items()}

    def found(self, text: str, limit: TimeLimit) -> bool:
        return self._re.search(text.encode()) is not None

    def replace(self, text: str, template: Template, limit: TimeLimit) -> str:
        octets = text.encode()
        out: list[bytes] = []
        last = 0
        begin = limit.clock()
        end = begin + limit.seconds(REPLACE_LIMIT)
        parts: list[tuple[bytes, int]] = []
        for hits, match in enumerate(self._re.finditer(octets)):
            start, stop = match.span()
            if start == stop < len(octets) and octets[start] in _CONTINUATION:
                continue  # an empty hit inside a character is none
            if not parts:
                parts = [(lit.encode(), n) for lit, n in template.numbered(self._names, self._re.groups)]
            if stop > last or start == 0:
                out.append(octets[last:start])
                for literal, group in parts:
                    out.append(literal)
                    if group >= 0:
                        out.append(match.group(group) or b"")
                last = stop
            if hits % _LOOK_EVERY == _LOOK_EVERY - 1 and limit.clock() > end:
                limit.charge(limit.clock() - begin)
                raise TimeoutError
        return b"".join([*out, octets[last:]]).decode() if out else text  # common case: no hit


class Timed:
    """What RE2 refuses, for the ``regex`` package; ``$`` is the end of the text as in RE2."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._re = regex.compile(_translate(source), regex.VERSION1 | regex.ASCII)

    def found(self, text: str, limit: TimeLimit) -> bool:
        return self._search(text, 0, limit, limit.seconds()) is not None

    def replace(self, text: str, template: Template, limit: TimeLimit) -> str:
        parts = template.numbered(dict(self._re.groupindex), self._re.groups)
        end = limit.clock() + limit.seconds()
        out: list[str] = []
        last = at = 0
        match = self._search(text, 0, limit, end - limit.clock())
        while match is not None:
            start, stop = match.span()
            if stop > last or start == 0:
                out.append(text[last:start])
                out += [
                    piece for literal, n in parts for piece in (literal, (match[n] or "") if n >= 0 else "")
                ]
                last = stop
            at = max(stop, start + 1) if stop == start else stop
            match = self._search(text, at, limit, end - limit.clock()) if at <= len(text) else None
        return "".join([*out, text[last:]])

    def _search(self, text: str, at: int, limit: TimeLimit, seconds: float) -> regex.Match[str] | None:
        if seconds <= 0:
            raise TimeoutError
        begin = limit.clock()
        try:
            return self._re.search(text, at, timeout=seconds)
        except TimeoutError:
            limit.charge(limit.clock() - begin)
            raise


def _translate(source: str) -> str:
    r"""``$`` and ``\z`` mean the end of the text, unless ``(?m)`` is there."""
    if re.search(r"\(\?[a-zA-Z]*m", source):
        return source.replace(r"\z", r"\Z")
    out = []
    in_class = False
    at = 0
    while at < len(source):
        one = source[at]
        if one == "\\":
            pair = source[at : at + 2]
            out.append(r"\Z" if pair == r"\z" else pair)
            at += 2
            continue
        if one == "[" and not in_class:
            in_class = True
            if source[at + 1 : at + 2] == "^":
                out.append("[")
                one = "^"
                at += 1
            if source[at + 1 : at + 2] == "]":
                out.append(one)
                one = r"\]"
                at += 1
        elif one == "]":
            in_class = False
        out.append(r"\Z" if one == "$" and not in_class else one)
        at += 1
    return "".join(out)
