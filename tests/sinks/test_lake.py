"""The lake as its readers see it: whole files, all calls, each once."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import duckdb
import orjson
import pytest

from appliance.lake import files as lake_files
from appliance.model import Batch
from appliance.sinks.base import Retry, SinkOptions
from appliance.sinks.lake import Lake
from tests.support.disk import small_disk
from tests.support.s3 import CREDENTIALS, UNWANTED, client, objects, s3_server

NOW = 1_700_000_000_000


def batch(*ids: int, now: int = NOW, padding: int = 0) -> Batch:
    lines = [
        orjson.dumps(
            [
                ("request_method", "GET"),
                ("request_url", f"http://h/{i}"),
                ("request_body", os.urandom(padding).hex()),
                ("now", str(now)),
            ]
        )
        for i in ids
    ]
    return Batch(b"".join(line + b"\n" for line in lines), len(lines), 0)


def paths(lake: Path) -> list[str]:
    query = f"SELECT path FROM read_parquet('{lake}/**/*.parquet', hive_partitioning=true)"  # noqa: S608
    try:
        return sorted(path for (path,) in duckdb.connect().execute(query).fetchall())
    except duckdb.IOException as error:
        if "No files found" in str(error):
            return []
        raise


def with_lake(lake: Path | str, work: Callable[[Lake], Awaitable[object]], **options: object) -> Lake:
    async def run() -> Lake:
        together = int(str(options.pop("together", 64)))
        sink = Lake(SinkOptions(lake_url=str(lake), **options), together=together)  # type: ignore[arg-type]
        try:
            await work(sink)
        finally:
            await sink.close()
        return sink

    return asyncio.run(run())


def test_rows_are_there_when_send_returns(tmp_path: Path) -> None:
    async def work(sink: Lake) -> None:
        await sink.send(batch(1, 2))
        assert paths(tmp_path) == ["/1", "/2"]

    sink = with_lake(tmp_path, work, together=1)
    assert sink.counts()["lake_files"] == 1


def test_folders_are_the_calls_own_hours(tmp_path: Path) -> None:
    async def work(sink: Lake) -> None:
        await asyncio.gather(sink.send(batch(1)), sink.send(batch(2, now=NOW + 3_600_000)))

    with_lake(tmp_path, work, together=2)
    found = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("*.parquet")}
    assert found == {"date=2023-11-14/hour=22", "date=2023-11-14/hour=23"}


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({"together": 4}, 1),
        ({"together": 100, "roll_size": 1}, 4),
        ({"together": 100, "roll_age": 0.2}, 1),
    ],
)
def test_batches_share_a_file_until_it_is_due(tmp_path: Path, options: dict[str, object], files: int) -> None:
    async def work(sink: Lake) -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*[sink.send(batch(i)) for i in range(4)])

    sink = with_lake(tmp_path, work, **options)
    assert sink.counts()["lake_files"] == files
    assert len(paths(tmp_path)) == 4


def test_hurry_writes_what_waits(tmp_path: Path) -> None:
    async def work(sink: Lake) -> None:
        sending = asyncio.create_task(sink.send(batch(1)))
        await asyncio.sleep(0.05)
        assert not sending.done()
        sink.hurry()
        await asyncio.wait_for(sending, 10)

    with_lake(tmp_path, work, together=100)
    assert paths(tmp_path) == ["/1"]


def test_cancelled_send_leaves_the_others(tmp_path: Path) -> None:
    async def work(sink: Lake) -> None:
        first, second = (asyncio.create_task(sink.send(batch(i))) for i in (1, 2))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        sink.hurry()
        await second

    with_lake(tmp_path, work, together=100)
    assert paths(tmp_path) == ["/2"]


def test_files_are_their_owners_and_groups_only(tmp_path: Path) -> None:
    with_lake(tmp_path, lambda sink: sink.send(batch(1)), together=1)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not path.stat().st_mode & 0o007


def test_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """Globbing all the time while files are written: every one opens, and no call is there twice."""
    over = threading.Event()
    faults: list[str] = []
    reads = []

    def read() -> None:
        while not over.is_set():
            try:
                found = paths(tmp_path)
            except duckdb.Error as error:
                faults.append(str(error))
            else:
                reads.append(len(found))
                if len(found) != len(set(found)):
                    faults.append("twice")

    reader = threading.Thread(target=read)
    reader.start()

    async def work(sink: Lake) -> None:
        for i in range(60):
            await sink.send(batch(*range(i * 10, i * 10 + 10), padding=2000))

    try:
        with_lake(tmp_path, work, together=1)
    finally:
        over.set()
        reader.join()
    assert faults == []
    assert len(reads) > 2
    assert len(paths(tmp_path)) == 600


def test_full_disk_sheds_the_oldest_hours_and_goes_on(tmp_path: Path) -> None:
    said: list[str] = []

    async def work(sink: Lake) -> None:
        for i in range(40):
            await sink.send(batch(i, now=NOW + i * 3_600_000, padding=200_000))

    with small_disk(tmp_path / "disk", "4m"):
        sink = with_lake(tmp_path / "disk", work, together=1, say=said.append)
        left = paths(tmp_path / "disk")
        usage = os.statvfs(tmp_path / "disk")
        assert usage.f_bavail >= usage.f_blocks // 20
    assert len(said) > 10
    assert sink.counts()["lake_shed_calls"] + len(left) == 40
    assert "/39" in left
    assert "/0" not in left
    assert said[0].startswith("date=2023-11-14/hour=22 shed, the disk is full: 1 calls, 1 files")


def test_disk_that_others_fill_is_to_be_tried_again(tmp_path: Path) -> None:
    """The hour being written is never shed; nothing half is left."""
    with small_disk(tmp_path / "disk", "1m"):
        (tmp_path / "disk" / "foreign").write_bytes(bytes(900_000))
        with pytest.raises(Retry, match="No space left on device"):
            with_lake(tmp_path / "disk", lambda sink: sink.send(batch(1, padding=300_000)), together=1)
        assert paths(tmp_path / "disk") == []
        (tmp_path / "disk" / "foreign").unlink()
        with_lake(tmp_path / "disk", lambda sink: sink.send(batch(1, padding=100)), together=1)
        assert paths(tmp_path / "disk") == ["/1"]


def test_failure_half_way_takes_back_what_was_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours, the second cannot be placed: sent again, each call is there once."""
    original = lake_files.sync_folder
    failures = iter([True])

    def fail(path: Path) -> None:
        if path.name == "hour=23" and next(failures, False):
            raise OSError(5, "Input/output error")
        original(path)

    monkeypatch.setattr(lake_files, "sync_folder", fail)

    async def work(sink: Lake) -> None:
        one = Batch(batch(1).payload + batch(2, now=NOW + 3_600_000).payload, 2, 0)
        with pytest.raises(Retry, match="Input/output error"):
            await sink.send(one)
        assert paths(tmp_path) == []
        await sink.send(one)

    with_lake(tmp_path, work, together=1)
    assert paths(tmp_path) == ["/1", "/2"]


