"""From ``USAGE_LOGGERS_RULES`` to rule text: the variable's escapes, and the predefined sets.

Contract: ``from_environment`` undoes what people write in one line (specification §3.1, recommended
handling); ``expand`` replaces ``include X`` wherever it stands in a line and an empty text by the default.
Both are pure; reading a ``file://`` is the caller's. Every physical line that comes out of ``expand``
knows the line and column of the user's text that it came from.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

STRICT: Final = (
    "/request_url/ replace /([^\\?;]+).*/, /$1/\n"
    "/request_body|response_body|request_param:.*|request_header:(?!user-agent).*"
    "|response_header:(?!(content-length)|(content-type)).*/ remove\n"
)
STANDARD: Final = (
    "/request_header:cookie|response_header:set-cookie/remove\n"
    "/(request|response)_body|request_param/ replace "
    "/[a-zA-Z0-9.!#$%&\u2019*+\\/=?^_`{|}~-]+@[a-zA-Z0-9-]+(?:\\.[a-zA-Z0-9-]+)/, /x@y.com/\n"
    "/request_body|request_param|response_body/ replace /[0-9\\.\\-\\/]{9,}/, /xyxy/\n"
)
DEBUG: Final = "allow_http_url\ncopy_session_field /.*/\n"
SETS: Final = {"default": STRICT, "debug": DEBUG, "standard": STANDARD, "strict": STRICT}
"""What the loggers mean by each name; the predecessor's own strict set is inverted (§3.2)."""

_INCLUDE = re.compile(r"include (default|debug|standard|strict)")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES: Final = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}
_QUOTES: Final = frozenset("\"'")
_TWO: Final = 2  # quotes
_BLANK: Final = " \t\n\f\r"


class Line(NamedTuple):
    """One rule, or nothing, and where the user wrote it."""

    text: str
    number: int  # of the user's line, from 1
    column: int  # of text[0] in it, from 1; 0: the text comes from a predefined set


def from_environment(value: str) -> tuple[str, bool]:
    """The rule text, and whether a pair of quotes around it had to be removed."""
    quoted = len(value) >= _TWO and value[0] == value[-1] and value[0] in _QUOTES
    if quoted:
        value = value[1:-1]
    if value.startswith("file://"):
        return value, quoted
    return _ESCAPE.sub(lambda hit: _ESCAPES.get(hit[1], hit[0]), value), quoted


def expand(text: str) -> list[Line]:
    """The physical lines after includes; the default set where there is nothing but blanks."""
    text = text.removeprefix("\ufeff")  # some editors begin every file with it
    if not text.strip(_BLANK):
        return [Line(line, 1, 0) for line in STRICT.split("\n")]
    lines = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        lines += _expand_line(line, number)
    return lines


def _expand_line(line: str, number: int) -> list[Line]:
    """An include ends its line: what is written behind it goes on in the next one."""
    done: list[Line] = []
    at = 0
    for include in _INCLUDE.finditer(line):
        first, *rest = SETS[include[1]].removesuffix("\n").split("\n")
        done.append(Line(line[at : include.start()] + first, number, at + 1))
        done += [Line(one, number, 0) for one in rest]
        at = include.end()
    done.append(Line(line[at:], number, at + 1))
    return done
