"""What a reviewer broke: each phenomenon as it was found, through all stages."""

from __future__ import annotations

import pytest

from appliance.decoders.http1 import shared
from appliance.decoders.http1.head import is_start_line
from appliance.model import ACK, REQUEST, RESPONSE
from appliance.stream.reassembly import StreamLimits
from tests.support.run import Stages, exchanges
from tests.support.tcp import MS, Conversation

GET = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("probe", [True, False])
def test_call_right_after_the_idle_limit_is_found(probe: bool) -> None:
    stages = Stages()
    talk = Conversation().handshake().ask(GET).answer(OK)
    found = stages.feed(talk.out)
    talk.now += 601_000 * MS
    found += stages.pairs.feed(stages.http.feed(stages.streams.tick(talk.now)))
    before = len(talk.out)
    if probe:
        talk.segment(0)
        talk.segment(1)
    talk.ask(GET).answer(OK)
    found += stages.feed(talk.out[before:]) + stages.close()
    assert [x.response.status for x in found if x.response] == [200, 200]
    assert stages.ledger.tally["segment_late_bytes"] == 0


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (REQUEST, b"GET%s"),
        (REQUEST, b"GET%sx"),
        (REQUEST, b"GET %s HTTP/1.x"),
        (RESPONSE, b"HTTP/1.1 200%s\rx"),
        (RESPONSE, b"HTTP/1.1%s"),
    ],
)
def test_start_line_of_blanks_costs_no_more_than_its_length(kind: int, line: bytes) -> None:
    """A reader that tries every way to share out the blanks does not come back from this."""
    assert not is_start_line(kind, line % (b" " * 60_000))


def test_memory_is_set_free_where_one_side_waits_for_the_hole_of_the_other() -> None:
    limits = StreamLimits(stream_memory=20_000)
    stages = Stages(limits)
    for n in range(30):
        talk = Conversation(("10.0.0.1", 1000 + n)).handshake()
        talk.next[0] += 100  # lost, but the server acknowledges it
        talk.segment(1, b"x" * 900, ACK)
        stages.feed(talk.out)
        assert stages.streams._cost <= limits.stream_memory
    assert stages.ledger.tally["gaps"] > 0


@pytest.mark.skipif(shared.__file__.endswith(".so"), reason="limits are compiled in")
@pytest.mark.parametrize("tail", [b"1;" + b"e" * 98, b"0\r\nT: " + b"t" * 94])
def test_unfinished_lines_of_all_connections_are_bounded(
    tail: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "HELD_LIMIT", 1000)
    stages = Stages()
    for n in range(30):
        talk = Conversation(("10.0.0.1", 1000 + n)).handshake()
        talk.ask(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + tail)
        stages.feed(talk.out)
        assert stages.ledger.tally["http_held_bytes"] <= 1000
    assert sum("request-line-evicted" in x.flaws for x in stages.close()) > 0


def test_copies_do_not_use_up_the_reorder_allowance() -> None:
    talk = Conversation().handshake().ask(GET)
    talk.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n")
    for _ in range(30):
        talk.answer(b"b" * 1000)
    late = talk.out.pop(11)
    assert late.payload
    talk.out.insert(31, late)
    want = exchanges(talk.out)
    assert want[0].flaws == ()
    assert exchanges([s for seg in talk.out for s in (seg, seg)]) == want


def test_interim_responses_cost_other_connections_nothing() -> None:
    stages = Stages(memory=50_000)
    waiting = Conversation(("10.0.0.9", 9)).handshake().ask(GET)
    assert stages.feed(waiting.out) == []
    noisy = Conversation().handshake().ask(GET)
    noisy.answer((b"HTTP/1.1 103 x\r\nX: " + b"y" * 1000 + b"\r\n\r\n") * 500)
    assert stages.feed(noisy.out) == []


def test_folded_field_is_joined() -> None:
    found = exchanges(Conversation().handshake().ask(b"GET / HTTP/1.1\r\nX: a\r\n b\r\n \r\n\tc\r\n\r\n").out)
    assert found[0].request is not None
    assert found[0].request.fields == (("X", "a b c"),)
