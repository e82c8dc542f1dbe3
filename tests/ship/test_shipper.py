"""A queue before a sink that fails: nothing is lost on the way, and who waits how long."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.model import Batch
from appliance.ship.backlog import Backlog
from appliance.ship.outside import QUIET, Outside, Reports
from appliance.ship.shipper import COUNTS, LAST, LONGEST, Shipper, ShipperOptions
from appliance.ship.spool import OVERHEAD, Spool, SpoolError
from appliance.sinks.base import Reject, Retry

Outcome = Exception | None


class Sink:
    """Answers with what it is told, then takes everything."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes
        self.taken: list[Batch] = []
        self.open: asyncio.Event | None = None
        self.hurried = False

    async def send(self, batch: Batch) -> None:
        if self.open is not None:
            await self.open.wait()
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is not None:
            raise outcome
        self.taken.append(batch)

    def hurry(self) -> None:
        self.hurried = True

    async def close(self) -> None:
        """Nothing to close."""


def options(limits: dict[str, int]) -> ShipperOptions:
    ahead = bool(limits.pop("ahead", False))
    return ShipperOptions(**limits, ahead=ahead)


class World:
    def __init__(
        self, outcomes: list[Outcome], dice: Callable[[], float] = lambda: 1.0, **limits: int
    ) -> None:
        self.sink = Sink(outcomes)
        self.slept: list[float] = []
        self.said: list[str] = []
        self.now = 0.0
        outside = Outside(lambda: self.now, dice, self.sleep, self.said.append)
        self.shipper = Shipper(self.sink, options(limits), outside)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def ship(self, batches: list[Batch], seconds: float | None = None) -> dict[str, int]:
        async def work() -> None:
            self.shipper.start()
            for batch in batches:
                await self.shipper.put(batch)
                assert self.taken_is_accounted_for(batches)
            if seconds is None and batches:  # the end shortens the waits
                await until(lambda: not self.sink.outcomes or not self.shipper.counts["message_queued"])
            await self.shipper.drain(seconds)

        asyncio.run(work())
        return {name: n for name, n in self.shipper.counts.items() if n and name.startswith("message")}

    def taken_is_accounted_for(self, batches: list[Batch]) -> bool:
        counts = self.shipper.counts
        names = ("message_delivered", "message_rejected", "message_queued", "message_undelivered")
        return sum(counts[name] for name in names) <= sum(batch.count for batch in batches)


def batch(n: int = 1) -> Batch:
    return Batch(b"x\n" * n, n, 0)


def test_batches_are_delivered() -> None:
    world = World([])
    assert world.ship([batch(2), batch(3)]) == {"message_delivered": 5}
    assert (world.shipper.counts["uploads"], world.shipper.counts["upload_bytes"]) == (2, 10)


def test_what_may_go_better_is_sent_again_after_a_wait_that_doubles() -> None:
    world = World([Retry("status 503")] * 9, in_flight=1)
    assert world.ship([batch()]) == {"message_delivered": 1}
    assert world.slept == [1, 2, 4, 8, 16, 32, LONGEST, LONGEST, LONGEST]
    assert world.shipper.counts["upload_retries"] == 9


def test_many_appliances_do_not_come_back_at_once() -> None:
    world = World([Retry("x")] * 3, dice=lambda: 0.25, in_flight=1)
    world.ship([batch()])
    assert world.slept == [0.25, 0.5, 1.0]


def test_wait_that_the_server_asks_for_counts_if_it_is_longer() -> None:
    world = World([Retry("status 429", 120.0), Retry("status 429", 0.5)], in_flight=1)
    world.ship([batch()])
    assert world.slept == [120.0, 2.0]


def test_what_never_goes_better_is_refused_once() -> None:
    world = World([Reject("status 404")])
    assert world.ship([batch(3), batch()]) == {"message_delivered": 1, "message_rejected": 3}
    assert world.said == ["status 404: refused, not sent again"]


def test_defect_of_a_sink_is_named_and_loses_nothing() -> None:
    world = World([ZeroDivisionError("payload")], in_flight=1)
    assert world.ship([batch()]) == {"message_delivered": 1}
    assert world.said == ["defect: ZeroDivisionError: will be sent again"]


