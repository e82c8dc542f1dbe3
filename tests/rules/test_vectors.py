"""Every vector of the rules language: what the predecessor's library does, or what is recommended instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from appliance.ledger import Ledger
from appliance.policy import PolicyError, obstacles, rules_from
from appliance.rules.engine import SAMPLE_SIDES, Rules
from appliance.rules.grammar import Rule, RuleError, parse, parse_line
from appliance.rules.text import Line, expand, from_environment
from tests.support import vectors

VECTORS = vectors.rules()
STRICT_BY_INCLUDE = "/request_url/ replace /([^\\?;]+).*/, //\n"
INVERTED = "request_header:(user-agent).*|response_header:((content-length)|(content-type)).*"
MEANT = "request_header:(?!user-agent).*|response_header:(?!(content-length)|(content-type)).*"

# Lines of which the outcome is a matter of the regex dialect: docs/compatibility.md has the reasons.
ACCEPTED = {  # the predecessor refuses them, rule sets of its siblings have them
    "P0618": "possessive quantifier",
    "P0619": "look-ahead",
    "P0620": "look-behind",
    "P0621": "back-reference",
    "P0640": "look-ahead",
    "P0642": "possessive quantifier",
    "P0740": "look-ahead, of the strict set itself",
    "P0623": "(?<n>a): as newer RE2 and Go have it",
}


T = TypeVar("T")


def attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """What comes of it, and what is wrong."""
    try:
        return work(), ""
    except RuleError as error:
        return None, error.what
    except PolicyError as error:
        return None, str(error)


def _draws(number: int) -> Callable[[int], int]:
    return lambda _: number


def shown(rule: Rule) -> dict[str, Any]:
    """A rule as the vectors write it."""
    copy = rule.verb == "copy_session_field"
    scope = rule.scope.source if rule.scope else None
    value = rule.value.source if rule.value else rule.percent if rule.verb == "sample" else None
    return {
        "verb": rule.verb,
        "scope": None if copy else scope,
        "param1": scope if copy else value,
        "param2": rule.template.text if rule.template else None,
    }


@pytest.mark.parametrize("vector", VECTORS["parse"], ids=lambda v: v["id"])
def test_line(vector: dict[str, Any]) -> None:
    rule, error = attempt(lambda: parse_line(Line(vector["rule"], 1, 1)))
    if error:
        assert not vector["ok"]
        assert error.startswith(vector["error"])
        assert error == vector.get("message", error)
        return
    assert vector["ok"] or vector["id"] in ACCEPTED
    if vector["ok"]:
        expected = {name: vector.get(name) for name in ("verb", "scope", "param1", "param2")}
        assert (shown(rule) if rule else dict.fromkeys(expected)) == expected


@pytest.mark.parametrize("vector", VECTORS["text"], ids=lambda v: v["id"])
def test_text(vector: dict[str, Any]) -> None:
    found, error = attempt(lambda: rules_from(vector["rules"])[0])
    if found is None:
        assert not vector["ok"]
        assert vector["message"] in error
        return
    assert vector["ok"]
    assert len(found.rules) == vector["size"]
    text = "\n".join(line.text for line in expand(vector["rules"]))
    meant = vector["text"].replace(STRICT_BY_INCLUDE, STRICT_BY_INCLUDE.replace("//\n", "/$1/\n"))
    assert text == meant.replace(INVERTED, MEANT).replace("\r\n", "\n")


@pytest.mark.parametrize("vector", VECTORS["apply"], ids=lambda v: v["id"])
def test_apply(vector: dict[str, Any]) -> None:
    found, error = attempt(lambda: parse(vector["rules"]))
    if found is None:
        assert error.startswith(vector["error"])
        return
    assert "error" not in vector
    rules = Rules(found, Ledger(), lambda _: 0, lambda: 0.0)
    expected = vector.get("recommended", vector)
    expected = expected["expect"] if isinstance(expected, dict) else expected
    after = rules.apply([(key, value) for key, value in vector["message"]])
    assert after == (None if expected is None else [(key, value) for key, value in expected])


@pytest.mark.parametrize("vector", VECTORS["env"], ids=lambda v: v["id"])
def test_environment(vector: dict[str, Any]) -> None:
    assert from_environment(vector["env_value"])[0] == vector["recommended_rules_text"]


@pytest.mark.parametrize("vector", VECTORS["enable"], ids=lambda v: f"{v['url']} {v['rules']!r}")
def test_enabled(vector: dict[str, Any]) -> None:
    expected = vector["enabled"] and vector["url"][:5] != "HTTP:"  # recommended: the scheme has no case
    assert (not obstacles(vector["url"], parse(vector["rules"]))) == expected


@pytest.mark.parametrize("vector", [v for v in VECTORS["sample"] if "percent" in v], ids=lambda v: v["rules"])
def test_sample(vector: dict[str, Any]) -> None:
    kept = []
    for drawn in range(SAMPLE_SIDES):
        rules = Rules(parse(vector["rules"]), Ledger(), _draws(drawn), lambda: 0.0)
        if rules.apply([("h:a", "1")]) is not None:
            kept.append(drawn)
    assert kept == list(range(vector["percent"]))


def test_a_stopped_call_draws_no_lot() -> None:
    def never(_: int) -> int:
        raise AssertionError

    rules = Rules(parse("sample 10\n/h:b/ stop"), Ledger(), never, lambda: 0.0)
    assert rules.apply([("h:b", "1")]) is None


def test_all_vectors_are_here() -> None:
    assert {name: len(VECTORS[name]) for name in ("parse", "text", "apply", "sample", "enable", "env")} == {
        "parse": 741,
        "text": 37,
        "apply": 186,
        "sample": 5,
        "enable": 13,
        "env": 18,
    }
