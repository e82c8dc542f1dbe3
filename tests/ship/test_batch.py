"""Lines become batches by size and by time, each once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.model import Batch
from appliance.ship.batch import Batcher


@given(
    st.lists(st.tuples(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), st.integers(0, 5))),
    st.integers(1, 60),
    st.integers(1, 10),
)
def test_every_line_comes_out_once_and_in_order(lines: list[tuple[bytes, int]], size: int, wait: int) -> None:
    one = Batcher(size, wait)
    out: list[Batch] = []
    now = 0
    for line, pause in lines:
        now += pause
        batches = [one.tick(now), one.add(line, now)]
        out += [batch for batch in batches if batch is not None]
    last = one.flush()
    out += [last] if last is not None else []
    assert b"".join(batch.payload for batch in out) == b"".join(line + b"\n" for line, _ in lines)
    assert sum(batch.count for batch in out) == len(lines)
    assert all(batch.payload and batch.payload.count(b"\n") == batch.count for batch in out)
    assert all(len(batch.payload) < size + 32 for batch in out)


def test_batch_closes_when_its_size_is_reached() -> None:
    one = Batcher(8, 10)
    assert one.add(b"abc", 1) is None
    assert one.add(b"def", 2) == Batch(b"abc\ndef\n", 2, 1)
    assert one.add(b"x" * 100, 3) == Batch(b"x" * 100 + b"\n", 1, 3)


def test_batch_closes_when_its_first_line_has_waited() -> None:
    one = Batcher(1000, 10)
    assert one.tick(99) is None
    one.add(b"a", 5)
    one.add(b"b", 14)
    assert one.tick(14) is None
    assert one.tick(15) == Batch(b"a\nb\n", 2, 5)
    assert one.tick(99) is None
    assert one.flush() is None
