"""Rules over messages: what is removed is nowhere, and what cannot be decided does not leave."""

from __future__ import annotations

import time
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.ledger import Ledger
from appliance.model import Message
from appliance.rules.engine import KEY_SIZE, KEYS, Rules, cookies
from appliance.rules.grammar import parse

SECRET = "s3cr3t"  # noqa: S105  # it is made up
KEYS_ST = st.sampled_from(
    ["request_body", "response_body", "request_header:cookie", "request_header:x", "request_param:q", "now"]
)
MESSAGES = st.lists(st.tuples(KEYS_ST, st.text(max_size=20)), max_size=12)


def rules(text: str, ledger: Ledger | None = None) -> Rules:
    return Rules(parse(text), ledger or Ledger(), lambda _: 0, time.perf_counter)


@given(MESSAGES, st.integers(0, 12), KEYS_ST)
def test_what_a_rule_removes_is_nowhere(message: Message, at: int, key: str) -> None:
    message.insert(at, (key, SECRET))
    after = rules(f"/{key}/ remove").apply(message)
    assert SECRET not in str(after)
    assert all(pair in message for pair in after or [])


@given(MESSAGES, st.integers(0, 12), KEYS_ST, st.text(max_size=8), st.text(max_size=8))
def test_what_a_rule_replaces_is_nowhere(message: Message, at: int, key: str, a: str, b: str) -> None:
    message.insert(at, (key, f"{a}{SECRET}{b}"))
    assert SECRET not in str(rules(f"/.*/ replace /{SECRET}/, /-/").apply(message))


@given(MESSAGES)
def test_strict_leaves_no_body_parameter_or_cookie(message: Message) -> None:
    for key, _ in rules("").apply(message) or []:
        assert key == "now"


@given(MESSAGES)
def test_without_scoped_rules_every_pair_with_a_value_stays(message: Message) -> None:
    assert (rules("allow_http_url").apply(message) or []) == [pair for pair in message if pair[1]]


def test_hits_are_counted_by_rule() -> None:
    one = rules("/a/ remove\n/b/ replace /x/, /y/\n/c/ stop\n/d/ remove")
    one.apply([("a", "1"), ("a", "2"), ("b", "xx"), ("e", "1")])
    one.apply([("b", "z")])
    one.apply([("c", "1"), ("a", "1")])
    assert [(rule.calls, rule.fields) for rule in one.set.rules] == [(1, 2), (1, 1), (1, 1), (0, 0)]


def test_calls_that_do_not_leave_are_counted_by_reason() -> None:
    ledger = Ledger()
    one = Rules(parse("sample 50\n/stop/ stop\n/gone/ remove"), ledger, lambda _: 50, lambda: 0.0)
    assert one.apply([("stop", "1")]) is None
    assert one.apply([("a", "1")]) is None
    two = rules("/gone/ remove", ledger)
    assert two.apply([("gone", "1")]) is None
    counts = {name: n for name, n in ledger.tally.items() if n}
    assert counts == {"call_rule_stopped": 1, "call_rule_sampled": 1, "call_rule_emptied": 1}


@pytest.mark.parametrize("verb", ["remove_if", "remove_unless", "remove_if_found", "remove_unless_found"])
def test_value_that_a_removal_cannot_decide_goes(verb: str) -> None:
    ledger = Ledger()
    one = rules(f"/b/ {verb} /(?!x)(a+)+$/", ledger)
    assert one.apply([("a", "1"), ("b", "a" * 5000 + "b")]) == [("a", "1")]
    assert ledger.tally["rule_timeouts"] == 1


def test_value_that_a_replacement_cannot_finish_goes() -> None:
    ledger = Ledger()
    one = rules("/b/ replace /(?!x)(a+)+$/, /y/", ledger)
    assert one.apply([("a", "1"), ("b", "a" * 5000 + "b")]) == [("a", "1")]
    assert ledger.tally["rule_timeouts"] == 1


@pytest.mark.parametrize("verb", ["stop_if", "stop_if_found", "stop_unless", "stop_unless_found"])
def test_call_that_a_stop_cannot_decide_goes_as_a_whole(verb: str) -> None:
    ledger = Ledger()
    one = rules(f"/b/ {verb} /(?!x)(a+)+$/", ledger)
    assert one.apply([("a", "1"), ("b", "a" * 5000 + "b")]) is None
    assert ledger.tally["call_rule_timeout"] == ledger.tally["rule_timeouts"] == 1


def test_pair_whose_key_no_scope_can_decide_goes() -> None:
    ledger = Ledger()
    one = rules("/(?!x)(a+)+/ remove", ledger)
    assert one.apply([("b", "1"), ("a" * 5000 + "b", "2")]) == [("b", "1")]
    assert ledger.tally["rule_timeouts"] == 1


def test_keys_that_attackers_invent_are_not_remembered_without_end() -> None:
    one = rules("/request_header:x/ remove")
    for n in range(KEYS + 10):
        one.apply([(f"request_header:{n}", "1")])
    one.apply([("k" * (KEY_SIZE + 1), "1")])
    assert len(one._plans) <= KEYS
    assert "k" * (KEY_SIZE + 1) not in one._plans


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("SID=abc; Theme=Dark", [("sid", "abc"), ("theme", "Dark")]),
        ('a="q"; b="', [("a", "q")]),
        ("bad name=1; =2; c", [("c", "")]),
        ("a=b=c;;d=é", [("a", "b=c")]),
        (r"a=\ ; b=x y", [("b", "x y")]),
    ],
)
def test_cookies_are_read_as_the_predecessor_does(header: str, found: Message) -> None:
    assert cookies(header) == found


def test_session_fields_come_by_rule_then_by_cookie_before_now() -> None:
    one = rules("copy_session_field /b/\ncopy_session_field /.*/")
    message = [("request_header:cookie", "A=1; B=2"), ("now", "1"), ("interval", "2")]
    assert one.with_session(message) == [
        ("request_header:cookie", "A=1; B=2"),
        ("session_field:b", "2"),
        ("session_field:a", "1"),
        ("session_field:b", "2"),
        ("now", "1"),
        ("interval", "2"),
    ]
    assert [(rule.calls, rule.fields) for rule in one.set.rules] == [(1, 1), (1, 2)]


def test_time_limit_is_shared_by_all_rules_of_a_set() -> None:
    ticks = count()
    one = Rules(parse("/b/ replace /(?!x)a/, /y/"), Ledger(), lambda _: 0, lambda: float(next(ticks)))
    assert one.apply([("b", "aaa"), ("c", "1")]) == [("c", "1")]
