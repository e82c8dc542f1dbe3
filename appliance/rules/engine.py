"""What a rule set leaves of a call: Message -> Message or nothing (specification §1.9, §3.4, §3.7).

Contract: ``with_session`` copies cookies, ``apply`` does the rest; neither raises, and ``apply`` never
returns a pair that a rule removes. Order: stops (on the original values); sampling; removals, one verb
after the other; replacements in file order; pairs without value go. Keys never change. What a rule could
not decide in its time does not leave: the value goes, and a call that a stop could not decide goes as a
whole; both are counted.

Pure: the dice and the clock come from the caller. Bounds: decisions by key are remembered for ``KEYS``
keys and cookie names of at most ``KEY_SIZE`` characters; a search: patterns.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from appliance.ledger import Ledger
from appliance.model import Message
from appliance.rules.grammar import Rule, RuleSet
from appliance.rules.patterns import TimeLimit

KEYS: Final = 8192  # header and parameter names that occur; attackers can invent any number
KEY_SIZE: Final = 256
SAMPLE_SIDES: Final = 100

REMOVALS: Final = ("remove", "remove_unless_found", "remove_if_found", "remove_unless", "remove_if")
_COOKIE: Final = "request_header:cookie"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_COOKIE_VALUE = re.compile(r"[\x20-\x7e]*")
_NOT_IN_COOKIE: Final = ('"', "\\")


class _Plan:
    """The rules whose scope matches one key."""

    __slots__ = ("removals", "replaces", "stop", "stops", "unless", "unless_found")

    def __init__(self) -> None:
        self.stop: list[Rule] = []
        self.stops: list[Rule] = []  # stop_if and stop_if_found
        self.unless: list[Rule] = []
        self.unless_found: list[Rule] = []
        self.removals: list[Rule] = []  # by verb in the order of REMOVALS
        self.replaces: list[Rule] = []

    def empty(self) -> bool:
        return not (
            self.stop or self.stops or self.unless or self.unless_found or self.removals or self.replaces
        )


_Row = tuple[str, str, "_Plan | None"]


class Rules:
    def __init__(
        self, rules: RuleSet, ledger: Ledger, dice: Callable[[int], int], clock: Callable[[], float]
    ) -> None:
        """``dice(n)``: a whole number from 0 to n - 1, each as likely. ``clock``: seconds."""
        self.set = rules
        self._tally = ledger.tally
        self._dice = dice
        self._limit = TimeLimit(clock)
        self._copies = rules.of("copy_session_field")
        self._sample = next(iter(rules.of("sample")), None)
        self._unless = rules.of("stop_unless")
        self._unless_found = rules.of("stop_unless_found")
        self._scoped = [rule for rule in rules.rules if rule.scope and rule.verb != "copy_session_field"]
        self._plans: dict[str, _Plan | None] = {}
        self._cookies: dict[str, list[Rule]] = {}  # by name: the rules that copy it

    def with_session(self, message: Message) -> Message:
        """Cookies as session fields, by rule, then by cookie order, before ``now`` (§1.3, §1.9)."""
        if not self._copies:
            return message
        found = [cookie for key, value in message if key == _COOKIE for cookie in cookies(value)]
        if not found:
            return message
        fields: Message = []
        for rule in self._copies:
            before = len(fields)
            for name, value in found:
                if rule in self._copiers(name):
                    fields.append(("session_field:" + name, value))
            rule.fields += len(fields) - before
            rule.calls += len(fields) > before
        at = next((n for n, pair in enumerate(message) if pair[0] == "now"), len(message))
        return message[:at] + fields + message[at:]

    def _copiers(self, name: str) -> list[Rule]:
        """The rules that copy a cookie of this name."""
        known = self._cookies.get(name)
        if known is not None:  # common case
            return known
        try:
            found = [rule for rule in self._copies if rule.scope and rule.scope.found(name, self._limit)]
        except TimeoutError:
            self._tally["rule_timeouts"] += 1
            return []
        if len(name) <= KEY_SIZE:
            if len(self._cookies) >= KEYS:
                self._cookies.clear()
            self._cookies[name] = found
        return found

    def apply(self, message: Message) -> Message | None:
        """What may leave; None: nothing. Counted in the ledger by reason."""
        if not self._scoped and self._sample is None:  # common case: nothing to take away
            kept = [pair for pair in message if pair[1]]
            return kept or self._dropped("call_rule_emptied")
        rows = self._planned(message)
        try:
            stopped = self._stopped(rows)
        except TimeoutError:
            return self._dropped("call_rule_timeout")
        if stopped:
            return self._dropped("call_rule_stopped")
        if self._sample is not None and self._dice(SAMPLE_SIDES) >= self._sample.percent:
            self._sample.calls += 1
            return self._dropped("call_rule_sampled")
        touched: set[int] = set()
        kept = self._replaced(self._removed(rows, touched), touched)
        for number in touched:
            self._scoped[number].calls += 1
        return kept or self._dropped("call_rule_emptied")

    def _dropped(self, reason: str) -> Message | None:
        self._tally[reason] += 1
        return None

    # -- which rules concern a key

    def _planned(self, message: Message) -> list[_Row]:
        plans = self._plans
        rows: list[_Row] = []
        for key, value in message:
            if key in plans:  # common case
                rows.append((key, value, plans[key]))
                continue
            try:
                plan = self._plan(key)
            except TimeoutError:
                self._tally["rule_timeouts"] += 1
                continue  # the pair does not leave
            if len(key) <= KEY_SIZE:
                if len(plans) >= KEYS:
                    plans.clear()
                plans[key] = plan
            rows.append((key, value, plan))
        return rows

    def _plan(self, key: str) -> _Plan | None:
        plan = _Plan()
        lists = {
            "stop": plan.stop,
            "stop_if": plan.stops,
            "stop_if_found": plan.stops,
            "stop_unless": plan.unless,
            "stop_unless_found": plan.unless_found,
            "replace": plan.replaces,
        }
        for rule in self._scoped:
            if rule.scope is not None and rule.scope.found(key, self._limit):
                lists.get(rule.verb, plan.removals).append(rule)
        plan.removals.sort(key=lambda rule: REMOVALS.index(rule.verb))
        return None if plan.empty() else plan

    # -- the steps of §3.7

    def _stopped(self, rows: list[_Row]) -> bool:
        planned = [(value, plan) for _, value, plan in rows if plan is not None]
        for _, plan in planned:
            if plan.stop:
                return _hit(plan.stop[0])
        for value, plan in planned:
            for rule in plan.stops:
                if self._finds(rule, value):
                    return _hit(rule)
        return self._lacks(planned, self._unless_found, found=True) or self._lacks(
            planned, self._unless, found=False
        )

    def _lacks(self, planned: list[tuple[str, _Plan]], rules: list[Rule], *, found: bool) -> bool:
        """As all loggers count: hits of (rule, pair), compared with the number of rules."""
        if not rules:
            return False
        hits = 0
        for value, plan in planned:
            hits += sum(self._finds(rule, value) for rule in (plan.unless_found if found else plan.unless))
        return hits != len(rules) and _hit(rules[0])

    def _finds(self, rule: Rule, value: str) -> bool:
        if rule.value is None:
            return True
        try:
            return rule.value.found(value, self._limit)
        except TimeoutError:
            self._tally["rule_timeouts"] += 1
            raise

    def _removed(self, rows: list[_Row], touched: set[int]) -> list[_Row]:
        kept = []
        for row in rows:
            plan = row[2]
            if plan is None or not plan.removals or not self._removes(plan.removals, row[1], touched):
                kept.append(row)
        return kept

    def _removes(self, rules: list[Rule], value: str, touched: set[int]) -> bool:
        for rule in rules:
            try:
                hit = self._finds(rule, value) == ("unless" not in rule.verb)
            except TimeoutError:
                hit = True
            if hit:
                self._touch(rule, touched)
                return True
        return False

    def _replaced(self, rows: list[_Row], touched: set[int]) -> Message:
        kept: Message = []
        for key, original, plan in rows:
            value = original
            for rule in plan.replaces if plan is not None else ():
                if not value:
                    break
                value = self._replace(rule, value, touched)
            if value:
                kept.append((key, value))
        return kept

    def _replace(self, rule: Rule, value: str, touched: set[int]) -> str:
        if rule.value is None or rule.template is None:
            return value
        try:
            after = rule.value.replace(value, rule.template, self._limit)
        except TimeoutError:
            self._tally["rule_timeouts"] += 1
            after = ""
        if after != value:
            self._touch(rule, touched)
        return after

    def _touch(self, rule: Rule, touched: set[int]) -> None:
        rule.fields += 1
        touched.add(self._scoped.index(rule))


def _hit(rule: Rule) -> bool:
    rule.calls += 1
    rule.fields += 1
    return True


def cookies(header: str) -> Message:
    """(lower-case name, value) as Go reads a Cookie header: invalid ones are skipped, quotes removed."""
    found = []
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if not _TOKEN.fullmatch(name) or not _COOKIE_VALUE.fullmatch(value):
            continue
        if any(character in value for character in _NOT_IN_COOKIE):
            continue
        found.append((name.lower(), value))
    return found
