"""``appliance rules preview``: what a rule set does to the calls of a capture, as text.

Contract: ``Preview.take`` runs every call through the rules as the service would; ``report`` says for each
rule how many calls and fields it touched, what became of the calls, and shows a few of them before and
after. It shows captured values as they were: it is for the eyes of those who write the rules.

Bounds: ``calls`` shown; a value ``VALUE_WIDTH`` characters.
"""

from __future__ import annotations

from typing import Final

from appliance.ledger import TABLE, Ledger
from appliance.message import Messages
from appliance.model import HttpExchange, Message
from appliance.rules.engine import Rules

VALUE_WIDTH: Final = 96
_OUTCOMES: Final = ("call_rule_stopped", "call_rule_sampled", "call_rule_emptied", "call_rule_timeout")


class Preview:
    def __init__(self, messages: Messages, rules: Rules, ledger: Ledger, calls: int) -> None:
        self._messages = messages
        self._rules = rules
        self._ledger = ledger
        self._calls = calls
        self._shown: list[list[str]] = []

    def take(self, exchange: HttpExchange) -> None:
        tally = self._ledger.tally
        tally["calls"] += 1
        before = self._rules.with_session(self._messages.make(exchange))
        after = self._rules.apply(before)
        tally["messages"] += after is not None
        if len(self._shown) < self._calls and after != before:
            self._shown.append(_compared(before, after))

    def report(self) -> str:
        tally = self._ledger.tally
        lines = ["calls  fields  line  rule"]
        lines += [
            f"{rule.calls:5}  {rule.fields:6}  {rule.number:4}  {rule.text}" for rule in self._rules.set.rules
        ]
        lines += ["", f"{tally['calls']} calls, {tally['messages']} would leave"]
        for name in _OUTCOMES:
            if tally[name]:
                lines.append(f"{tally[name]} {TABLE[name].meaning}")
        if tally["rule_timeouts"]:
            lines.append(f"{tally['rule_timeouts']} values {TABLE['rule_timeouts'].meaning}")
        for number, call in enumerate(self._shown, 1):
            lines += ["", f"call {number}:   - does not leave   ~ leaves changed", *call]
        return "\n".join(lines) + "\n"


def _compared(before: Message, after: Message | None) -> list[str]:
    """Every pair of ``before``, and what became of it; pairs keep their order."""
    if after is None:
        return [f"- {key}: {_short(value)}" for key, value in before]
    lines = []
    at = 0
    for key, value in before:
        if at < len(after) and after[at] == (key, value):
            lines.append(f"  {key}: {_short(value)}")
            at += 1
        elif at < len(after) and after[at][0] == key and _gone(before, after, at):
            lines.append(f"~ {key}: {_short(value)} -> {_short(after[at][1])}")
            at += 1
        else:
            lines.append(f"- {key}: {_short(value)}")
    return lines


def _gone(before: Message, after: Message, at: int) -> bool:
    """The pair at ``at`` is in ``before`` under no value of its own: it was changed."""
    return after[at] not in before


def _short(value: str) -> str:
    shown = "".join(c if c.isprintable() else "\u00b7" for c in value[: VALUE_WIDTH + 1])
    return shown if len(value) <= VALUE_WIDTH else shown[:VALUE_WIDTH] + f"... ({len(value)} characters)"
