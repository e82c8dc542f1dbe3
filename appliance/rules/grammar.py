"""Rule text -> RuleSet: the language of Resurface's logging rules (specification §3.3-§3.5, §3.8).

Contract: ``parse`` takes text whose includes are still in it and returns a RuleSet, or raises RuleError,
which names line, column, what is wrong and the cure. The first error rejects the whole set: half a
privacy policy is none. White space is ASCII, verbs are lower-case, a delimiter is one of ``~ ! % | /``.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Final

from appliance.rules.patterns import Pattern, PatternError, Template, compile_pattern
from appliance.rules.text import Line, expand

DELIMITERS: Final = "~!%|/"
PLAIN: Final = ("allow_http_url", "skip_compression", "skip_submission")
BARE: Final = ("remove", "stop")  # a scope alone
CONDITIONAL: Final = {  # a scope and an expression that is matched as a whole, or searched
    "remove_if": True,
    "remove_if_found": False,
    "remove_unless": True,
    "remove_unless_found": False,
    "stop_if": True,
    "stop_if_found": False,
    "stop_unless": True,
    "stop_unless_found": False,
}
VERBS: Final = (*PLAIN, "copy_session_field", "sample", *BARE, *CONDITIONAL, "replace")
PERCENT_MAX: Final = 99
_PERCENT_DIGITS: Final = 18  # more do not fit the predecessor's integer

_WS: Final = r"[ \t\n\f\r]"
_END: Final = rf"{_WS}*(?:\#.*)?\Z"
_EXPR: Final = r"[~!%|/].+[~!%|/]"
_EXPR_OR_EMPTY: Final = r"[~!%|/].*[~!%|/]"


def _form(text: str) -> re.Pattern[str]:
    return re.compile(rf"{_WS}*{text}{_END}", re.DOTALL)


# In the order in which the loggers try them. Every form is greedy: the last delimiter ends an expression.
_FORMS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    ("allow_http_url", _form("allow_http_url")),
    # Whatever follows its expression is ignored: the predecessor does so (docs/compatibility.md).
    ("copy_session_field", re.compile(rf"{_WS}*copy_session_field{_WS}+({_EXPR})", re.DOTALL)),
    ("remove", _form(rf"({_EXPR}){_WS}*remove")),
    *[
        (verb, _form(rf"({_EXPR}){_WS}*{verb}{_WS}+({_EXPR})"))
        for verb in ("remove_if", "remove_if_found", "remove_unless", "remove_unless_found")
    ],
    ("replace", _form(rf"({_EXPR}){_WS}*replace{_WS}+({_EXPR}),{_WS}+({_EXPR_OR_EMPTY})")),
    ("sample", _form(rf"sample{_WS}+([0-9]+)")),
    ("skip_compression", _form("skip_compression")),
    ("skip_submission", _form("skip_submission")),
    ("stop", _form(rf"({_EXPR}){_WS}*stop")),
    *[
        (verb, _form(rf"({_EXPR}){_WS}*{verb}{_WS}+({_EXPR})"))
        for verb in ("stop_if", "stop_if_found", "stop_unless", "stop_unless_found")
    ],
)
_NOTHING = _form("")
_WORD = re.compile(r"[A-Za-z_]+")
_INCLUDE_LIKE = re.compile(rf"{_WS}*include[ _\t]*([A-Za-z]*)", re.IGNORECASE)


SHOWN: Final = 200  # characters of what is wrong


class RuleError(ValueError):
    """A rule text that cannot be used."""

    def __init__(self, what: str, number: int, column: int, cure: str = "") -> None:
        place = f"line {number}, column {column}" if column else f"line {number}"
        shown = what if len(what) <= SHOWN else what[:SHOWN] + "..."
        super().__init__(f"{place}: {shown}" + (f"; {cure}" if cure else ""))
        self.what = what
        self.number = number
        self.column = column
        self.cure = cure


@dataclass(slots=True, eq=False)  # the same text twice is two rules
class Rule:
    """One rule; which of the fields count depends on the verb."""

    verb: str
    text: str  # as written, without the blanks around it
    number: int  # of the user's line
    scope: Pattern | None = None  # copy_session_field: of the cookie's name
    value: Pattern | None = None
    template: Template | None = None
    percent: int = 0
    calls: int = 0  # in which it did something
    fields: int = 0  # that it removed or changed, or that made it stop


@dataclass(slots=True)
class RuleSet:
    rules: list[Rule] = field(default_factory=list)

    def has(self, verb: str) -> bool:
        return any(rule.verb == verb for rule in self.rules)

    def of(self, verb: str) -> list[Rule]:
        """In file order."""
        return [rule for rule in self.rules if rule.verb == verb]


def parse(text: str) -> RuleSet:
    found = RuleSet()
    for line in expand(text):
        rule = parse_line(line)
        if rule is None:
            continue
        if rule.verb == "sample" and found.has("sample"):
            raise RuleError("multiple sample rules", line.number, line.column, "keep one of them")
        found.rules.append(rule)
    return found


def parse_line(line: Line) -> Rule | None:
    """The rule of one physical line; None for a blank or a comment."""
    if _NOTHING.match(line.text):
        return None
    for verb, form in _FORMS:
        match = form.match(line.text)
        if match is not None:
            return _Reader(line, match).read(verb)
    what, at, cure = _explain(line.text)
    if line.column > 1:
        cure += " (behind an include; those are strict, standard, debug and default)"
    raise RuleError(what, line.number, line.column + at if line.column else 0, cure)


class _Reader:
    """The expressions of one line, with their places for messages."""

    def __init__(self, line: Line, match: re.Match[str]) -> None:
        self.line = line
        self.match = match

    def read(self, verb: str) -> Rule:
        rule = Rule(verb, self.line.text.strip(), self.line.number)
        if verb in PLAIN:
            return rule
        if verb == "sample":
            rule.percent = self._percent()
            return rule
        rule.scope = self._pattern(1, whole=True)
        if verb in CONDITIONAL:
            rule.value = self._pattern(2, whole=CONDITIONAL[verb])
        elif verb == "replace":
            rule.value = self._pattern(2, whole=False)
            rule.template = Template(self._inner(3, may_be_empty=True))
        return rule

    def _percent(self) -> int:
        digits = self.match[1]
        if len(digits) > _PERCENT_DIGITS:
            raise self._error(f"error parsing sample rule: {self.line.text}", 1, "a percentage from 1 to 99")
        percent = int(digits)
        if not 1 <= percent <= PERCENT_MAX:
            raise self._error(f"invalid sample percent: {percent}", 1, "a percentage from 1 to 99")
        return percent

    def _pattern(self, group: int, *, whole: bool) -> Pattern:
        inner = self._inner(group, may_be_empty=False)
        try:
            return compile_pattern(inner, whole=whole)
        except PatternError as error:
            what = f"invalid regex ({self.match[group]}) in rule: {self.line.text}"
            raise self._error(what, group, str(error)) from None

    def _inner(self, group: int, *, may_be_empty: bool) -> str:
        """What stands between the delimiters (§3.5)."""
        text = self.match[group]
        delimiter = next((d for d in DELIMITERS if text[0] == d == text[-1] and len(text) > 1), None)
        if delimiter is None:
            what = f"invalid expression ({text}) in rule: {self.line.text}"
            raise self._error(what, group, f"begin and end it with the same one of {' '.join(DELIMITERS)}")
        inner = text[1:-1]
        loose = re.search(rf"(?:\A|[^\\])({re.escape(delimiter)})", inner)
        if loose is not None:
            what = f"unescaped separator ({delimiter}) in rule: {self.line.text}"
            cure = f"write \\{delimiter} inside, or use another of {' '.join(DELIMITERS)}"
            raise self._error(what, group, cure, 1 + loose.start(1))
        if not inner and not may_be_empty:
            what = f"invalid expression ({text}) in rule: {self.line.text}"
            raise self._error(what, group, "write something between the delimiters")
        return inner.replace("\\" + delimiter, delimiter)

    def _error(self, what: str, group: int, cure: str, more: int = 0) -> RuleError:
        column = self.line.column + self.match.start(group) + more if self.line.column else 0
        return RuleError(what, self.line.number, column, cure)


def _explain(text: str) -> tuple[str, int, str]:
    """(what, place, cure) for a line that no form fits."""
    at = len(text) - len(text.lstrip())
    what = f"invalid rule: {text}"
    include = _INCLUDE_LIKE.match(text)
    if include is not None:
        name = difflib.get_close_matches(include[1].lower(), ("debug", "default", "standard", "strict"), 1, 0)
        return what, at, f"write: include {name[0] if name else 'default'}"
    behind = re.match(rf"{_WS}*{_EXPR_OR_EMPTY}{_WS}*", text)
    if behind is None and text.lstrip()[:1] in DELIMITERS:
        return what, at, "the expression has no second delimiter"
    # The first word outside the expressions is the verb, or should be.
    start = re.match(rf"{_WS}*(?:([~!%|/])(?:\\.|(?!\1).)*\1)?{_WS}*", text)
    word = _WORD.match(text, start.end() if start else at)
    if word is None:
        return what, at, "a rule is: verb, /scope/ verb, or /scope/ verb /expression/"
    if word[0] in VERBS:
        alone = f"nothing may follow {word[0]}: the next rule begins on a new line"
        return what, word.start(), _USAGE.get(word[0], alone)
    near = difflib.get_close_matches(word[0].lower(), VERBS, 1)
    return what, word.start(), f"did you mean {near[0]}?" if near else f"no such verb: {word[0]}"


_USAGE: Final = {
    "copy_session_field": "a rule is: copy_session_field /name/",
    "sample": "a rule is: sample 10",
    "remove": "a rule is: /scope/ remove",
    "stop": "a rule is: /scope/ stop",
    "replace": "a rule is: /scope/ replace /expression/, /replacement/",
    **{verb: f"a rule is: /scope/ {verb} /expression/" for verb in CONDITIONAL},
}