def test_what_is_not_sent_in_time_is_counted() -> None:
    async def never(_: float) -> None:
        await asyncio.Event().wait()

    world = World([Retry("x")] * 2, in_flight=1)
    world.shipper._outside = Outside(lambda: 0.0, lambda: 1.0, never, world.said.append)
    assert world.ship([batch(2), batch(3)], seconds=0.0) == {"message_undelivered": 5}


def test_put_waits_for_room() -> None:
    async def work() -> None:
        world = World([], queue=1, in_flight=1)
        world.sink.open = asyncio.Event()
        world.shipper.start()
        await world.shipper.put(batch())
        await asyncio.sleep(0)  # the worker takes it
        await world.shipper.put(batch())
        waiting = asyncio.ensure_future(world.shipper.put(batch(7)))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert world.shipper.counts["message_queued"] == 9
        world.sink.open.set()
        await world.shipper.drain(None)
        assert world.shipper.counts["message_delivered"] == 2
        assert world.shipper.counts["message_undelivered"] == 7

    asyncio.run(work())


@given(
    st.lists(st.sampled_from([None, Retry("a"), Retry("b", 3.0), Reject("c"), ValueError()]), max_size=12),
    st.lists(st.integers(1, 5), max_size=8),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_every_call_is_delivered_or_rejected(
    outcomes: list[Outcome], sizes: list[int], queue: int, in_flight: int
) -> None:
    world = World(list(outcomes), queue=queue, in_flight=in_flight)
    counts = world.ship([batch(n) for n in sizes])
    assert sum(counts.values()) == sum(sizes)
    assert counts.keys() <= {"message_delivered", "message_rejected"}
    assert sum(b.count for b in world.sink.taken) == counts.get("message_delivered", 0)


def test_one_reason_is_said_at_once_and_then_once_a_minute() -> None:
    said: list[str] = []
    now = [0.0]

    async def sleep(_: float) -> None:
        """Not here."""

    reports = Reports(Outside(lambda: now[0], lambda: 0.0, sleep, said.append))
    for _ in range(3):
        reports.add("status 404")
    reports.add("status 500")
    now[0] = QUIET
    reports.add("status 404")
    reports.add("status 404")
    reports.flush()
    assert said == ["status 404", "status 500", "status 404 (3 times)", "status 404"]


def test_a_log_that_cannot_be_written_stops_no_delivery() -> None:
    def broken(_: str) -> None:
        raise BrokenPipeError

    async def work() -> dict[str, int]:
        outside = Outside(lambda: 0.0, lambda: 0.0, asyncio.sleep, broken)
        shipper = Shipper(
            Sink([Retry("status 503"), Reject("status 400")]), ShipperOptions(in_flight=1), outside
        )
        shipper.start()
        for _ in range(3):
            await shipper.put(batch())
        await shipper.drain(5)
        return shipper.counts

    counts = asyncio.run(work())
    assert (counts["message_delivered"], counts["message_rejected"], counts["message_undelivered"]) == (
        2,
        1,
        0,
    )


def test_queue_is_bounded_in_octets_too() -> None:
    async def work() -> dict[str, int]:
        shipper = Shipper(Sink([]), ShipperOptions(octets=10), World([]).shipper._outside)
        for size in (11, 1, 4, 4):  # one larger than the bound waits alone; nobody takes from the queue yet
            shipper.offer(Batch(b"x" * size, 1, 0))
        return dict(shipper.counts)

    counts = asyncio.run(work())
    assert (counts["message_queued"], counts["message_shed"]) == (1, 3)


# -- with a spool


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("never came")


def spooled(
    folder: Path, outcomes: list[Outcome], work: Callable[[Shipper, Sink], Awaitable[None]], **limits: int
) -> dict[str, int]:
    """Run ``work`` on a shipper with a spool; its counts."""

    async def run() -> dict[str, int]:
        sink = Sink(outcomes)
        sink.open = asyncio.Event()
        spool = Spool(folder / "s.db", 1 << 20)
        outside = Outside(lambda: 0.0, lambda: 0.0, asyncio.sleep, lambda _: None)
        shipper = Shipper(sink, options(limits), outside, spool)
        shipper.start()
        await work(shipper, sink)
        spool.close()
        shown = [name for name in COUNTS if name.startswith("message") and name != "message_unsure"]
        return {name: shipper.counts[name] for name in shown if shipper.counts[name]}

    return asyncio.run(run())


def test_what_has_no_room_waits_on_disk_and_is_sent_when_there_is(tmp_path: Path) -> None:
    async def work(shipper: Shipper, sink: Sink) -> None:
        for n in range(1, 11):
            shipper.offer(batch(n))
        await until(lambda: not (shipper.counts["message_spooled"] < 10))
        assert sink.open is not None
        sink.open.set()
        await until(lambda: not (shipper.counts["message_delivered"] < 55))
        await shipper.drain(None)
        assert sorted(one.count for one in sink.taken) == list(range(1, 11))

    assert spooled(tmp_path, [], work, queue=2, in_flight=1) == {"message_delivered": 55}


def test_what_is_left_at_the_end_is_on_disk_for_the_next(tmp_path: Path) -> None:
    async def ends(shipper: Shipper, _: Sink) -> None:
        for n in range(1, 6):
            shipper.offer(batch(n))
        await asyncio.sleep(0.01)
        await shipper.drain(0.0)

    assert spooled(tmp_path, [], ends, queue=8, in_flight=2) == {"message_spooled": 15}

    async def goes_on(shipper: Shipper, sink: Sink) -> None:
        assert shipper.counts["message_restored"] == 15
        assert sink.open is not None
        sink.open.set()
        await until(lambda: not (shipper.counts["message_delivered"] < 15))
        await shipper.drain(None)

    counts = spooled(tmp_path, [Retry("status 503")] * 3, goes_on)
    assert counts == {"message_restored": 15, "message_delivered": 15}


def test_what_never_goes_better_leaves_the_disk_too(tmp_path: Path) -> None:
    async def ends(shipper: Shipper, _: Sink) -> None:
        shipper.offer(batch(3))
        await shipper.drain(0.0)

    spooled(tmp_path, [], ends)

    async def refused(shipper: Shipper, sink: Sink) -> None:
        assert sink.open is not None
        sink.open.set()
        await until(lambda: not (shipper.counts["message_spooled"]))
        await shipper.drain(None)

    assert spooled(tmp_path, [Reject("status 400")], refused) == {
        "message_restored": 3,
        "message_rejected": 3,
    }


def test_a_disk_that_fails_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> int:
        raise SpoolError("spool: the disk is full")

    monkeypatch.setattr(Spool, "put", fails)

    async def work(shipper: Shipper, _: Sink) -> None:
        for _n in range(5):
            shipper.offer(batch(1))
        await asyncio.sleep(0.05)
        await shipper.drain(0.0)

    counts = spooled(tmp_path, [], work, queue=2, in_flight=1)
    assert sum(counts.values()) == 5
    assert set(counts) == {"message_shed", "message_undelivered"}


def test_what_a_sink_keeps_long_is_on_disk_meanwhile(tmp_path: Path) -> None:
    """A lake lets batches wait for each other: a crash must not take them."""

    async def work(shipper: Shipper, sink: Sink) -> None:
        for n in (1, 2, 3):
            shipper.offer(batch(n))
        await until(lambda: shipper.counts["message_spooled"] == 6)
        with sqlite3.connect(tmp_path / "copy.db") as copy:
            assert shipper._backlog is not None
            shipper._backlog._spool._database.backup(copy)
            assert copy.execute("SELECT total(calls) FROM batches").fetchone() == (6.0,)
        copy.close()
        assert sink.open is not None
        sink.open.set()
        await shipper.drain(None)
        assert sink.hurried

    assert spooled(tmp_path, [], work, ahead=1) == {"message_delivered": 6}
    assert Spool(tmp_path / "s.db", 1 << 20).calls == 0


def test_ahead_of_a_disk_that_fails_the_queue_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> int:
        raise SpoolError("spool: the disk is full")

    monkeypatch.setattr(Spool, "put", fails)

    async def work(shipper: Shipper, sink: Sink) -> None:
        assert sink.open is not None
        sink.open.set()
        for _n in range(5):
            shipper.offer(batch(1))
        await shipper.drain(None)

    assert spooled(tmp_path, [], work, ahead=1) == {"message_delivered": 5}


def test_what_comes_when_there_is_no_time_left_goes_to_the_disk(tmp_path: Path) -> None:
    async def work(shipper: Shipper, _: Sink) -> None:
        for n in (1, 2, 4):
            shipper.leave(batch(n))
        waiting = asyncio.ensure_future(shipper.put(batch(8)))
        await asyncio.sleep(0)
        waiting.cancel()
        await shipper.drain(0.0)
        await shipper.drain(0.0)  # once more changes nothing

    assert spooled(tmp_path, [], work, queue=1, in_flight=1) == {"message_spooled": 15}


def test_a_spool_is_emptied_by_several_sends_at_a_time_and_each_batch_once(tmp_path: Path) -> None:
    async def ends(shipper: Shipper, _: Sink) -> None:
        for n in range(1, 31):
            shipper.leave(batch(n))
        await shipper.drain(0.0)

    spooled(tmp_path, [], ends)
    most = 0

    async def goes_on(shipper: Shipper, sink: Sink) -> None:
        nonlocal most
        under_way = 0
        taken = sink.send

        async def send(one: Batch) -> None:
            nonlocal most, under_way
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.002)
            await taken(one)
            under_way -= 1

        sink.send = send  # type: ignore[assignment, method-assign]
        assert sink.open is not None
        sink.open.set()
        await shipper.drain(None)
        assert sorted(one.count for one in sink.taken) == list(range(1, 31))

    assert spooled(tmp_path, [], goes_on, in_flight=4)["message_delivered"] == 465
    assert most == 4


