"""Writes what the documentation takes from the code (``make docs``); ``--check`` only compares.

docs/ledger.md from appliance/ledger.py, docs/flaws.md from appliance/flaws.py, and the README's table of
settings from appliance/settings.py. tests/test_docs.py fails where they differ.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from appliance.flaws import EXCHANGE_FLAWS, MESSAGE_FLAWS
from appliance.ledger import IDENTITIES, TABLE
from appliance.settings import ELSEWHERE, table

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- settings -->"
END = "<!-- /settings -->"

LEDGER = """\
# The ledger

<!-- Written by `make docs`; change appliance/ledger.py instead. -->

Everything that comes in, and everything that is let go, is counted once under one of these names.
`appliance replay --summary` prints those that are not zero. *Lost*, `!` in the summary, marks what
you may have wanted and did not get.

{names}

## What must add up

At any moment, not only at the end. If one of these ever fails, `appliance replay` says which and
ends with 3.

{sums}
"""

FLAWS = """\
# Flaws

<!-- Written by `make docs`; change appliance/flaws.py instead. -->

What may be wrong with a call. A flaw is `name` or `name:octets`.

## Of a request or a response

With `request-` or `response-` in front: `response-gap:1448`.

{message}

## Of the call

{call}
"""


def pages() -> dict[Path, str]:
    """Each generated file and what it must hold."""
    readme = ROOT / "README.md"
    return {
        ROOT / "docs" / "ledger.md": ledger(),
        ROOT / "docs" / "flaws.md": flaws(),
        readme: with_settings(readme.read_text()),
    }


def ledger() -> str:
    rows = [(f"`{name}`", one.unit, "yes" if one.lost else "", one.meaning) for name, one in TABLE.items()]
    sums = [f"    {' + '.join(left)}\n        = {_terms(right)}" for left, right in IDENTITIES]
    return LEDGER.format(names=_markdown(("name", "unit", "lost", "meaning"), rows), sums="\n\n".join(sums))


def _terms(names: Sequence[str]) -> str:
    """Four a line."""
    lines = [" + ".join(names[n : n + 4]) for n in range(0, len(names), 4)]
    return "\n        + ".join(lines)


def flaws() -> str:
    head = ("flaw", "meaning")
    message = [(f"`{name}`", text) for name, text in MESSAGE_FLAWS.items()]
    call = [(f"`{name}`", text) for name, text in EXCHANGE_FLAWS.items()]
    return FLAWS.format(message=_markdown(head, message), call=_markdown(head, call))


def with_settings(readme: str) -> str:
    """The README with the table of settings as the code has it."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md lacks {BEGIN} ... {END}")
    rows = [
        (f"`{row.name}`", row.default, f"{row.meaning} Accepts {row.accepts}.", f"`{row.example}`")
        for row in table()
    ]
    lines = _markdown(("variable", "default", "meaning", "example"), rows)
    others = ", ".join(f"`{name}`" for name in ELSEWHERE)
    return f"{before}{BEGIN}\n{lines}\n\nAccepted, no effect on `replay`: {others}.\n{END}{after}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main(arguments: list[str]) -> int:
    stale = {path: text for path, text in pages().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        print(path.relative_to(ROOT), "differs from the code" if arguments else "written")
        if not arguments:
            path.write_text(text)
    return 1 if stale and arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
