"""The ledger: names that are known, identities that hold, and what it says when they do not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance.ledger import IDENTITIES, TABLE, Ledger


def test_empty_ledger_adds_up() -> None:
    assert Ledger().unbalanced() == []


def test_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        Ledger().count("no-such-reason")


def test_counts_add_up_by_name() -> None:
    ledger = Ledger()
    ledger.count("gaps")
    ledger.count("gaps", 4)
    ledger.count("gaps", -2)
    assert ledger.tally["gaps"] == 3
    assert sum(ledger.tally.values()) == 3


def test_identity_that_does_not_hold_is_named_with_both_sums() -> None:
    ledger = Ledger()
    ledger.count("frames", 3)
    ledger.count("segments", 1)
    ledger.count("frame_cut", 1)
    (fault,) = ledger.unbalanced()
    assert fault.startswith("frames = 3, but segments + ")
    assert fault.endswith(" = 2")
    ledger.count("frame_malformed")
    assert ledger.unbalanced() == []


def test_what_is_negative_is_named() -> None:
    ledger = Ledger()
    ledger.count("gaps", -1)
    assert ledger.unbalanced() == ["gaps = -1"]


@pytest.mark.parametrize("number", range(len(IDENTITIES)))
def test_every_reason_of_an_identity_counts(number: int) -> None:
    left, right = IDENTITIES[number]
    for name in right:
        ledger = Ledger()
        ledger.count(left[0])
        ledger.count(name)
        faults = [f for f in ledger.unbalanced() if f.startswith(" + ".join(left) + " = ")]
        assert faults == [], name


def test_identities_use_names_of_the_table_in_one_unit() -> None:
    for left, right in IDENTITIES:
        names = left + right
        assert len(names) == len(set(names))
        assert {TABLE[name].unit for name in names} == {TABLE[left[0]].unit}


def test_every_name_that_the_code_counts_is_in_the_table(root: Path) -> None:
    for path in (root / "appliance").rglob("*.py"):
        text = path.read_text()
        found = re.findall(r'(?:count\(|tally\[)"([a-z0-9_]+)"[],)]', text)
        assert [name for name in found if name not in TABLE] == [], path


def test_every_reason_for_a_loss_of_octets_or_frames_is_in_an_identity() -> None:
    """What is lost has a place in the sums; the others say what is missing, or count twice by intent."""
    summed = {name for left, right in IDENTITIES for name in left + right}
    besides = {
        "gaps",
        "gap_bytes",
        "gap_acked_bytes",
        "gap_truncated_bytes",
        "kind_tls",
        "kind_http2",
        "exchange_incomplete",
        "exchange_evicted",
        "exchange_worker_lost",
        "http_event_late",
        "rule_timeouts",
        "lake_shed_calls",
    }
    assert {name for name, entry in TABLE.items() if entry.lost} - summed == besides
