"""Ctrl-C between two items, in a read that waits, and twice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from appliance.interrupt import Interrupts


def send(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    signal.getsignal(number)  # Python has run the handler by now


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_on_an_item_is_not_interrupted(number: signal.Signals) -> None:
    done = []
    with Interrupts() as interrupts:
        for item in interrupts.until([1, 2, 3]):
            if item == 2:
                send(number)
            done.append(item)
    assert done == [1, 2]
    assert interrupts.requested


def test_a_read_that_waits_is_given_up() -> None:
    closed = []

    def source() -> Iterator[int]:
        try:
            yield 1
            send()
            yield 2
        finally:
            closed.append(True)

    with Interrupts() as interrupts:
        assert list(interrupts.until(source())) == [1]
    assert interrupts.requested
    assert closed


def test_the_second_request_is_at_once() -> None:
    with Interrupts() as interrupts:
        send()
        with pytest.raises(KeyboardInterrupt):
            send()
    assert interrupts.requested


def test_without_request_all_items_come() -> None:
    with Interrupts() as interrupts:
        assert list(interrupts.until(iter("abc"))) == ["a", "b", "c"]
    assert not interrupts.requested


def test_an_error_of_the_source_comes_through() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("from the source")

    with Interrupts() as interrupts, pytest.raises(ValueError, match="from the source"):
        list(interrupts.until(source()))


def test_the_handlers_from_before_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            send()
        assert not interrupts.requested
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_changed() -> None:
    seen: list[object] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGINT)
        with Interrupts() as interrupts:
            seen.extend(interrupts.until([1]))
            seen.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1, True]
