"""The ledger as text for people: each identity as a sum, and whether it holds."""

from __future__ import annotations

from appliance.ledger import IDENTITIES, TABLE, Ledger


def render(ledger: Ledger) -> str:
    """Non-zero entries only; ``!`` marks what the user may have wanted and did not get."""
    shown: set[str] = set()
    lines: list[str] = []
    for left, right in IDENTITIES:
        if lines and not any(ledger.tally[name] for name in left + right):
            continue  # a stage that was not asked for
        lines += [_line(ledger, name, 0) for name in left]
        lines += [_line(ledger, name, 2) for name in right if ledger.tally[name]]
        shown.update(left, right)
    rest = [name for name, n in ledger.tally.items() if n and name not in shown]
    if rest:
        lines.append("of these, or beside them")
        lines += [_line(ledger, name, 2) for name in rest]
    faults = ledger.unbalanced()
    lines += [f"does not add up: {fault}" for fault in faults] or ["the ledger adds up"]
    return "\n".join(lines) + "\n"


def _line(ledger: Ledger, name: str, indent: int) -> str:
    entry = TABLE[name]
    count = ledger.tally[name]
    mark = "!" if entry.lost and count else " "
    return f"{mark} {' ' * indent + name:<28}{count:>15,} {entry.unit:<12} {entry.meaning}"
