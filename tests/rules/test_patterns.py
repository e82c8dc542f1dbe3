"""Expressions: what hits, what is replaced, and what a hostile text costs."""

from __future__ import annotations

import time
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.rules.patterns import (
    BURST,
    SEARCH_LIMIT,
    SHORT_LIMIT,
    Linear,
    PatternError,
    Template,
    Timed,
    TimeLimit,
    compile_pattern,
)


def still() -> TimeLimit:
    return TimeLimit(lambda: 0.0)


def replaced(expression: str, template: str, text: str) -> str:
    return compile_pattern(expression, whole=False).replace(text, Template(template), still())


@pytest.mark.parametrize(
    ("expression", "template", "text", "after"),
    [
        ("o", "0", "foo", "f00"),
        (".*", "Z", "one", "Z"),  # an empty hit that touches the one before is none
        ("o*", "-", "one", "-n-e-"),
        ("x*", "-", "é€a", "-é-€-a-"),  # nor is one inside a character
        ("^a", "b", "aaa", "baa"),
        ("$", "!", "ab", "ab!"),
        ("b$", "!", "ab\n", "ab\n"),  # the end of the text only
        ("(?m)^", ">", "a\nb", ">a\n>b"),
        (r"\bx", "y", "xx x", "yx y"),
        (r"(\w)(\w)?", "<$2$1>", "abc", "<ba><c>"),  # a group without hit is nothing
        ("(?P<n>a)", "${n}$n", "a", "aa"),
        ("(?=b)", "-", "aba", "a-ba"),  # from here on not RE2's
        (r"(?<=a)b$", "X", "ab\nab", "ab\naX"),
        (r"(a)\1", "<$1>", "aab", "<a>b"),
        (r"(?!q)x*", "-", "abx", "-a-b-"),
        (r"(?!q)[$]\z", "E", "$", "E"),
        (r"(?m)(?!q)b$", "E", "ab\nb", "aE\nE"),
        ("(?!q)[]$]", "E", "]$", "EE"),
        ("(?!q)[^]$]", "E", "a]$", "E]$"),
    ],
)
def test_replacement(expression: str, template: str, text: str, after: str) -> None:
    assert replaced(expression, template, text) == after


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("", [("", "")]),
        ("a$$b", [("a$b", "")]),
        ("$1x", [("", "1x"), ("", "")]),
        ("a${1}x", [("a", "1"), ("x", "")]),
        ("$", [("$", "")]),
        (r"\1&", [(r"\1&", "")]),
        ("${", [("${", "")]),
        ("$é", [("$é", "")]),
    ],
)
def test_template_is_read_as_go_does(template: str, parts: list[tuple[str, str]]) -> None:
    assert Template(template).parts == parts


@given(st.text(), st.sampled_from(["a", "b*", "[^a]", "(?:ab)+", "a|$", r"\s"]))
def test_both_engines_agree(text: str, expression: str) -> None:
    template = Template("<$0>")
    linear = Linear(expression).replace(text, template, still())
    assert Timed(expression).replace(text, template, still()) == linear
    assert Linear(expression).found(text, still()) == Timed(expression).found(text, still())


@pytest.mark.parametrize(
    ("inner", "source"),
    [("a|b", "^a|b$"), ("^a", "^a$"), ("a$", "^a$"), (r"\^a", r"^\^a$"), (r"a\$", r"^a\$")],
)
def test_anchors_are_pasted(inner: str, source: str) -> None:
    assert compile_pattern(inner, whole=True).source == source


@pytest.mark.parametrize("inner", ["*", "+", "?", "(", "[a", r"\Z", "(?#x)a", "a{1001}", "(?!a"])
def test_what_is_no_expression_is_refused_with_a_reason(inner: str) -> None:
    with pytest.raises(PatternError, match=r".+"):
        compile_pattern(inner, whole=True)


@pytest.mark.parametrize("expression", ["(a+)+$", r"(?!x)(a+)+$", r"(a*)*\1$", "(?!x)(a|a)*$"])
@pytest.mark.parametrize("verb", ["found", "replace"])
def test_catastrophic_expression_over_a_hostile_mebibyte_comes_to_an_end(expression: str, verb: str) -> None:
    """The limit is asserted as limit, not as a time: the search was given up, or came to an answer."""
    text = "a" * (1 << 20) + "b"
    pattern = compile_pattern(expression, whole=False)
    limit = TimeLimit(time.perf_counter)
    try:
        if verb == "found":
            assert not pattern.found(text, limit)
        else:
            assert pattern.replace(text, Template("x"), limit) == text
    except TimeoutError:
        assert isinstance(pattern, Timed)
        assert limit.seconds() <= SEARCH_LIMIT


def test_many_hits_end_at_the_limit() -> None:
    ticks = count()
    with pytest.raises(TimeoutError):
        Linear("a").replace("a" * 1000, Template("b"), TimeLimit(lambda: float(next(ticks))))
    with pytest.raises(TimeoutError):
        Timed("a").replace("a" * 1000, Template("b"), TimeLimit(lambda: float(next(ticks))))


def test_time_that_comes_to_nothing_is_paid_back() -> None:
    now = [0.0]
    limit = TimeLimit(lambda: now[0])
    assert limit.seconds() == SEARCH_LIMIT
    limit.charge(BURST)
    assert limit.seconds() == SHORT_LIMIT
    now[0] += 0.1
    assert limit.seconds() == SEARCH_LIMIT
