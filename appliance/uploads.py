"""Calls -> rules -> lines -> batches -> a sink: the way out of a replay.

Contract: ``take`` blocks while the sink takes nothing, so that files are read no faster than their calls
are delivered and nothing is shed; ``end`` waits for the rest. What the user said is not to be sent is
counted as withheld.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

import orjson

from appliance.ledger import Ledger
from appliance.model import Batch, HttpExchange, Message
from appliance.ship.batch import Batcher
from appliance.ship.carrier import Carrier

UPLOADS: Final = ("message_delivered", "message_rejected", "message_queued", "message_undelivered")


class Uploads:
    def __init__(  # noqa: PLR0913  # the parts
        self,
        publish: Callable[[HttpExchange], Message | None],
        ledger: Ledger,
        batcher: Batcher,
        carrier: Carrier | None,
        now: Callable[[], int],
        drain: float | None,
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """``carrier`` None: nothing is sent. ``now``: nanoseconds. ``drain``: seconds for the rest.

        ``waiting``: within it the user may end a wait (KeyboardInterrupt); what is not sent then is counted.
        """
        self._publish = publish
        self._tally = ledger.tally
        self._batcher = batcher
        self._carrier = carrier
        self._now = now
        self._drain = drain
        self._waiting = waiting
        self._unsent = 0  # calls since the user would wait no longer

    def begin(self) -> None:
        """Nothing to say before the first call."""

    def take(self, exchange: HttpExchange) -> None:
        message = self._publish(exchange)
        if message is None:
            return
        if self._carrier is None:
            self._tally["message_withheld"] += 1
            return
        self._tally["message_queued"] += 1
        self._put(self._batcher.add(orjson.dumps(message), self._now()))

    def pause(self) -> None:
        """Between two batches of frames."""
        self._put(self._batcher.tick(self._now()))

    def end(self) -> None:
        self._put(self._batcher.flush())
        if self._carrier is not None:
            try:
                with self._waiting():
                    counts = self._carrier.finish(self._drain)
            except KeyboardInterrupt:  # asked before
                counts = self._carrier.finish(0.0)
            for name in UPLOADS:
                self._tally[name] = counts[name]
            self._tally["message_undelivered"] += self._unsent

    def _put(self, batch: Batch | None) -> None:
        if batch is None or self._carrier is None:
            return
        taken = False
        try:
            with self._waiting():
                taken = True
                self._carrier.put(batch)
        except KeyboardInterrupt:
            if not taken:  # else the carrier has counted it
                self._unsent += batch.count