def test_no_more_is_under_way_than_allowed(tmp_path: Path) -> None:
    async def work(shipper: Shipper, sink: Sink) -> None:
        for _n in range(20):
            shipper.offer(batch(50))  # 100 octets
        await asyncio.sleep(0.05)
        assert shipper._under_way == 300, "reached with the third"
        assert sink.open is not None
        sink.open.set()
        await shipper.drain(None)

    assert spooled(tmp_path, [], work, in_flight=16, sending=250) == {"message_delivered": 1000}


def test_what_was_sent_is_removed_as_soon_as_the_disk_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ends(shipper: Shipper, _: Sink) -> None:
        shipper.leave(batch(3))
        await shipper.drain(0.0)

    spooled(tmp_path, [], ends)
    refusals = 3
    remove = Spool.remove

    def sometimes(self: Spool, number: int) -> int:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise SpoolError("spool: database or disk is full", sqlite3.SQLITE_FULL)
        return remove(self, number)

    monkeypatch.setattr(Spool, "remove", sometimes)
    monkeypatch.setattr("appliance.ship.shipper.AGAIN", 0.001)

    async def work(shipper: Shipper, sink: Sink) -> None:
        assert sink.open is not None
        sink.open.set()
        await until(lambda: not shipper.counts["message_spooled"])
        await shipper.drain(None)
        assert len(sink.taken) == 1, "and not sent again"

    assert spooled(tmp_path, [], work) == {"message_restored": 3, "message_delivered": 3}


