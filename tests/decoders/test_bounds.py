"""What the decoders hold for connections that never finish anything is bounded in all."""

from __future__ import annotations

import pytest

from appliance.decoders import demux
from appliance.decoders.http1 import shared
from tests.support.run import Stages
from tests.support.tcp import Conversation

needs_python = pytest.mark.skipif(demux.__file__.endswith(".so"), reason="limits are compiled in")


@needs_python
def test_unfinished_heads_of_all_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "HELD_LIMIT", 10 * 100)
    stages = Stages()
    for n in range(11):
        talk = Conversation(("10.0.0.1", 1000 + n)).handshake()
        head = b"GET / HTTP/1.1\r\nX: "
        stages.feed(talk.say(0, head + b"x" * (100 - len(head))).out)
        held = stages.ledger.tally["http_held_bytes"]
        assert held == min(100 * (n + 1), 1000)
    assert stages.ledger.tally["http_cut_head_bytes"] == 100
    assert len(stages.close()) == 10


@needs_python
def test_connections_not_recognised_yet_are_bounded_in_memory_not_in_octets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demux, "PROBE_MEMORY", 10 * (3 + 3 * demux.OVERHEAD))
    stages = Stages()
    for n in range(11):
        talk = Conversation(("10.0.0.1", 1000 + n)).handshake()
        for octet in (b"G", b"E", b"T"):
            talk.say(0, octet)
        stages.feed(talk.out)
        assert stages.ledger.tally["kind_other"] == (1 if n == 10 else 0)
    assert stages.ledger.tally["probe_held_bytes"] == 30


def test_head_in_single_octets_is_read() -> None:
    talk = Conversation().handshake()
    talk.ask(b"GET /" + b"p" * 3000 + b" HTTP/1.1\r\nX: " + b"y" * 3000 + b"\r\n\r\n", mss=1)
    found = Stages().feed(talk.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").out)
    assert [x.response.status for x in found if x.response] == [200]
