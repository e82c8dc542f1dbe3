"""What is said of the variables that are settings: in the README, and where one is wrong.

Contract: a field of a settings model carries a ``Doc``; ``rows`` has a line for each, with the range that its
constraints give, so that what is documented is what is accepted.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final, NamedTuple

from pydantic.fields import FieldInfo

FAMILY: Final = "SNIFFER_"
OCTETS: Final = "{range}, in octets or with a unit: 4194304, 4096k, 4mb"
SECONDS: Final = "{range} seconds"


@dataclass(frozen=True, slots=True)
class Doc:
    """What the table says of a variable, beside what its field says: default and range."""

    accepts: str  # {range} stands for the field's
    meaning: str
    example: str
    default: str = ""  # where the field's own says nothing to people


class Row(NamedTuple):
    name: str
    default: str
    meaning: str
    accepts: str
    example: str


def rows(fields: dict[str, FieldInfo]) -> list[Row]:
    """Every variable, in the order of its field."""
    out = []
    for field in fields.values():
        doc = next(item for item in field.metadata if isinstance(item, Doc))
        default = doc.default or ("-" if field.default is None else _amount(field.default, doc))
        accepts = doc.accepts.format(range=_range(field.metadata, doc))
        out.append(Row(str(field.alias), default, doc.meaning, accepts, doc.example))
    return out


def _range(metadata: list[object], doc: Doc) -> str:
    """``ge`` and ``le`` of the field's constraints."""
    ends = [getattr(item, name) for name in ("ge", "le") for item in metadata if hasattr(item, name)]
    return " to ".join(_amount(end, doc) for end in ends)


def _amount(number: int | str, doc: Doc) -> str:
    """Octets in the largest unit that leaves no rest."""
    if not isinstance(number, int) or not number or doc.accepts != OCTETS:
        return str(number)
    power = next(n for n in (4, 3, 2, 1, 0) if number % (1 << 10 * n) == 0)
    return f"{number >> 10 * power}{('', ' KiB', ' MiB', ' GiB', ' TiB')[power]}"


def unknown(name: str, known: list[str]) -> str:
    """``name`` is none of ``known``; the one that was probably meant."""
    ours = {one.removeprefix(FAMILY): one for one in known if one.startswith(FAMILY)}
    near = difflib.get_close_matches(name.removeprefix(FAMILY), ours, 1)
    return f"{name}: no such variable" + (f"; did you mean {ours[near[0]]}?" if near else "")
