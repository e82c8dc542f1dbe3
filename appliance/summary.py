"""The ledger as text for people: each identity as a sum, and whether it holds."""

from __future__ import annotations

from typing import Final

from appliance.ledger import IDENTITIES, OTHER_SESSIONS, TABLE, Ledger

SESSIONS: Final = 50  # that are shown


def render(ledger: Ledger) -> str:
    """Non-zero entries only; ``!`` marks what the user may have wanted and did not get."""
    shown: set[str] = set()
    lines: list[str] = []
    for left, right in IDENTITIES:
        if lines and not any(ledger.tally[name] for name in left + right):
            continue  # a stage that was not asked for
        lines += [_line(ledger, name, 0) for name in left if name == left[0] or ledger.tally[name]]
        lines += [_line(ledger, name, 2) for name in right if ledger.tally[name]]
        shown.update(left, right)
    rest = [name for name, n in ledger.tally.items() if n and name not in shown]
    if rest:
        lines.append("of these, or beside them")
        lines += [_line(ledger, name, 2) for name in rest]
    lines += _sinks(ledger) + _sessions(ledger)
    faults = ledger.unbalanced()
    lines += [f"does not add up: {fault}" for fault in faults] or ["the ledger adds up"]
    return "\n".join(lines) + "\n"


def _sinks(ledger: Ledger) -> list[str]:
    """Where there are several; of one, the sums above tell everything."""
    if len(ledger.sinks) < len(("one", "another")):
        return []
    return ["by sink"] + [
        f"    {sink:<10}" + ", ".join(f"{name} {n:,}" for name, n in row.items() if n)
        for sink, row in ledger.sinks.items()
    ]


def _sessions(ledger: Ledger) -> list[str]:
    """The busiest mirror sessions first; of those that are not selected VNIs are a sample."""
    ordered = sorted(ledger.sessions.items(), key=lambda item: (-item[1]["frames"], item[0]))
    lines = ["by VNI"] if ordered else []
    for session, counts in ordered[:SESSIONS]:
        name = "others" if session == OTHER_SESSIONS else str(session)
        shown = ", ".join(f"{key} {n:,}" for key, n in counts.items() if n)
        lines.append(f"    {name:<10}{shown}")
    if len(ordered) > SESSIONS:
        lines.append(f"    and {len(ordered) - SESSIONS} more")
    return lines


def _line(ledger: Ledger, name: str, indent: int) -> str:
    entry = TABLE[name]
    count = ledger.tally[name]
    mark = "!" if entry.lost and count else " "
    return f"{mark} {' ' * indent + name:<28}{count:>15,} {entry.unit:<12} {entry.meaning}"
