"""What a reviewer broke: each phenomenon as it was found, through all stages."""

from __future__ import annotations

import pytest

from appliance.decoders.demux import Probe
from appliance.decoders.http1 import shared
from appliance.decoders.http1.head import is_start_line
from appliance.decoders.http1.shared import Shared
from appliance.ledger import Ledger
from appliance.model import ACK, REQUEST, RESPONSE, Data, Flow, Gap, flow_key
from appliance.stream.reassembly import WAITS, StreamLimits
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


# -- the second review


def found(talk: Conversation) -> list[tuple[str, str, tuple[str, ...]]]:
    """(target, X field of the response, flaws) of each call."""
    out = []
    for call in exchanges(talk.out):
        asked = call.request.start[1].decode() if call.request else "-"
        said = dict(call.response.fields).get("X", "?") if call.response else "-"
        out.append((asked, said, call.flaws))
    return sorted(out)


def get(name: str) -> bytes:
    return f"GET /{name} HTTP/1.1\r\n\r\n".encode()


def ok(name: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nX: /{name}\r\nContent-Length: 0\r\n\r\n".encode()


def test_lost_request_pipelined_behind_another_takes_no_response_from_the_next() -> None:
    talk = Conversation().handshake()
    talk.segment(0, get("r0"))
    talk.segment(1, ok("r0")[:20])
    talk.segment(0, get("r1"))
    lost = talk.out.pop()
    talk.segment(1, ok("r0")[20:])
    known = talk.next[0]
    talk.segment(0, get("r2"))
    talk.next[0] = known  # the server has not received it yet
    talk.segment(1, ok("r1"))
    talk.next[0] += len(get("r2"))
    talk.segment(1, ok("r2"))
    assert lost.payload == get("r1")
    for asked, said, _ in found(talk.close()):
        assert asked in {said, "-"} or said == "-"


def test_response_that_acknowledges_nothing_of_a_request_does_not_answer_it() -> None:
    talk = Conversation()
    talk.next[0] += 500
    before = talk.next[0]
    talk.segment(0, get("r3"))
    after, talk.next[0] = talk.next[0], before
    talk.segment(1, ok("r1"))
    talk.next[0] = after
    talk.segment(1, ok("r2"))
    talk.segment(1, ok("r3"))
    for asked, said, _ in found(talk.close()):
        assert asked in {said, "-"} or said == "-"


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_silence_ends_a_connection_wherever_a_batch_ends(extra: int) -> None:
    talk = Conversation().handshake().ask(get("a"))
    talk.now += 601_000 * MS
    talk.answer(ok("a"))
    want = exchanges(talk.out, batch=1)
    assert exchanges(talk.out, batch=len(talk.out) - extra) == want
    assert [call.flaws for call in want if call.request] == [("unanswered-idle",)]


def test_head_of_many_fields_is_charged_for_them() -> None:
    stages = Stages(memory=1 << 20)
    head = b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 5000 + b"\r\n"
    for n in range(20):
        stages.feed(Conversation(("10.0.0.1", 1000 + n)).handshake().ask(head).out)
    assert stages.ledger.tally["exchange_open"] <= 2


def test_waits_of_connections_that_are_over_are_forgotten() -> None:
    stages = Stages(StreamLimits(max_flows=10))
    for n in range(5000):
        talk = Conversation((f"10.0.{n // 250}.{n % 250}", 9))
        talk.segment(0, b"x")
        stages.feed(talk.out)
    assert len(stages.streams._waits) <= 2 * 10 + WAITS + 1


def test_reset_right_before_the_end_of_the_capture_is_a_reset() -> None:
    talk = Conversation().handshake().ask(get("a")).answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
    (call,) = exchanges(talk.reset(1).out)
    assert call.flaws == ("response-unfinished-rst:7",)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 00000000000000000000003", b"abc"),
        (b"Transfer-Encoding: chunked", b"0000000000000000000003\r\nabc\r\n0\r\n\r\n"),
    ],
)
def test_leading_zeros_change_no_length(head: bytes, body: bytes) -> None:
    talk = Conversation().handshake().ask(get("a")).answer(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body)
    (call,) = exchanges(talk.out)
    assert call.response is not None
    assert (call.response.length, call.response.complete, call.flaws) == (3, True, ())


def test_connection_with_a_hole_does_not_cost_the_other_direction_all_it_holds() -> None:
    """Looked at as work, not as time: the events held are not copied for every segment that is let go."""
    probe = Probe(Flow(flow_key(Conversation().routes[0]), 1), Ledger(), Shared())
    probe.gap(Gap(probe.flow, 1, 0, 5, 0, truncated=False), [])
    probe.data(Data(probe.flow, 0, 0, b"G", 0, 0), [])
    held = probe.events[0]
    probe.data(Data(probe.flow, 1, 0, b"zz", 5, 0), [])
    assert probe.events[0] is held
    assert [len(events) for events in probe.events] == [1, 0]
