"""Ledgers in shared memory: what a killed worker leaves adds up, and what it held is lost by name."""

from __future__ import annotations

import os
import signal

from appliance.board import Board, add, bury
from appliance.ledger import BY_SESSION, BY_SINK, MAX_SESSIONS, OTHER_SESSIONS, Ledger


def ledger(**counts: int) -> Ledger:
    one = Ledger()
    for name, n in counts.items():
        one.count(name, n)
    return one


def test_what_is_published_is_read() -> None:
    part = Board(2).parts[1]
    one = ledger(frames=3, segments=3)
    one.at(123, "frames", 3)
    part.publish(one, 0)
    part.publish_sessions(one)
    found = part.read()
    assert found.tally == one.tally
    assert found.sessions == one.sessions
    assert part.sessions() == [(123, True)]
    one.at(456, "frame_vni_not_selected", 2)
    one.at(456, "frames", 2)
    part.publish_sessions(one)
    assert part.sessions() == [(123, True), (456, False)]


def test_places_do_not_touch_each_other() -> None:
    board = Board(3)
    for n, part in enumerate(board.parts):
        part.publish(ledger(frames=n), n)
        part.beat(n)
    assert [part.read().tally["frames"] for part in board.parts] == [0, 1, 2]
    assert [(part.held(), part.last_beat()) for part in board.parts] == [(0, 0), (1, 1), (2, 2)]


def test_another_process_reads_what_a_killed_one_wrote() -> None:
    board = Board(1)
    pid = os.fork()
    if not pid:
        board.parts[0].publish(ledger(frames=7, segments=7), 0)
        board.parts[0].hold(5)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    found = bury(board.parts[0])
    assert (found.tally["frames"], found.tally["frame_worker_lost"]) == (12, 5)
    assert board.parts[0].read().tally["frames"] == 0  # free for the next


def test_a_worker_that_dies_while_it_writes_leaves_the_tally_before() -> None:
    part = Board(1).parts[0]
    part.publish(ledger(frames=7, segments=7), 2)
    numbers = part._numbers
    turn = numbers[0]
    part.publish(ledger(frames=9, segments=8), 0)  # it got as far as this, but for the turn
    numbers[0] = turn
    assert part.read().tally["frames"] == 7
    assert part.held() == 2


def test_what_a_dead_worker_held_is_lost_by_name_and_the_sums_hold() -> None:
    part = Board(1).parts[0]
    one = ledger(
        frames=10, segments=9, fragment_held=1, flows=2, flow_open=2, segment_bytes=100, stream_bytes=60,
        segment_held_bytes=40, http_head_bytes=30, http_held_bytes=20, probe_held_bytes=10, exchange_open=3,
        calls=4, messages=4, message_queued=3, message_delivered=1,
    )  # fmt: skip
    assert one.unbalanced() == []
    part.publish(one, 6)
    found = bury(part)
    assert found.unbalanced() == []
    assert {name: n for name, n in found.tally.items() if "worker_lost" in name} == {
        "frame_worker_lost": 7,
        "segment_worker_lost_bytes": 40,
        "flow_worker_lost": 2,
        "http_worker_lost_bytes": 30,
        "exchange_worker_lost": 3,
        "message_worker_lost": 3,
    }


def test_more_sessions_than_there_are_rows_share_one() -> None:
    one = Ledger()
    for vni in range(MAX_SESSIONS + 50):
        one.at(vni, "frames")
    assert len(one.sessions) == MAX_SESSIONS + 1
    assert one.sessions[OTHER_SESSIONS]["frames"] == 50
    part = Board(1).parts[0]
    part.publish(one, 0)
    part.publish_sessions(one)
    assert part.read().sessions == one.sessions


def test_ledgers_are_added_entry_by_entry() -> None:
    total, one = ledger(frames=1), ledger(frames=2)
    one.at(5, "gaps", 3)
    add(total, one)
    add(total, one)
    assert total.tally["frames"] == 5
    assert total.sessions[5] == dict.fromkeys(BY_SESSION, 0) | {"gaps": 6}


def shipped(**rows: dict[str, int]) -> Ledger:
    """Ten messages, and what became of them at each sink."""
    one = ledger(calls=10, messages=10, message_copied=10 * (len(rows) - 1))
    for sink, counts in rows.items():
        for name, n in counts.items():
            one.sink(sink)[f"message_{name}"] = n
            one.count(f"message_{name}", n)
    assert one.unbalanced() == []
    return one


def test_every_sink_has_its_own_row() -> None:
    part = Board(1, ("a", "b")).parts[0]
    one = shipped(a={"delivered": 10}, b={"delivered": 3, "queued": 7})
    part.publish(one, 4)
    assert part.read().sinks == one.sinks
    assert part.read().unbalanced() == []
    assert part.held() == 4
    total = Ledger()
    add(total, part.read())
    add(total, part.read())
    assert total.sinks["b"] == dict.fromkeys(BY_SINK, 0) | {"message_delivered": 6, "message_queued": 14}
    assert total.unbalanced() == []


def test_a_sum_of_one_sink_that_fails_is_said() -> None:
    one = shipped(a={"delivered": 10}, b={"delivered": 10})
    one.sink("a")["message_delivered"] -= 1
    one.sink("b")["message_delivered"] += 1
    assert len(one.unbalanced()) == 2
    assert one.unbalanced()[0].startswith("a: ")


def test_a_dead_worker_takes_its_queues_with_it_and_leaves_its_spools() -> None:
    part = Board(1, ("a", "b")).parts[0]
    part.publish(shipped(a={"delivered": 4, "queued": 6}, b={"spooled": 9, "queued": 1}), 0)
    found = bury(part, again=True)
    assert found.unbalanced() == []
    assert found.sinks["a"]["message_worker_lost"] == 6
    assert found.sinks["b"]["message_worker_lost"] == 1
    assert found.sinks["b"]["message_handed_over"] == 9, "the next worker restores them"
