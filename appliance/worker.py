"""One process's share of the traffic, from its source to its sink.

Contract: frames are read before all else; the tally is published after every batch, and before it how many
frames are in hand, so that whoever survives knows what died. Orders come as lines of JSON by ``control``:
``select`` (other VNIs, ports and rules from the next batch on), ``stop`` (nothing comes any more: read what
is left, finish, send, within ``seconds``). Its end is an order to stop: the supervisor is gone.

No stage waits for a sink. The clock is asked once a batch.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from appliance.board import Part
from appliance.ledger import Ledger
from appliance.pipeline import Pipeline
from appliance.sources.base import Source
from appliance.uploads import Uploads

TICK: Final = 0.1  # seconds between two looks at what waits, and at orders
FEW: Final = 64  # frames; after so few, others are waited for: a turn for each costs a fifth more (40,000/s)
GATHER: Final = 0.001  # seconds; the kernel holds, and has the time of, what arrives meanwhile
DONE: Final = b"."  # what a worker answers when it has selected anew
RESERVE: Final = 0.25  # of the time for the end that is kept for sending
_ORDERS: Final = 1 << 20  # octets read of the control socket at once


class Obey(Protocol):
    def __call__(self, order: dict[str, Any], /) -> None: ...


class Worker:
    def __init__(  # noqa: PLR0913  # the parts
        self,
        source: Source,
        pipeline: Pipeline,
        uploads: Uploads,
        ledger: Ledger,
        part: Part,
        control: socket.socket,
        reselect: Obey,
        patience: float,
    ) -> None:
        """``patience``: seconds for the end when the supervisor is gone."""
        self._source = source
        self._pipeline = pipeline
        self._uploads = uploads
        self._ledger = ledger
        self._part = part
        self._control = control
        self._reselect = reselect
        self.was_left_alone = False
        self._patience = patience
        self._orders = b""
        self._seen = 0.0  # when orders were last looked for
        self._seconds = 0.0
        self._until: float | None = None  # when everything has to be over
        control.setblocking(False)

    def is_over(self) -> bool:
        """Whether the time for the end is over."""
        return self._until is not None and time.monotonic() >= self._until

    def run(self) -> None:
        source = self._source
        source.attend(self._part.hold)
        poll = select.poll()
        for fileno in (*source.filenos(), self._control.fileno()):
            poll.register(fileno, select.POLLIN)
        self._uploads.begin()
        quiet = False
        while True:
            frames = source.read()
            if frames:  # common case
                for exchange in self._pipeline.feed(frames):
                    self._uploads.take(exchange)
            elif self._until is not None and quiet:
                break
            else:
                for exchange in self._pipeline.tick(time.time_ns()):
                    self._uploads.take(exchange)
            self._account()
            if self._until is not None and time.monotonic() >= self._until - self._seconds * RESERVE:
                break
            quiet = not frames
            if quiet:  # a ring's last block comes by a timeout: nothing twice is the end
                poll.poll(TICK * 1000)
            if len(frames) < FEW:
                time.sleep(GATHER)
        self._end()

    def _account(self) -> None:
        repeated = self._source.duplicates - self._ledger.tally["frame_repeated"]
        if repeated:
            self._ledger.count("frames", repeated)
            self._ledger.count("frame_repeated", repeated)
        self._uploads.pause()
        self._uploads.settle()
        self._part.publish(self._ledger, self._source.held)
        now = time.monotonic()
        if now - self._seen >= TICK:
            self._seen = now
            self._part.beat(time.monotonic_ns())
            self._part.publish_sessions(self._ledger)
            self._listen()

    def _end(self) -> None:
        left = self._source.held
        self._ledger.count("frames", left)
        self._ledger.count("frame_undrained", left)
        for exchange in self._pipeline.close():
            self._uploads.take(exchange)
        self._uploads.settle()
        self._part.publish(self._ledger, 0)
        if self.was_left_alone:
            self._source.close()  # whoever is started next needs the port
        self._uploads.end()
        self._part.publish(self._ledger, 0)
        self._part.publish_sessions(self._ledger)

    def _listen(self) -> None:
        try:
            octets = self._control.recv(_ORDERS)
        except BlockingIOError:  # common case
            return
        except OSError:
            octets = b""
        if not octets:
            if self._until is None:
                self.was_left_alone = True
                self._source.stop()  # else what comes would never end
            self._stop(self._patience)
            return
        *lines, self._orders = (self._orders + octets).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if order["do"] == "stop":
                self._stop(order["seconds"])
            else:
                self._reselect(order)
                with suppress(OSError):
                    self._control.send(DONE)

    def _stop(self, seconds: float) -> None:
        if self._until is None:
            self._seconds = seconds
            self._until = time.monotonic() + seconds


Work = Callable[[int, socket.socket], None]
"""What a worker process does: its number, and where its orders come from."""
