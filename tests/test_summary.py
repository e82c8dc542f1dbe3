"""The ledger as text."""

from __future__ import annotations

from appliance.ledger import TABLE, Ledger
from appliance.summary import render


def test_an_empty_ledger_adds_up() -> None:
    first, last = render(Ledger()).splitlines()  # stages that nothing came to say nothing
    assert first.split()[:2] == ["frames", "0"]
    assert last == "the ledger adds up"


def test_what_is_not_zero_is_shown_under_its_sum_with_unit_and_meaning() -> None:
    ledger = Ledger()
    ledger.count("frames", 1234567)
    ledger.count("segments", 1234560)
    ledger.count("frame_cut", 7)
    text = render(ledger)
    first, second, third = (line.split(maxsplit=3) for line in text.splitlines()[:3])
    assert first == ["frames", "1,234,567", "frames", TABLE["frames"].meaning]
    assert second[:2] == ["segments", "1,234,560"]
    assert third[:3] == ["!", "frame_cut", "7"]  # the user may have wanted it
    assert "frame_malformed" not in text


def test_entries_outside_the_sums_follow_them() -> None:
    ledger = Ledger()
    ledger.count("gaps", 2)
    lines = render(ledger).splitlines()
    assert lines[-3] == "of these, or beside them"
    assert lines[-2].split()[:3] == ["!", "gaps", "2"]


def test_a_sum_that_fails_is_said() -> None:
    ledger = Ledger()
    ledger.count("frames")
    text = render(ledger)
    assert "does not add up: frames = 1, but segments + " in text
    assert "the ledger adds up" not in text


def test_every_entry_can_be_shown() -> None:
    ledger = Ledger()
    for name in TABLE:
        ledger.count(name)
    text = render(ledger)
    for name in TABLE:
        assert f" {name} " in text


def test_mirror_sessions_are_shown_with_the_busiest_first() -> None:
    ledger = Ledger()
    for vni, frames in ((5, 1), (123, 40)):
        ledger.count("frames", frames, vni)
        ledger.count("frame_not_ip", frames)
    ledger.at(456, "frame_vni_not_selected", 2)
    shown = render(ledger).partition("by VNI\n")[2].splitlines()
    assert [line.split(None, 1) for line in shown[:3]] == [
        ["123", "frames 40"],
        ["5", "frames 1"],
        ["456", "frame_vni_not_selected 2"],
    ]


def test_of_very_many_mirror_sessions_some_are_shown() -> None:
    ledger = Ledger()
    for vni in range(1, 3000):
        ledger.at(vni, "frames")
    shown = render(ledger)
    assert "others" in shown
    assert "more" in shown
    assert len(shown.splitlines()) < 120


def test_sinks_are_told_apart_where_there_are_several() -> None:
    ledger = Ledger()
    ledger.count("calls", 2)
    ledger.count("messages", 2)
    ledger.sink("lake")["message_delivered"] = 2
    ledger.count("message_delivered", 2)
    assert "by sink" not in render(ledger)
    ledger.count("message_copied", 2)
    ledger.sink("resurface")["message_spooled"] = 2
    ledger.count("message_spooled", 2)
    shown = render(ledger).partition("by sink\n")[2].splitlines()
    assert [line.split(None, 1) for line in shown] == [
        ["lake", "message_delivered 2"],
        ["resurface", "message_spooled 2"],
        ["the", "ledger adds up"],
    ]
