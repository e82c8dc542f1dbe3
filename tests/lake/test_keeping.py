"""Merging and shedding: each call once whatever crashes when, and within bounds."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from appliance.lake import merge as merging
from appliance.lake.files import Files, Turn, encode, folder
from appliance.lake.merge import SETTLED, SMALL, Merge
from appliance.lake.retention import Bounds, Retention
from appliance.lake.rows import Rows

HOUR = 472_222  # 2023-11-14T22
NAME = "date=2023-11-14/hour=22"
LATER = (HOUR + 1000) * 3600.0


def put(files: Files, *ids: int, hour: int = HOUR, padding: int = 0, age: float = SETTLED) -> None:
    for i in ids:
        message = [
            ("request_url", f"http://h/{i}"),
            ("now", str(hour * 3_600_000)),
            ("x", os.urandom(padding).hex()),
        ]
        name = f"h-{os.getpid()}-00000000-{i:06d}.parquet"
        files.publish([(folder(hour), name, encode(Rows().table(orjson.dumps(message))))])
        os.utime(files.root / folder(hour) / name, (LATER - age, LATER - age))


def found(root: Path, glob: str = "**/*.parquet") -> list[int]:
    query = f"SELECT path FROM read_parquet('{root}/{glob}', hive_partitioning=true)"  # noqa: S608
    rows = duckdb.connect().execute(query).fetchall()
    return sorted(int(path[1:]) for (path,) in rows)


def count(root: Path) -> int:
    return len(list(root.glob("date=*/hour=*/*.parquet")))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, 0)


def test_small_files_become_one(files: Files) -> None:
    put(files, *range(5))
    merge = Merge(files, "m")
    merge.all(LATER)
    assert (count(files.root), found(files.root)) == (1, [0, 1, 2, 3, 4])
    assert merge.counts == {"lake_merged_files": 5}
    merge.all(LATER + SETTLED * 2)
    assert merge.counts == {"lake_merged_files": 5}  # nothing left to do


def test_hour_that_is_not_settled_stays(files: Files) -> None:
    put(files, 1, age=SETTLED)
    put(files, 2, age=SETTLED - 1)
    Merge(files, "m").all(LATER)
    assert count(files.root) == 2


def test_hour_of_the_clock_stays(files: Files) -> None:
    put(files, 1, 2, age=1e6)
    Merge(files, "m").all(HOUR * 3600.0 + 3599)
    assert count(files.root) == 2


def largest(files: Files) -> Path:
    return files.root / NAME / max(files.hour(NAME).files, key=lambda file: file[1])[0]


def test_large_file_stays_as_it_is(files: Files) -> None:
    put(files, 1, 2)
    put(files, 3, padding=SMALL + 1000)
    inode = largest(files).stat().st_ino
    Merge(files, "m").all(LATER)
    assert (count(files.root), found(files.root)) == (2, [1, 2, 3])
    assert largest(files).stat().st_ino == inode, "it is not written again"


def test_file_that_comes_during_a_merge_stays(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    put(files, 1, 2)
    write = Merge._write

    def meanwhile(self: Merge, hidden: Path, inputs: list[Path]) -> None:
        write(self, hidden, inputs)
        put(files, 3)

    monkeypatch.setattr(Merge, "_write", meanwhile)
    Merge(files, "m").all(LATER)
    assert found(files.root) == [1, 2, 3]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_crash_around_the_exchange_loses_and_doubles_nothing(
    files: Files, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A process that dies leaves what is there; a child that ends at once does so without any cleaning."""
    put(files, 1, 2, 3)
    real = merging.exchange

    def die(one: Path, other: Path) -> None:
        if moment == "after":
            real(one, other)
        os._exit(9)

    child = os.fork()
    if not child:
        monkeypatch.setattr(merging, "exchange", die)
        Merge(files, "m").all(LATER)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert found(files.root, "date=*/hour=*/*.parquet") == [1, 2, 3]
    with files.turn(Turn.KEEPER, wait=False):  # the dead hold no lock
        files.sweep()
    assert found(files.root) == [1, 2, 3]
    assert not list(files.root.glob(".merge*"))
    Merge(files, "n").all(LATER)
    assert (count(files.root), found(files.root)) == (1, [1, 2, 3])


@pytest.mark.parametrize(
    ("glob", "allowed"),
    [
        ("date=*/hour=*/*.parquet", ("No such file", "No files found")),
        ("**/*.parquet", ("No such file", "No files found", "Hive partition mismatch")),
    ],
)
def test_reader_sees_each_call_once_during_merges(files: Files, glob: str, allowed: tuple[str, ...]) -> None:
    """Or is told that the folder has changed under it; never a wrong number."""
    over = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not over.is_set():
            try:
                numbers = found(files.root, glob)
            except duckdb.Error as error:
                if not any(words in str(error) for words in allowed):
                    wrong.append(error)
            else:
                if numbers != list(range(8)):
                    wrong.append(numbers)

    put(files, *range(7))
    put(files, 7, padding=SMALL + 1000)  # which stays
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for i in range(30):
            files.sweep()
            Merge(files, f"m{i}").one(files.hour(NAME))
    finally:
        over.set()
        reader.join()
    assert wrong == []


def test_no_name_of_the_old_folder_is_in_the_new_one(files: Files) -> None:
    """Who has listed half of the old one must not find another half in the new."""
    put(files, 1, 2)
    put(files, 3, padding=SMALL + 1000)
    before = {path.name for path in (files.root / NAME).iterdir()}
    Merge(files, "m").all(LATER)
    after = {path.name for path in (files.root / NAME).iterdir()}
    assert (len(before), len(after)) == (3, 2)
    assert not before & after
    assert found(files.root, "date=*/hour=*/*.parquet") == [1, 2, 3]


