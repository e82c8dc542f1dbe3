"""The short form of ``make soak``: too short for memory to settle, long enough for files and threads."""

from __future__ import annotations

from pathlib import Path

from tests.faults.soak import run


def test_half_a_minute_of_a_database_that_fails_at_random(tmp_path: Path) -> None:
    assert run(tmp_path, 30.0, 200, 1, memory=False) == []
