"""What all HTTP/1 conversations of one pipeline share: the head parser and the running counts.

Contract: counts gather in attributes while a batch of events is decoded and enter the ledger once at its
end (``flush``): an attribute costs a third of an entry in a dictionary, several times a message.
"""

from __future__ import annotations

from typing import Final

from appliance.decoders.http1.head import HeadParser
from appliance.ledger import Ledger

HELD_LIMIT: Final = 64 << 20  # octets of unfinished heads and lines in all connections

WAITING_LIMIT: Final = 1 << 18  # requests without response on all connections, 100 MiB at most
SHED_LIMIT: Final = 16 << 20  # octets

UNFRAMED: Final = 0
CUT_HEAD: Final = 1
TUNNELLED: Final = 2


class Octets:
    """Octets by what they became, and messages; all since the last flush."""

    __slots__ = (
        "body",
        "cut_head",
        "framing",
        "head",
        "held",
        "interim",
        "requests",
        "responses",
        "total_held",
        "tunnel",
        "unframed",
    )

    def __init__(self) -> None:
        self.head = 0
        self.body = 0
        self.framing = 0
        self.held = 0
        self.total_held = 0  # up to the last flush
        self.unframed = 0
        self.cut_head = 0
        self.tunnel = 0
        self.requests = 0
        self.responses = 0
        self.interim = 0

    def release(self, n: int, name: int) -> None:
        """Held octets turn out to be UNFRAMED, CUT_HEAD or TUNNELLED."""
        self.held -= n
        if name == UNFRAMED:
            self.unframed += n
        elif name == CUT_HEAD:
            self.cut_head += n
        else:
            self.tunnel += n

    def full(self) -> bool:
        """Too much is held by all connections together."""
        return self.total_held + self.held > HELD_LIMIT

    def flush(self, ledger: Ledger) -> None:
        tally = ledger.tally
        tally["http_head_bytes"] += self.head
        tally["http_body_bytes"] += self.body
        tally["http_framing_bytes"] += self.framing
        tally["http_held_bytes"] += self.held
        self.total_held += self.held
        tally["http_unframed_bytes"] += self.unframed
        tally["http_cut_head_bytes"] += self.cut_head
        tally["tunnel_bytes"] += self.tunnel
        tally["requests"] += self.requests
        tally["responses"] += self.responses
        tally["interim_responses"] += self.interim
        self.head = self.body = self.framing = self.held = self.unframed = 0
        self.cut_head = self.tunnel = self.requests = self.responses = self.interim = 0


class Shared:
    __slots__ = ("heads", "octets", "shed", "waiting")

    def __init__(self) -> None:
        self.heads = HeadParser()
        self.octets = Octets()
        self.waiting = 0  # requests that wait for their response
        self.shed = 0  # octets that are kept of requests that had to be given up