def test_what_is_handed_out_while_another_waits_for_the_disk_is_not_shed(tmp_path: Path) -> None:
    async def run() -> None:
        spool = Spool(tmp_path / "s.db", 2 * (1000 + OVERHEAD))
        backlog = Backlog(spool)
        for n in (1, 2):
            await backlog.keep(Batch(b"x" * 1000, n, 0))
        handing, keeping = (
            asyncio.ensure_future(backlog.next()),
            asyncio.ensure_future(backlog.keep(Batch(b"y" * 1000, 4, 0))),
        )
        found = await handing
        assert (found.batch.count, await keeping) == (1, 2), "the one that waits goes, not the one on its way"
        await backlog.done(found)
        assert spool.calls == 4
        spool.close()

    asyncio.run(run())


def test_a_sink_that_keeps_long_does_not_make_a_small_spool_shed(tmp_path: Path) -> None:
    """What has no room on the disk waits in the queue, as without a spool."""

    async def work(shipper: Shipper, sink: Sink) -> None:
        for _n in range(6):
            shipper.offer(Batch(b"x" * 400_000, 1, 0))  # of 1 MiB
        await until(lambda: shipper.counts["message_spooled"] == 2)
        assert shipper.counts["message_shed"] == 0
        assert sink.open is not None
        sink.open.set()
        await shipper.drain(None)

    assert spooled(tmp_path, [], work, ahead=1) == {"message_delivered": 6}


