"""The selection of VNIs: the predecessor's meaning, and refusal where it guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.packet.vni import MAX_VNI, VniSelection


@pytest.mark.parametrize(
    ("text", "accepted", "rejected"),
    [
        ("", [0, 1, MAX_VNI], []),
        (" ,\t\n", [0, 1], []),
        ("5", [5], [0, 4, 6]),
        ("1 2,3\n4", [1, 2, 3, 4], [0, 5]),
        ("-2", [0, 1, 3], [2]),
        ("1,-2,3", [0, 1, 3, 4], [2]),  # positive entries beside a negative one are redundant
        ("5,-5", [5, 6], []),  # the first that names it decides
        ("-5,5", [6], [5]),
        ("0", [], [0, 1]),  # 0 names nothing, and alone it rejects everything
        ("0 -7", [0, 1], [7]),
        ("0007", [7], [0]),
        (f"{MAX_VNI},-{MAX_VNI}", [MAX_VNI, 0], []),
    ],
)
def test_the_list_is_walked_in_its_order(text: str, accepted: list[int], rejected: list[int]) -> None:
    selection = VniSelection.parse(text)
    assert [vni for vni in accepted + rejected if selection.selects(vni)] == accepted


@pytest.mark.parametrize(
    "bad", ["x", "1.5", "0x10", "1-2", "--1", "+1", "16777216", "-16777216", "9" * 5000, "\u0661", "1;2"]
)
def test_what_is_no_vni_is_refused_by_name(bad: str) -> None:
    with pytest.raises(ValueError, match="is not a VNI") as refusal:
        VniSelection.parse(f"1, {bad},-3")
    assert repr(bad) in str(refusal.value)


def _predecessor(entries: list[int], vni: int) -> bool:
    """The specification's words, entry by entry."""
    if not entries:
        return True
    default = False
    for entry in entries:
        if entry > 0 and entry == vni:
            return True
        if entry < 0:
            if -entry == vni:
                return False
            default = True
    return default


@given(st.lists(st.integers(-4, 4) | st.integers(-MAX_VNI, MAX_VNI), max_size=8), st.integers(0, 5))
def test_verdicts_are_those_of_the_walk(entries: list[int], vni: int) -> None:
    text = ",".join(map(str, entries))
    assert VniSelection.parse(text).selects(vni) == _predecessor(entries, vni)
