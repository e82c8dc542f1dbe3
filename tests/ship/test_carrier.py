"""A shipper in a thread: back-pressure and the end."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from appliance.model import Batch
from appliance.ship.carrier import Carrier, Route
from appliance.ship.outside import Outside
from appliance.ship.shipper import ShipperOptions
from appliance.sinks.base import Retry

ONE = Batch(b"x\n", 1, 0)
OUTSIDE = Outside(lambda: 0.0, lambda: 0.0, asyncio.sleep, lambda _: None)


class Gate:
    def __init__(self, *, opened: bool = False) -> None:
        self.opened = threading.Event()
        self.taken = 0
        self.closed = False
        if opened:
            self.opened.set()

    async def send(self, _: Batch) -> None:
        if not self.opened.is_set():
            await asyncio.sleep(0.001)
            raise Retry("closed")
        self.taken += 1

    def hurry(self) -> None:
        """Nothing waits here."""

    async def close(self) -> None:
        self.closed = True


def one(sink: Gate, options: ShipperOptions) -> Carrier:
    return Carrier([Route("x", sink, options, OUTSIDE)])


def test_everything_is_delivered_and_the_sink_is_closed() -> None:
    gate = Gate(opened=True)
    carrier = one(gate, ShipperOptions())
    for _ in range(300):
        carrier.put(ONE)
    assert carrier.finish()["x"]["message_delivered"] == gate.taken == 300
    assert gate.closed


def test_who_puts_waits_while_the_queue_is_full() -> None:
    gate = Gate()
    carrier = one(gate, ShipperOptions(queue=2, in_flight=1))
    done = threading.Event()

    def put() -> None:
        for _ in range(10):
            carrier.put(ONE)
        done.set()

    threading.Thread(target=put).start()
    assert not done.wait(0.1)
    gate.opened.set()
    assert done.wait(10)
    assert carrier.finish()["x"]["message_delivered"] == 10


def test_the_rest_is_given_up_when_it_is_time() -> None:
    carrier = one(Gate(), ShipperOptions())
    carrier.put(ONE)
    answers = iter([False, True])
    counts = carrier.finish(lambda: next(answers))["x"]
    assert (counts["message_undelivered"], counts["message_queued"]) == (1, 0)


def test_a_wait_for_room_is_given_up_when_it_is_time() -> None:
    carrier = one(Gate(), ShipperOptions(queue=1, in_flight=1))
    taken = [carrier.put(ONE, lambda: False) for _ in range(2)]
    answers = iter([False, True])
    assert [*taken, carrier.put(ONE, lambda: next(answers))] == [True, True, False]
    carrier.finish(lambda: True)


def test_who_offers_never_waits_and_what_has_no_room_is_shed() -> None:
    carrier = one(Gate(), ShipperOptions(queue=2, in_flight=1))
    for _ in range(10):
        carrier.offer(ONE)
    counts = carrier.finish(lambda: True)["x"]
    assert counts["message_shed"] + counts["message_undelivered"] == 10
    assert counts["message_undelivered"] <= 3


def test_a_resolver_that_does_not_answer_holds_up_nobody() -> None:
    """getaddrinfo cannot be cancelled; the end of the process must not wait for its thread."""
    stuck = threading.Event()

    class Slow(Gate):
        async def send(self, _: Batch) -> None:
            await asyncio.get_running_loop().run_in_executor(None, stuck.wait)

    carrier = one(Slow(), ShipperOptions())
    carrier.put(ONE)
    assert carrier.finish(lambda: True)["x"]["message_undelivered"] == 1
    assert all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    stuck.set()


def test_what_has_waited_long_enough_goes_without_anybody_putting() -> None:
    """A pipe may be silent for hours while a bundle waits for its second."""
    gate = Gate(opened=True)
    carrier = one(gate, ShipperOptions())
    waiting = [ONE]
    sent = threading.Event()

    def flush() -> Batch | None:
        if not waiting:
            sent.set()
            return None
        return waiting.pop()

    carrier.every(0.001, flush)
    assert sent.wait(10)
    assert carrier.finish()["x"]["message_delivered"] == 1


def test_what_goes_wrong_in_the_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(opened=True)
    carrier = one(gate, ShipperOptions())

    async def broken(_: Batch) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(carrier._shippers["x"], "put", broken)
    with pytest.raises(ZeroDivisionError):
        carrier.put(ONE)
    carrier.finish()


def test_a_sink_that_takes_nothing_holds_up_no_other() -> None:
    shut, opened = Gate(), Gate(opened=True)
    carrier = Carrier(
        [
            Route("shut", shut, ShipperOptions(queue=2, in_flight=1), OUTSIDE),
            Route("open", opened, ShipperOptions(), OUTSIDE),
        ]
    )
    for _ in range(20):
        carrier.offer(ONE)
    until = time.monotonic() + 10
    while carrier.counts()["open"]["message_delivered"] < 20 and time.monotonic() < until:
        time.sleep(0.001)
    counts = carrier.finish(lambda: True)
    assert counts["open"]["message_delivered"] == opened.taken == 20
    assert counts["shut"]["message_shed"] + counts["shut"]["message_undelivered"] == 20
