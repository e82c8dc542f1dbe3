"""A shipper in a thread: back-pressure and the end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from appliance.model import Batch
from appliance.ship.carrier import Carrier
from appliance.ship.shipper import Outside, ShipperOptions
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

    async def close(self) -> None:
        self.closed = True


def test_everything_is_delivered_and_the_sink_is_closed() -> None:
    gate = Gate(opened=True)
    carrier = Carrier(gate, ShipperOptions(), OUTSIDE)
    for _ in range(300):
        carrier.put(ONE)
    assert carrier.finish(None)["message_delivered"] == gate.taken == 300
    assert gate.closed


def test_who_puts_waits_while_the_queue_is_full() -> None:
    gate = Gate()
    carrier = Carrier(gate, ShipperOptions(queue=2, in_flight=1), OUTSIDE)
    done = threading.Event()

    def put() -> None:
        for _ in range(10):
            carrier.put(ONE)
        done.set()

    threading.Thread(target=put).start()
    assert not done.wait(0.1)
    gate.opened.set()
    assert done.wait(10)
    assert carrier.finish(None)["message_delivered"] == 10


def test_time_for_the_rest_is_limited() -> None:
    carrier = Carrier(Gate(), ShipperOptions(), OUTSIDE)
    carrier.put(ONE)
    counts = carrier.finish(0.02)
    assert (counts["message_undelivered"], counts["message_queued"]) == (1, 0)


def test_what_goes_wrong_in_the_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(opened=True)
    carrier = Carrier(gate, ShipperOptions(), OUTSIDE)

    async def broken(_: Batch) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(carrier._shipper, "put", broken)
    with pytest.raises(ZeroDivisionError):
        carrier.put(ONE)
    carrier.finish(None)