def test_file_system_that_cannot_exchange_keeps_its_files(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Path) -> None:
        raise OSError(22, "Invalid argument")

    put(files, 1, 2)
    monkeypatch.setattr(merging, "exchange", fail)
    with pytest.raises(OSError, match="Invalid argument"):
        Merge(files, "m").all(LATER)
    assert found(files.root) == [1, 2]
    assert not list(files.root.glob(".merge*"))


def test_damaged_file_leaves_its_hour_and_not_the_others(files: Files) -> None:
    put(files, 1, 2)
    put(files, 3, 4, hour=HOUR + 1)
    bad = files.root / NAME / "bad.parquet"
    bad.write_bytes(b"PAR1")
    os.utime(bad, (LATER - SETTLED, LATER - SETTLED))
    Merge(files, "m").all(LATER)
    assert count(files.root) == 4


def test_oldest_hours_go_first_for_size(files: Files) -> None:
    said: list[str] = []
    for hour in range(6):
        put(files, hour, hour=HOUR + hour, padding=50_000)
    most = sum(hour.octets for hour in files.hours()[-3:])
    retention = Retention(files, Bounds(octets=most), said.append)
    retention.keep(LATER)
    assert found(files.root) == [3, 4, 5]
    assert retention.counts["lake_shed_calls"] == 3
    assert [words.split()[0] for words in said] == [
        NAME,
        "date=2023-11-14/hour=23",
        "date=2023-11-15/hour=00",
    ]


def test_newest_hour_never_goes_for_size(files: Files) -> None:
    put(files, 1, padding=1000)
    Retention(files, Bounds(octets=1), print).keep(LATER)
    assert found(files.root) == [1]


def test_hours_go_by_age(files: Files) -> None:
    put(files, 1, hour=HOUR)
    put(files, 2, hour=HOUR + 1)
    retention = Retention(files, Bounds(days=2), print)
    retention.keep((HOUR + 48) * 3600.0)
    assert found(files.root) == [1, 2]
    retention.keep((HOUR + 49) * 3600.0)
    assert found(files.root) == [2]


def test_what_is_written_counts_towards_the_size_at_once(files: Files) -> None:
    for hour in range(4):
        put(files, hour, hour=HOUR + hour, padding=50_000)
    total = sum(hour.octets for hour in files.hours())
    retention = Retention(files, Bounds(octets=total), print)
    retention.keep(LATER)
    put(files, 9, hour=HOUR + 3)
    retention.wrote(5000, {folder(HOUR + 3)})
    assert found(files.root) == [1, 2, 3, 9]


def test_foreign_files_and_folders_are_left_alone(files: Files) -> None:
    (files.root / "date=x" / "hour=22").mkdir(parents=True)
    (files.root / "notes.txt").write_text("mine")
    put(files, 1, 2)
    Retention(files, Bounds(octets=1, days=1), print).keep(LATER)
    files.sweep()
    assert (files.root / "date=x" / "hour=22").is_dir()
    assert (files.root / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("damage", ["other columns", "more columns", "no thrift", "cut"])
def test_a_file_that_is_not_ours_leaves_its_hour_as_it_is_and_holds_up_no_other(
    files: Files, damage: str
) -> None:
    put(files, 1, 2)
    put(files, 3, 4, hour=HOUR + 1)
    folder_ = files.root / NAME
    good = next(folder_.glob("*.parquet")).read_bytes()
    strange = {
        "other columns": lambda: written(pa.table({"a": [1]})),
        "more columns": lambda: written(pq.read_table(pa.BufferReader(good)).append_column("b", [["x"]])),
        "no thrift": lambda: good[:-600] + bytes(592) + good[-8:],
        "cut": lambda: good[: len(good) // 2],
    }[damage]()
    (folder_ / "strange-1.parquet").write_bytes(strange)
    os.utime(folder_ / "strange-1.parquet", (LATER - SETTLED, LATER - SETTLED))
    merge = Merge(files, "m")
    merge.all(LATER)
    merge.all(LATER)
    assert len(list(folder_.glob("*.parquet"))) == 3
    assert len(list((files.root / "date=2023-11-14/hour=23").glob("*.parquet"))) == 1
    assert not list(files.root.glob(".merge*hour=22*"))


def written(table: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(table, out)
    return bytes(out.getvalue())


def test_an_hour_that_cannot_be_deleted_is_said_once_and_holds_up_no_other(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        put(files, i, hour=HOUR + i)
    remove = Files.remove

    def refuses(self: Files, name: str) -> Path:
        if name == NAME:
            raise PermissionError(13, "Permission denied")
        return remove(self, name)

    monkeypatch.setattr(Files, "remove", refuses)
    said: list[str] = []
    retention = Retention(files, Bounds(octets=1), said.append)
    for _ in range(3):
        retention.wrote(1, set())
    assert [hour.name for hour in files.hours()] == [NAME, "date=2023-11-15/hour=01"]
    assert sum("cannot be deleted: Permission denied" in line for line in said) == 1
    assert retention.counts["lake_shed_calls"] == 2


def test_the_hour_of_now_is_not_shed_though_a_later_one_is_there(files: Files) -> None:
    """A sender's clock is ahead."""
    for i, hour in enumerate((HOUR - 1, HOUR, HOUR + 900)):
        put(files, i, hour=hour)
    Retention(files, Bounds(octets=1), lambda _: None).keep(HOUR * 3600.0 + 5)
    assert found(files.root) == [1, 2]