def test_what_is_sent_and_cannot_be_removed_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ends(shipper: Shipper, _: Sink) -> None:
        shipper.leave(batch(3))
        await shipper.drain(0.0)

    spooled(tmp_path, [], ends)

    def fails(*_: object) -> int:
        raise SpoolError("spool: input/output error")

    monkeypatch.setattr(Spool, "remove", fails)

    async def work(shipper: Shipper, sink: Sink) -> None:
        assert sink.open is not None
        sink.open.set()
        await shipper.drain(None)
        assert len(sink.taken) == 1

    assert spooled(tmp_path, [], work) == {"message_restored": 3, "message_spooled": 3}


def test_a_minute_of_failing_under_load_loses_nothing(tmp_path: Path) -> None:
    """Virtual time: a batch a second, three minutes; the sink fails in the second of them."""

    async def run() -> dict[str, int]:
        now = 0.0

        class Failing(Sink):
            async def send(self, one: Batch) -> None:
                if 60 <= now < 120:
                    raise Retry("status 503")
                self.taken.append(one)

        async def sleep(seconds: float) -> None:
            end = now + seconds
            while now < end:  # noqa: ASYNC110  # the time is ours
                await asyncio.sleep(0)

        sink, spool = Failing([]), Spool(tmp_path / "s.db", 1 << 20)
        outside = Outside(lambda: now, lambda: 0.5, sleep, lambda _: None)
        shipper = Shipper(sink, ShipperOptions(queue=8), outside, spool)
        shipper.start()
        for n in range(180):
            now = float(n)
            shipper.offer(batch(1))
            for _ in range(20):
                await asyncio.sleep(0)
        ending = asyncio.ensure_future(shipper.drain(None))
        while not ending.done():
            now += 1.0
            await asyncio.sleep(0.001)
        spool.close()
        assert len(sink.taken) == 180
        return {name: n for name, n in shipper.counts.items() if n and name.startswith("message")}

    assert asyncio.run(run()) == {"message_delivered": 180}


def test_at_the_end_nobody_waits_a_minute_for_what_may_be_well_by_now() -> None:
    async def run() -> list[float]:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            await asyncio.sleep(0 if len(slept) != 7 else 3600)

        sink = Sink([Retry("status 503")] * 9)
        shipper = Shipper(
            sink, ShipperOptions(in_flight=1), Outside(lambda: 0.0, lambda: 1.0, sleep, lambda _: None)
        )
        shipper.start()
        await shipper.put(batch())
        await until(lambda: len(slept) == 7)
        await asyncio.wait_for(shipper.drain(None), 10)
        assert len(sink.taken) == 1
        return slept

    assert asyncio.run(run()) == [1, 2, 4, 8, 16, 32, LONGEST, LAST, LAST]


def test_a_send_that_is_cancelled_leaves_the_spool_to_nobody_else_before_its_thread_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[str] = []
    first = Spool.first

    def slow(self: Spool, after: int = 0) -> object:
        inside.append("begins")
        time.sleep(0.05)
        found = first(self, after)
        inside.append("is done")
        return found

    monkeypatch.setattr(Spool, "first", slow)

    async def work(shipper: Shipper, _: Sink) -> None:
        await until(lambda: bool(inside))
        await shipper.drain(0.0)
        assert inside == ["begins", "is done"]

    assert spooled(tmp_path, [], work, in_flight=1) == {}


def test_calls_that_may_be_there_twice_are_counted_once() -> None:
    outcomes: list[Outcome] = [Retry("reset", unsure=True), Retry("status 503"), Retry("x", unsure=True)]
    world = World(outcomes, in_flight=1)
    assert world.ship([batch(2), batch(3)]) == {"message_delivered": 5, "message_unsure": 2}


def test_a_send_that_is_cut_off_at_the_end_may_have_arrived() -> None:
    async def run() -> dict[str, int]:
        world = World([], in_flight=1)
        world.sink.open = asyncio.Event()
        world.shipper.start()
        await world.shipper.put(batch(2))
        await world.shipper.put(batch(3))
        await asyncio.sleep(0.01)
        await world.shipper.drain(0.0)
        return {name: n for name, n in world.shipper.counts.items() if n and name.startswith("message")}

    assert asyncio.run(run()) == {"message_undelivered": 5, "message_unsure": 2}