def test_folder_that_is_a_file_is_told_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("")
    with pytest.raises(Retry) as retry:
        with_lake(tmp_path / "secret", lambda sink: sink.send(batch(1)), together=1)
    assert "secret" not in retry.value.reason


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_server() as url:
        for name in UNWANTED:
            monkeypatch.delenv(name, raising=False)
        for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL_S3": url}).items():
            monkeypatch.setenv(name, value)
        yield url


@pytest.mark.parametrize("padding", [0, 6_000_000])
def test_s3_has_the_rows_when_send_returns(s3: str, tmp_path: Path, padding: int) -> None:
    """In one put, or in parts."""
    name = f"calls-{padding}"  # moto's buckets are the process's
    client(s3).create_bucket(Bucket=name)

    async def work(sink: Lake) -> None:
        await sink.send(batch(1, 2, padding=padding))
        found = objects(s3, name)
        assert [key.rpartition("/")[0] for key in found] == ["a/b/date=2023-11-14/hour=22"]
        (tmp_path / "x.parquet").write_bytes(*found.values())
        assert paths(tmp_path) == ["/1", "/2"]

    with_lake(f"s3://{name}/a/b/", work, together=1)


@pytest.mark.usefixtures("s3")
def test_bucket_that_is_not_there_is_named_with_the_cure() -> None:
    with pytest.raises(Retry, match="no such bucket: create it, or mend SNIFFER_LAKE_URL"):
        with_lake("s3://nowhere/x", lambda sink: sink.send(batch(1)), together=1)


def test_s3_that_refuses_and_returns(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client(s3).create_bucket(Bucket="returning")

    async def down(sink: Lake) -> None:
        with pytest.raises(Retry) as retry:
            await sink.send(batch(1))
        assert "hidden" not in retry.value.reason
        assert "AKIA" not in retry.value.reason

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with_lake("s3://returning", down, together=1)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3)
    with_lake("s3://returning", lambda sink: sink.send(batch(1)), together=1)
    assert len(objects(s3, "returning")) == 1


def test_loop_is_free_while_files_are_written(tmp_path: Path) -> None:
    longest = 0.0

    async def work(sink: Lake) -> None:
        nonlocal longest
        sending = asyncio.create_task(sink.send(batch(*range(4000), padding=1000)))
        while not sending.done():
            begin = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - begin)

    with_lake(tmp_path, work, together=1)
    assert longest < 0.5


def test_what_is_too_old_goes_also_where_no_call_comes(tmp_path: Path) -> None:
    with_lake(tmp_path, lambda sink: sink.send(batch(1)), together=1)
    assert paths(tmp_path) == ["/1"]

    async def work(sink: Lake) -> None:
        sink.begin()
        until = time.monotonic() + 10
        while paths(tmp_path) and time.monotonic() < until:  # noqa: ASYNC110  # a reader has no event
            await asyncio.sleep(0.01)

    with_lake(tmp_path, work, lake_days=30)
    assert paths(tmp_path) == []


def test_what_one_file_has_no_room_for_waits_its_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what is left of the file's before: while one is written, more comes than the next one takes."""
    publish = Lake._publish

    def slow(self: Lake, payloads: list[bytes]) -> None:
        time.sleep(0.8)
        publish(self, payloads)

    monkeypatch.setattr(Lake, "_publish", slow)

    async def work(sink: Lake) -> None:
        begin = time.monotonic()
        sending = []
        for at, number, padding in ((0, 1, 5000), (0.1, 2, 3000), (0.7, 3, 3000), (0.7, 4, 0), (1.8, 5, 0)):
            await asyncio.sleep(max(begin + at - time.monotonic(), 0))
            sending.append(asyncio.create_task(sink.send(batch(number, padding=padding))))
        await asyncio.gather(*sending)

    sink = with_lake(tmp_path, work, roll_size=8000, roll_age=1.6)
    assert paths(tmp_path) == ["/1", "/2", "/3", "/4", "/5"]
    assert sink.counts()["lake_files"] == 3, "the first; the second and third; the last two"
