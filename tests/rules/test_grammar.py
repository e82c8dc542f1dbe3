"""Errors of rule texts: the place in the user's text, and the cure."""

from __future__ import annotations

import pytest

from appliance.rules.grammar import VERBS, RuleError, parse


@pytest.mark.parametrize(
    ("text", "place", "cure"),
    [
        ("/a/ stopp", "line 1, column 5", "did you mean stop?"),
        ("sample 10\n  /a/ frob", "line 2, column 7", "no such verb: frob"),
        ("/a/ stop_if", "line 1, column 5", "a rule is: /scope/ stop_if /expression/"),
        ("/a/ replace /b/ /c/", "line 1, column 5", "a rule is: /scope/ replace /expression/, /replacement/"),
        ("/a stop", "line 1, column 1", "no second delimiter"),
        ("/a/b/ stop", "line 1, column 3", r"write \/ inside"),
        ("sample 100", "line 1, column 8", "from 1 to 99"),
        ("include debug\n/x(/ remove", "line 2, column 1", "missing )"),
        ("include debug /x(/ remove", "line 1, column 15", "missing )"),
        ("include_debug", "line 1, column 1", "write: include debug"),
        ("Include  Strict", "line 1, column 1", "write: include strict"),
        ("allow_http_url sample 10", "line 1, column 1", "the next rule begins on a new line"),
        ("=", "line 1, column 1", "a rule is: verb"),
        ("sample 10\nsample 20", "line 2, column 1", "keep one of them"),
        ("~a/ stop", "line 1, column 1", "the same one of"),
    ],
)
def test_error_names_place_and_cure(text: str, place: str, cure: str) -> None:
    with pytest.raises(RuleError) as error:
        parse(text)
    assert str(error.value).startswith(place + ": ")
    assert cure in str(error.value)


def test_rules_know_the_line_they_came_from() -> None:
    found = parse("# a\ninclude debug\n/a/ stop # why\n")
    assert [(rule.verb, rule.number) for rule in found.rules] == [
        ("allow_http_url", 2),
        ("copy_session_field", 2),
        ("stop", 3),
    ]
    assert found.has("stop")
    assert not found.has("sample")


def test_every_verb_has_a_form() -> None:
    lines = {
        "sample": "sample 5",
        "copy_session_field": "copy_session_field /a/",
        "replace": "/a/ replace /b/, //",
        "remove": "/a/ remove",
        "stop": "/a/ stop",
    }
    for verb in VERBS:
        text = lines.get(verb) or (f"/a/ {verb} /b/" if "_if" in verb or "_unless" in verb else verb)
        assert [rule.verb for rule in parse(text).rules] == [verb]


def test_what_follows_an_include_is_said_to_follow_it() -> None:
    with pytest.raises(RuleError, match=r"line 1, column 14: .*: ing .behind an include; those are strict"):
        parse("include debuging")


def test_a_line_without_end_is_not_shown_whole() -> None:
    with pytest.raises(RuleError) as error:
        parse("(" * 100_000)
    assert len(str(error.value)) < 400


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_rule() -> None:
    assert len(parse("\ufeffinclude debug").rules) == len(parse("include debug").rules)
