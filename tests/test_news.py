"""What the log says of the traffic: each thing once."""

from __future__ import annotations

import pytest

from appliance.ledger import OTHER_SESSIONS, Ledger
from appliance.news import NAMED, News, farewell


def test_losses_are_told_by_name_and_once() -> None:
    said: list[str] = []
    news, total = News(said.append), Ledger()
    total.count("frames", 9)
    total.count("frame_kernel_dropped", 7)
    news.losses(total)
    news.losses(total)
    total.count("frame_kernel_dropped", 1)
    news.losses(total)
    assert [line.partition(" (")[0] for line in said] == ["lost: 7 frames", "lost: 1 frames"]


def test_a_loss_names_the_mirror_sessions_that_it_hit_most() -> None:
    said: list[str] = []
    news, total = News(said.append), Ledger()
    total.count("gap_acked_bytes", 100, 123)
    total.count("gap_acked_bytes", 900, 124)
    news.losses(total)
    total.count("gap_acked_bytes", 7, 123)
    news.losses(total)
    assert [line.rpartition("; ")[2] for line in said] == ["VNI 124: 900, 123: 100", "VNI 123: 7"]


def test_a_session_that_is_refused_is_a_stranger_until_it_is_selected() -> None:
    """The kernel does not select where the list is long, or has no program for it."""
    said: list[str] = []
    news = News(said.append)
    for selected in (False, False, True, True):
        news.sessions([(456, selected)])
    news.selected_anew()
    news.stranger(456)
    assert said == [
        "VNI 456 arrives and is not selected (SNIFFER_MIRROR_VNIS)",
        "VNI 456: the first frames have come",
        "VNI 456 arrives and is not selected (SNIFFER_MIRROR_VNIS)",
    ]


@pytest.mark.parametrize("selected", [True, False])
def test_no_more_are_named_than_a_log_can_bear(selected: bool) -> None:
    said: list[str] = []
    News(said.append).sessions((vni, selected) for vni in (OTHER_SESSIONS, *range(2 * NAMED)))
    assert len(said) == NAMED


def test_the_last_line_tells_sinks_apart() -> None:
    total = Ledger()
    for sink, name, n in (
        ("a", "message_delivered", 5),
        ("b", "message_spooled", 4),
        ("b", "message_shed", 1),
    ):
        total.sink(sink)[name] = n
        total.count(name, n)
    end = farewell(total).partition("0 calls, ")[2]
    first = "a: 5 delivered, 0 in the spool, 0 not delivered"
    assert end == f"{first}; b: 0 delivered, 4 in the spool, 1 not delivered"
    del total.sinks["b"]
    assert farewell(total).endswith("0 calls, 5 delivered, 4 in the spool, 1 not delivered")
