"""The floor: httptools over the same octets already in order, collecting heads and bodies.

It does nothing that the appliance is for: no packets, no reassembly, no holes, no pairing. What it costs is
what llhttp and Python objects for heads and bodies cost.
"""

from __future__ import annotations

import httptools

Payloads = list[tuple[int, int, bytes]]


class Collector:
    __slots__ = ("bodies", "done", "fields", "parts", "target")

    def __init__(self) -> None:
        self.done = 0
        self.fields: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self.target = b""

    def on_message_begin(self) -> None:
        self.fields = []
        self.parts = []

    def on_url(self, url: bytes) -> None:
        self.target = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.done += 1


def run(payloads: Payloads) -> int:
    """One parser a connection and direction; the number of messages."""
    parsers: dict[tuple[int, int], tuple[Collector, httptools.HttpRequestParser]] = {}
    for connection, side, octets in payloads:
        known = parsers.get((connection, side))
        if known is None:
            collector = Collector()
            kind = httptools.HttpResponseParser if side else httptools.HttpRequestParser
            known = parsers[connection, side] = collector, kind(collector)
        known[1].feed_data(octets)
    return sum(collector.done for collector, _ in parsers.values())
