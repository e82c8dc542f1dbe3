"""The fault table: what may go wrong with sinks, disks and processes, and that nothing is lost unsaid.

After each: messages + restored = delivered + queued + spooled + rejected + shed, and the database holds
exactly what the ledger says.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.world import World
from tests.support.disk import make_read_only, small_disk
from tests.support.s3 import CREDENTIALS, client, objects, s3_server

CALLS = 600


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    one.close()


def test_nothing_is_wrong(world: World) -> None:
    with world.service() as one:
        world.mirror.burst(CALLS)
        one.heard(CALLS)
        counts = one.stop()
    assert counts["delivered"] == CALLS
    world.delivered(counts)
    assert set(world.database.calls) == world.mirror.calls


@pytest.mark.parametrize(
    "fault",
    [
        "fails with 500",
        "is busy",
        "resets in the middle of a body",
        "never answers",
        "answers slowly for ever",
        "is down",
    ],
)
def test_what_a_database_does_not_take_waits_for_the_next_run(world: World, fault: str) -> None:
    """At the start, under load, and at the end; the second run finds it well."""
    world.database.mode = fault
    if fault == "is down":
        world.database.shut()
    with world.service() as one:
        world.mirror.burst(CALLS)
        one.heard(CALLS)
        first = one.stop()
    assert one.process.returncode == 0
    assert (first["delivered"], first["spooled"]) == (0, CALLS)
    world.delivered(first)
    world.database.mode = "takes"
    if fault == "is down":
        world.database.open()
    with world.service(SNIFFER_DRAIN_SECONDS="20") as one:
        world.mirror.burst(100)
        one.heard(100)
        second = one.stop()
    assert (second["restored"], second["delivered"]) == (CALLS, CALLS + 100)
    world.delivered(first, second)
    assert set(world.database.calls) == world.mirror.calls


@pytest.mark.parametrize("fault", ["fails with 500", "is busy", "is down"])
def test_a_database_that_recovers_under_load_gets_all(world: World, fault: str) -> None:
    with world.service(SNIFFER_DRAIN_SECONDS="25") as one:
        world.mirror.burst(CALLS)
        world.database.mode = fault
        if fault == "is down":
            world.database.shut()
        world.mirror.burst(CALLS, 2.0)
        world.database.mode = "takes"
        if fault == "is down":
            world.database.open()
        world.mirror.burst(CALLS)
        one.heard(3 * CALLS)
        counts = one.stop()
    assert counts["delivered"] == 3 * CALLS
    assert set(world.database.calls) == world.mirror.calls


def test_what_the_database_refuses_is_said_and_not_sent_again(world: World) -> None:
    world.database.mode = "finds it too large"
    with world.service() as one:
        world.mirror.burst(CALLS)
        one.heard(CALLS)
        one.until(lambda: one.ledger()["rejected"] == CALLS, "all refused")
        world.database.mode = "takes"
        world.mirror.burst(100)
        one.heard(CALLS + 100)
        counts = one.stop()
    assert (counts["rejected"], counts["delivered"]) == (CALLS, 100)
    assert one.process.returncode == 1
    assert f"{CALLS} not delivered" in one.said().splitlines()[-1]
    world.delivered(counts)
    assert "status 413: refused, not sent again" in one.said()


def test_an_answer_that_is_lost_makes_repeats_and_they_can_be_counted(world: World) -> None:
    """At least once: the database has taken it, and we cannot know."""
    world.database.mode = "takes and resets"
    with world.service(SNIFFER_DRAIN_SECONDS="20") as one:
        world.mirror.burst(CALLS)
        one.heard(CALLS)
        world.database.mode = "takes"
        counts = one.stop()
    assert counts["delivered"] == CALLS
    assert set(world.database.calls) == world.mirror.calls
    twice = sum(n > 1 for n in world.database.calls.values())
    assert 0 < twice <= counts["unsure"]


def test_without_a_spool_what_has_no_room_is_shed_by_name(world: World) -> None:
    world.database.mode = "fails with 500"
    with world.service(SNIFFER_SPOOL_DIR="") as one:
        world.mirror.burst(2 * CALLS)
        one.heard(2 * CALLS)
        counts = one.stop()
    assert one.process.returncode == 1
    assert counts["delivered"] == counts["spooled"] == 0
    assert counts["shed"] > 0
    assert counts["undelivered"] > 0
    assert counts["shed"] + counts["undelivered"] == 2 * CALLS
    assert f"{2 * CALLS} not delivered" in one.said().splitlines()[-1]


def test_beyond_its_maximum_the_spool_sheds_the_oldest(world: World) -> None:
    world.database.mode = "fails with 500"
    with world.service(SNIFFER_SPOOL_MAX="2mb", SNIFFER_WORKERS="1") as one:
        for _ in range(4):
            world.mirror.burst(CALLS)
        one.heard(4 * CALLS)
        first = one.stop()
    assert first["shed"] > 0
    assert first["spooled"] + first["shed"] == 4 * CALLS
    world.database.mode = "takes"
    with world.service(SNIFFER_WORKERS="1", SNIFFER_DRAIN_SECONDS="20") as one:
        one.until(lambda: one.ledger()["delivered"] == first["spooled"], "all sent")
        second = one.stop()
    world.delivered(first, second)


def test_kill_9_of_a_worker_under_load(world: World) -> None:
    world.database.mode = "fails with 500"
    with world.service(SNIFFER_DRAIN_SECONDS="20") as one:
        world.mirror.burst(CALLS)
        one.heard(CALLS)
        time.sleep(1.5)  # a bundle waits for a second at most
        os.kill(one.workers()[0], signal.SIGKILL)
        one.until(lambda: "it starts again" in one.said(), "restart")
        world.database.mode = "takes"
        world.mirror.burst(CALLS)
        one.heard(2 * CALLS)
        counts = one.stop()
    lost = counts["worker_lost"]
    assert counts["delivered"] + lost == 2 * CALLS
    assert set(world.database.calls) <= world.mirror.calls
    assert len(world.database.calls) >= 2 * CALLS - lost
    assert sum(n > 1 for n in world.database.calls.values()) <= counts["unsure"] + counts["restored"]


def test_kill_9_of_the_whole_service_under_load(world: World) -> None:
    world.database.mode = "is busy"
    with world.service() as one:
        world.mirror.burst(CALLS)
        one.heard(CALLS)
        time.sleep(1.5)
        before = one.ledger()
        for pid in [*one.workers(), one.process.pid]:
            os.kill(pid, signal.SIGKILL)
        one.process.wait(10)
    assert before["spooled"] > 0
    world.database.calls.clear()
    world.database.mode = "takes"
    with world.service(SNIFFER_DRAIN_SECONDS="20") as one:
        one.until(lambda: one.ledger()["delivered"] >= before["spooled"], "all of the spool")
        counts = one.stop()
    assert counts["restored"] >= before["spooled"]
    world.delivered(counts)


def test_a_start_right_after_the_supervisor_was_killed_has_the_port(world: World) -> None:
    """Its workers have a dead sink and all the time to drain; what they had is said."""
    world.database.mode = "fails with 500"
    with world.service(SNIFFER_DRAIN_SECONDS="8", SNIFFER_SPOOL_DIR="") as one:
        world.mirror.burst(CALLS)
        one.heard(CALLS)
        workers = one.workers()
        one.process.kill()
        one.process.wait(10)
        with world.service(SNIFFER_SPOOL_DIR="") as other:
            world.database.mode = "takes"
            world.mirror.burst(100)
            other.heard(100)
            assert other.stop()["delivered"] == 100
    end = time.monotonic() + 15
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert one.said().count("the supervisor is gone; ") == len(workers)


def test_a_start_right_after_the_supervisor_was_killed_has_the_spool(world: World) -> None:
    world.database.mode = "fails with 500"
    with world.service() as one:
        world.mirror.burst(CALLS)
        one.heard(CALLS)
        one.process.kill()
        one.process.wait(10)
        with world.service(SNIFFER_DRAIN_SECONDS="20") as other:
            world.database.mode = "takes"
            counts = other.stop()
    assert counts["restored"] + world.database.calls.total() - counts["delivered"] == CALLS
    assert set(world.database.calls) == world.mirror.calls


def test_rules_that_sinks_were_built_by_are_not_changed_under_them(world: World) -> None:
    rules = world.folder / "rules"
    rules.write_text("allow_http_url")
    with world.service(USAGE_LOGGERS_RULES=f"file://{rules}") as one:
        world.mirror.burst(100)
        one.heard(100)
        rules.write_text("/request_body/ remove")
        one.until(lambda: "not reloaded, all stays as it was: the rule allow_http_url" in one.said(), "said")
        rules.write_text("allow_http_url\nskip_submission")
        one.until(lambda: "reloaded: VNIs, ports and rules" in one.said(), "reloaded")
        world.mirror.burst(50)
        one.heard(150)
        rules.unlink()
        os.mkfifo(rules)
        one.until(lambda: "no regular file" in one.said(), "a pipe is not waited for")
        counts = one.stop()
    assert (counts["delivered"], counts["withheld"]) == (100, 50)
    world.delivered(counts)


def test_a_sink_that_is_down_holds_up_no_other(world: World) -> None:
    world.database.shut()
    lake = world.folder / "lake"
    more = {"SNIFFER_SINKS": "resurface,lake", "SNIFFER_LAKE_URL": str(lake)}
    with world.service(**more) as one:
        world.mirror.burst(CALLS)
        one.heard(CALLS)
        first = one.stop()
    assert (first["copied"], first["delivered"], first["spooled"]) == (CALLS, CALLS, CALLS)
    assert read_lake(lake) == world.mirror.calls
    assert f"calls go to resurface, lake in {lake}" in one.said()
    world.database.open()
    with world.service(**more, SNIFFER_DRAIN_SECONDS="20") as one:
        second = one.stop()
    assert (second["restored"], second["delivered"]) == (CALLS, CALLS)
    world.delivered(second)
    assert "by sink" in one.said()


def test_a_lake_has_all_from_a_spool_after_kill_9(world: World) -> None:
    """Rows wait a minute for company; the spool has them meanwhile."""
    lake = world.folder / "lake"
    more = {"SNIFFER_SINKS": "lake", "SNIFFER_LAKE_URL": str(lake)}
    with world.service(**more) as one:
        world.mirror.burst(CALLS)
        one.heard(CALLS)
        one.until(lambda: one.ledger()["spooled"] == CALLS, "all on disk")
        assert read_lake(lake) == set()
        for pid in [*one.workers(), one.process.pid]:
            os.kill(pid, signal.SIGKILL)
        one.process.wait(10)
    with world.service(**more, SNIFFER_DRAIN_SECONDS="20") as one:
        counts = one.stop()
    assert counts["restored"] == counts["delivered"] == CALLS
    assert read_lake(lake) == world.mirror.calls


def test_s3_that_refuses_and_returns(world: World) -> None:
    with s3_server() as url:
        client(url).create_bucket(Bucket="calls")
        more = {"SNIFFER_SINKS": "lake", "SNIFFER_LAKE_URL": "s3://calls/x", "AWS_ENDPOINT_URL": ""}
        refusing = CREDENTIALS | {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}
        with world.service(**more, **refusing, SNIFFER_DRAIN_SECONDS="6") as one:
            world.mirror.burst(CALLS)
            one.heard(CALLS)
            first = one.stop()
        assert (first["delivered"], first["spooled"]) == (0, CALLS)
        assert "will be sent again" in one.said()
        assert "hidden" not in one.said()
        returned = CREDENTIALS | {"AWS_ENDPOINT_URL_S3": url}
        with world.service(**more, **returned, SNIFFER_DRAIN_SECONDS="20") as one:
            second = one.stop()
        assert second["delivered"] == CALLS
        for key, octets in objects(url, "calls").items():
            path = world.folder / "lake" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(octets)
    assert read_lake(world.folder / "lake" / "x") == world.mirror.calls


def test_a_bucket_that_is_made_too_late_gets_all(world: World) -> None:
    with s3_server() as url:
        more = CREDENTIALS | {"AWS_ENDPOINT_URL_S3": url, "AWS_ENDPOINT_URL": ""}
        more |= {"SNIFFER_SINKS": "lake", "SNIFFER_LAKE_URL": "s3://late", "SNIFFER_SPOOL_DIR": ""}
        with world.service(**more, SNIFFER_DRAIN_SECONDS="25") as one:
            world.mirror.burst(CALLS)
            one.heard(CALLS)
            one.process.send_signal(signal.SIGTERM)
            one.until(lambda: "no such bucket: create it" in one.said(), "the cure")
            client(url).create_bucket(Bucket="late")
            one.process.wait(30)
        assert one.counts()["delivered"] == CALLS
        assert objects(url, "late")


def test_a_disk_that_is_full_sheds_by_name_and_capture_goes_on(world: World) -> None:
    """Both the lake and the spool are on it."""
    disk = world.folder / "disk"
    with small_disk(disk, "66m"):  # the spool leaves 64 MiB free
        more = {"SNIFFER_SPOOL_DIR": str(disk / "spool")}
        world.database.mode = "fails with 500"
        with world.service(**more) as one:
            for _ in range(4):
                world.mirror.burst(CALLS)
            one.heard(4 * CALLS)
            assert "the disk is full but for 64 MiB" in one.said()
            world.database.mode = "takes"
            counts = one.stop()
        assert counts["shed"] > 0
        assert counts["worker_lost"] == 0
        world.delivered(counts)


def test_a_lake_on_a_full_disk_waits_and_goes_on_when_there_is_room(world: World) -> None:
    disk = world.folder / "disk"
    with small_disk(disk, "4m"):
        (disk / "others").write_bytes(bytes(3_900_000))
        more = {"SNIFFER_SINKS": "lake", "SNIFFER_LAKE_URL": str(disk / "lake")}
        with world.service(**more, SNIFFER_DRAIN_SECONDS="25") as one:
            world.mirror.burst(CALLS)
            one.heard(CALLS)
            one.process.send_signal(signal.SIGTERM)
            one.until(lambda: "No space left on device: will be sent again" in one.said(), "full")
            (disk / "others").unlink()
            one.process.wait(30)
        assert one.counts()["delivered"] == CALLS
        assert read_lake(disk / "lake") == world.mirror.calls


def test_a_spool_that_cannot_be_written_stops_the_start(world: World) -> None:
    disk = world.folder / "disk"
    with small_disk(disk, "80m"):
        make_read_only(disk)
        refused = pytest.raises(AssertionError, match=r"SNIFFER_SPOOL_DIR: spool .*Read-only file system")
        with refused, world.service(SNIFFER_SPOOL_DIR=str(disk / "spool")):
            """Never."""


@pytest.mark.parametrize("damage", ["not a database", "cut"])
def test_a_damaged_spool_is_set_aside_and_said(world: World, damage: str) -> None:
    world.database.mode = "fails with 500"
    with world.service(SNIFFER_WORKERS="1") as one:
        world.mirror.burst(CALLS)
        one.heard(CALLS)
        one.stop()
    (path,) = (world.folder / "spool").glob("*.db")
    octets = path.read_bytes()
    path.write_bytes(octets[: len(octets) // 3] if damage == "cut" else b"no database at all " * 99)
    world.database.mode = "takes"
    with world.service(SNIFFER_WORKERS="1") as one:
        world.mirror.burst(100)
        one.heard(100)
        counts = one.stop()
    assert "set aside as" in one.said()
    assert counts["delivered"] == 100


def test_a_disk_that_is_full_at_the_start_does_not_stop_it(world: World) -> None:
    disk = world.folder / "disk"
    with small_disk(disk, "2m"):
        (disk / "spool").mkdir()
        with suppress(OSError):
            (disk / "others").write_bytes(bytes(3_000_000))
        with world.service(SNIFFER_SPOOL_DIR=str(disk / "spool")) as one:
            world.mirror.burst(CALLS)
            one.heard(CALLS)
            counts = one.stop()
        assert "calls that resurface does not take are shed" in one.said()
    assert counts["delivered"] == CALLS
    world.delivered(counts)


def test_a_clock_that_is_set_back_loses_nothing(world: World) -> None:
    """By an hour, in the middle: time.time is the process's view of it, the kernel's stamps go on."""
    mark = world.folder / "back"
    (world.folder / "sitecustomize.py").write_text(
        "import os, time\n"
        "now, now_ns = time.time, time.time_ns\n"
        f"back = lambda: 3600 * os.path.exists({str(mark)!r})\n"
        "time.time = lambda: now() - back()\n"
        "time.time_ns = lambda: now_ns() - back() * 10**9\n"
    )
    lake = world.folder / "lake"
    more = {
        "PYTHONPATH": f"{world.folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "SNIFFER_SINKS": "resurface,lake",
        "SNIFFER_LAKE_URL": str(lake),
        "SNIFFER_LAKE_DAYS": "1",
    }
    with world.service(**more, SNIFFER_DRAIN_SECONDS="20") as one:
        world.mirror.burst(CALLS)
        one.heard(CALLS)
        mark.touch()
        world.mirror.burst(CALLS)
        one.heard(2 * CALLS)
        counts = one.stop()
    assert counts["delivered"] == 4 * CALLS
    assert set(world.database.calls) == read_lake(lake) == world.mirror.calls


def read_lake(lake: Path) -> set[str]:
    import duckdb  # noqa: PLC0415  # a third of a second, and only here

    if not list(lake.glob("date=*/hour=*/*.parquet")):
        return set()
    query = "SELECT request_headers['x-request-id'][1] FROM read_parquet(?, hive_partitioning = true)"
    rows = duckdb.connect().execute(query, [f"{lake}/date=*/hour=*/*.parquet"]).fetchall()
    found = {name for (name,) in rows}
    assert len(found) == len(rows), "each once"
    return found
