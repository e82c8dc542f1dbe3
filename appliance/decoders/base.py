"""What a decoder is: the same three entries for every protocol.

A decoder of one connection takes that connection's stream events in causal order (stream/connection.py)
and appends HttpEvents. It never raises, whatever the octets; it accounts for every octet in the ledger.
"""

from __future__ import annotations

from appliance.ledger import Ledger
from appliance.model import Data, End, Flow, Gap, HttpEvent


class FlowDecoder:
    """Base of all decoders of one connection; counts what it is given under ``reason``."""

    def __init__(self, flow: Flow, ledger: Ledger, reason: str) -> None:
        self.flow = flow
        self.tally = ledger.tally
        self.reason = reason

    def data(self, event: Data, out: list[HttpEvent]) -> None:
        self.tally[self.reason] += len(event.payload)

    def gap(self, event: Gap, out: list[HttpEvent]) -> None:
        """Octets that will never come."""

    def end(self, event: End, out: list[HttpEvent]) -> None:
        """One direction is over; called exactly once for each."""
