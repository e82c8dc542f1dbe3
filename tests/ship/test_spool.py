"""Batches on disk: they survive, in order, within their limit, and nobody else reads them."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.model import Batch
from appliance.ship.spool import CHECKPOINT, OVERHEAD, PAGE, Spool, SpoolError, adopt
from tests.support.disk import small_disk


def batch(n: int, size: int = 100) -> Batch:
    return Batch(str(n).encode().rjust(size, b"x"), n, n * 10)


def numbers(spool: Spool) -> list[int]:
    out, after = [], 0
    while (found := spool.first(after)) is not None:
        after = found.number
        out.append(found.batch.count)
    return out


def test_oldest_first_and_nothing_changes_on_the_way(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", 1 << 20)
    for n in (3, 1, 2):
        assert spool.put(batch(n)) == 0
    assert numbers(spool) == [3, 1, 2]
    found = spool.first()
    assert found is not None
    assert found.batch == batch(3)
    spool.remove(found.number)
    assert numbers(spool) == [1, 2]
    assert (spool.calls, spool.octets) == (3, 2 * (100 + OVERHEAD))


def test_it_is_there_after_a_restart(tmp_path: Path) -> None:
    first = Spool(tmp_path / "s.db", 1 << 20)
    first.put(batch(5))
    first.put(batch(6))
    first.close()
    second = Spool(tmp_path / "s.db", 1 << 20)
    assert (second.calls, second.octets, numbers(second)) == (11, 2 * (100 + OVERHEAD), [5, 6])


def test_it_is_there_after_kill_9_in_the_middle_of_a_write(tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        spool = Spool(tmp_path / "s.db", 1 << 30)
        for n in range(1, 20):
            spool.put(batch(n, 50_000))
        spool._database.execute("BEGIN IMMEDIATE")
        spool._database.execute("INSERT INTO batches VALUES (NULL, 99, 0, 10, ?)", (bytes(500_000),))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    spool = Spool(tmp_path / "s.db", 1 << 30)
    assert numbers(spool) == list(range(1, 20))
    assert spool.calls == sum(range(1, 20))


def test_beyond_the_limit_the_oldest_go_and_are_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", 3 * (100 + OVERHEAD))
    assert [spool.put(batch(n)) for n in range(1, 6)] == [0, 0, 0, 1, 2]
    assert numbers(spool) == [3, 4, 5]


def test_a_batch_that_exactly_fits_stays_and_one_octet_more_is_shed_by_itself(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", 1000 + OVERHEAD)
    assert spool.put(batch(7, 1000)) == 0
    assert spool.put(batch(8, 1001)) == 8
    assert numbers(spool) == [7]


@given(st.lists(st.one_of(st.integers(1, 400), st.none()), max_size=30))
def test_calls_put_are_held_removed_or_shed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int | None]
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool") / "s.db", 4 * OVERHEAD)
    put = removed = shed = 0
    for size in steps:
        if size is None:
            found = spool.first()
            if found is not None:
                spool.remove(found.number)
                removed += found.batch.count
        else:
            put += size
            shed += spool.put(batch(size, size))
        assert put == spool.calls + removed + shed
        assert spool.octets <= 4 * OVERHEAD
    assert sum(numbers(spool)) == spool.calls
    spool.close()


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "new" / "s.db", 1 << 20)
    spool.put(batch(1))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "new").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_another_process_cannot_have_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", 1 << 20)
    spool.put(batch(1))
    with pytest.raises(SpoolError, match="in use by another process"):
        Spool(tmp_path / "s.db", 1 << 20)


@pytest.mark.parametrize("content", [b"not a database, but longer than one hundred octets" * 9])
def test_what_is_no_spool_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(content)
    with pytest.raises(SpoolError, match="not a database"):
        Spool(path, 1 << 20)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match=r"Not a directory|File exists"):
        Spool(tmp_path / "file" / "s.db", 1 << 20)


def test_a_full_disk_is_an_error_nothing_has_changed_and_what_is_sent_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.ship.spool.RESERVE", 3 << 20)
    with small_disk(tmp_path / "small", "8m"):
        spool = Spool(tmp_path / "small" / "s.db", 1 << 30)
        taken = fill(spool)
        assert 10 < taken < 400
        assert spool.calls == sum(numbers(spool)) == taken
        while (found := spool.first()) is not None:
            spool.remove(found.number)
        assert fill(spool) > 10
        spool.close()


def fill(spool: Spool) -> int:
    for taken in range(400):
        try:
            spool.put(batch(1, 20_000))
        except SpoolError as error:
            assert "full" in str(error)  # noqa: PT017  # how many there were before it counts
            return taken
    return 400


def test_the_disk_gets_back_what_was_sent(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", 1 << 30)
    for n in range(1, 60):
        spool.put(batch(n, 100_000))
    while (found := spool.first()) is not None:
        spool.remove(found.number)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 300_000


def test_a_query_that_fails_is_a_line_and_no_traceback(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", 1 << 20)
    spool._database.close()
    with pytest.raises(SpoolError, match=r"spool .*closed"):
        spool.first()
    assert issubclass(sqlite3.ProgrammingError, sqlite3.Error)


def test_what_a_worker_left_that_is_no_more_is_for_the_others(tmp_path: Path) -> None:
    gone = Spool(tmp_path / "resurface-worker-7.db", 1 << 20)
    gone.put(batch(4))
    gone.put(batch(5))
    gone.close()
    Spool(tmp_path / "lake-worker-7.db", 1 << 20).close()
    (tmp_path / "resurface-x.db").write_bytes(b"no database at all, and longer than a hundred octets" * 5)
    ours = [Spool(tmp_path / f"resurface-worker-{n}.db", 1 << 20) for n in range(2)]
    lines = adopt(tmp_path, "resurface", ours)
    assert sum(one.calls for one in ours) == 9
    assert not (tmp_path / "resurface-worker-7.db").exists()
    assert (tmp_path / "lake-worker-7.db").exists()
    assert any("9 calls were in resurface-worker-7.db" in line for line in lines)
    assert any("left as it is" in line for line in lines)


def test_what_is_on_its_way_is_not_shed_for_want_of_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", 3 * (100 + OVERHEAD))
    for n in (1, 2, 3):
        spool.put(batch(n))
    first = spool.first()
    assert first is not None
    assert spool.put(batch(4), spare=first.number) == 2
    assert numbers(spool) == [1, 3, 4]
    assert spool.put(batch(5), spare=99) == 5, "all that is there is on its way: the new one goes"
    assert numbers(spool) == [1, 3, 4]
    assert spool.calls == 8


@pytest.mark.parametrize("octets", [1, 5_000, 9_000, 20_000, 33_000, 70_000, 1_000_000])
def test_the_disk_holds_no_more_than_is_charged_and_has_it_back(tmp_path: Path, octets: int) -> None:
    path = tmp_path / "s.db"
    spool = Spool(path, 1 << 30)
    empty = path.stat().st_size
    for n in range(1, 4 + 8_000_000 // (octets + OVERHEAD)):
        spool.put(batch(n, octets))
    spool._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size - empty <= spool.octets + PAGE
    while (found := spool.first()) is not None:
        spool.remove(found.number)
    spool._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size <= empty + (CHECKPOINT + 1) * PAGE
    spool.close()
