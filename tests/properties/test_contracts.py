"""The contracts between the stages, for any conversation and for any octets."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.decoders.demux import Demux
from appliance.ledger import Ledger
from appliance.model import (
    ACK,
    FIN,
    REQUEST,
    RST,
    SYN,
    Body,
    Data,
    End,
    EndReason,
    Flow,
    Gap,
    HttpEvent,
    Missing,
    Request,
    Response,
    Segment,
    StreamEvent,
    flow_key,
)
from appliance.stream.reassembly import Reassembler, StreamLimits
from tests.fuzz import fuzz_stream
from tests.support import tcp
from tests.support.run import Call, Stages, calls, exchanges
from tests.support.tcp import Conversation

seeds = st.integers(0, 2**32 - 1)


@st.composite
def requests(draw: st.DrawFn, number: int) -> tuple[bytes, str]:
    """A request that carries its number, and its method."""
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "PUT", "PROPFIND", "M-SEARCH", "X"]))
    target = draw(st.sampled_from(["/", "/a?b=c", "http://h.test/x", "/%zz", "/" + "p" * 300]))
    fields = draw(st.lists(st.sampled_from(["Accept: */*", "X-Y:z", "Cookie: a=b", "E:"]), max_size=4))
    head = [f"{method} {target} HTTP/1.1", "Host: h.test", f"X-Number: {number}", *fields]
    if method in {"POST", "PUT"}:
        body = draw(st.binary(max_size=3000))
        if draw(st.booleans()):
            head.append(f"Content-Length: {len(body)}")
            tail = body
        else:
            head.append("Transfer-Encoding: chunked")
            tail = draw(chunks(body))
    else:
        tail = b""
    return "\r\n".join(head).encode() + b"\r\n\r\n" + tail, method


@st.composite
def chunks(draw: st.DrawFn, body: bytes) -> bytes:
    cuts = sorted(draw(st.sets(st.integers(1, max(len(body) - 1, 1)), max_size=3)) | {0, len(body)})
    out = b""
    for start, stop in pairwise(cuts):
        if body[start:stop]:
            extension = draw(st.sampled_from([b"", b";a=b", b' ; q="\\" "']))
            out += b"%X" % len(body[start:stop]) + extension + b"\r\n" + body[start:stop] + b"\r\n"
    return out + b"0\r\n" + draw(st.sampled_from([b"", b"Trailer: x\r\n"])) + b"\r\n"


@st.composite
def responses(draw: st.DrawFn, number: int, method: str) -> bytes:
    status = draw(st.sampled_from([200, 201, 204, 304, 404, 500, 599, 999]))
    head = [f"HTTP/1.1 {status} Some Thing", f"X-Number: {number}"]
    interim = draw(
        st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 x\r\nLink: y\r\n\r\n"])
    )
    body = draw(st.binary(max_size=4000))
    chunked = draw(st.booleans())
    if status != 204:
        head.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}")
    empty = method == "HEAD" or status in {204, 304}
    tail = b"" if empty else draw(chunks(body)) if chunked else body
    return interim + "\r\n".join(head).encode() + b"\r\n\r\n" + tail


@st.composite
def conversations(draw: st.DrawFn, *, pipelining: bool = True) -> Conversation:
    talk = Conversation(isn=(draw(st.sampled_from([1000, 0xFFFFFFF0, 0xFFFFF000])), draw(seeds)))
    if draw(st.integers(0, 4)):
        talk.handshake()
    mss = draw(st.sampled_from([1448, 100, 37]))
    number = 0
    for _ in range(draw(st.integers(1, 4))):
        group = [draw(requests(number + n)) for n in range(draw(st.integers(1, 3 if pipelining else 1)))]
        talk.ask(b"".join(octets for octets, _ in group), mss)
        for n, (_, method) in enumerate(group):
            talk.answer(draw(responses(number + n, method)), mss)
        number += len(group)
    if draw(st.booleans()):
        talk.close(draw(st.integers(0, 1)))
    return talk


def number_of(side: object) -> str | None:
    return next((v for n, v in side.fields if n == "X-Number"), None)  # type: ignore[attr-defined]


# -- contract 6: cut it anywhere, same answer


def without_marks(found: list[Call]) -> list[Call]:
    """A connection joined in the middle may be found again one way or another."""
    return [Call(c.connection, c.request, c.response, c.interim, ()) for c in found]


@given(conversations(), seeds, st.integers(1, 8))
def test_split_shuffled_and_duplicated_conversations_say_the_same(
    talk: Conversation, seed: int, window: int
) -> None:
    dice = random.Random(seed)
    want = exchanges(talk.out)
    assert all(number_of(c.request) == number_of(c.response) for c in want if c.request and c.response)
    assert exchanges(talk.out, batch=1) == want
    assert exchanges(tcp.split(talk.out, dice)) == want
    assert exchanges(tcp.duplicate(talk.out, dice)) == want
    if talk.out[0].flags & SYN:
        assert exchanges(tcp.shuffle_within(tcp.split(talk.out, dice), window, dice)) == want
        assert exchanges(tcp.shuffle_within(tcp.duplicate(talk.out, dice), window, dice)) == want


@given(conversations())
def test_every_request_is_found_with_its_response(talk: Conversation) -> None:
    found = exchanges(talk.out)
    asked = b"".join(s.payload for s in talk.out if s.route == talk.routes[0])
    numbers = [m.decode() for m in re.findall(rb"HTTP/1.1\r\nHost: h.test\r\nX-Number: (\d+)\r\n", asked)]
    if talk.out[0].flags & SYN:
        assert [number_of(c.request) for c in found] == numbers
        assert all(c.response and number_of(c.response) == number_of(c.request) for c in found)


# -- never a wrong pair


def assert_no_wrong_pair(segments: list[Segment]) -> None:
    for call in exchanges(segments):
        if call.request and call.response:
            ours, theirs = number_of(call.request), number_of(call.response)
            assert ours == theirs or ours is None or theirs is None, call


@given(conversations(pipelining=False), seeds, st.sampled_from([0.02, 0.1, 0.4]))
def test_loss_never_gives_a_response_to_the_wrong_request(
    talk: Conversation, seed: int, share: float
) -> None:
    dice = random.Random(seed)
    assert_no_wrong_pair(tcp.drop(talk.out, {n for n in range(len(talk.out)) if dice.random() < share}))


@given(conversations(), seeds, st.sampled_from([0.02, 0.1, 0.4]))
def test_loss_never_gives_a_response_to_the_wrong_pipelined_request(
    talk: Conversation, seed: int, share: float
) -> None:
    """Where the beginning of the connection was captured: before it, nobody knows what was asked."""
    dice = random.Random(seed)
    if talk.out[0].flags & SYN:
        assert_no_wrong_pair(
            tcp.drop(talk.out, {n for n in range(3, len(talk.out)) if dice.random() < share})
        )


@given(conversations(pipelining=False), seeds)
def test_cut_packets_are_named(talk: Conversation, seed: int) -> None:
    """A snap length leaves the beginning of every packet; start lines survive, nothing is invented."""
    dice = random.Random(seed)
    cut = []
    for s in talk.out:
        keep = len(s.payload) if dice.random() < 0.7 else min(len(s.payload), 60)
        cut.append(Segment(s.route, s.ts, s.seq, s.ack, s.flags, s.payload[:keep], len(s.payload) - keep))
    for call in exchanges(cut):
        for side in (call.request, call.response):
            if side is not None and not side.complete:
                assert call.flaws
    assert_no_wrong_pair(cut)


# -- contracts 1 and 5: any segments at all

ROUTES = (Conversation().routes, Conversation(vni=7).routes)
wild = st.builds(
    lambda route, side, seq, ack, flags, payload, missing, ts: Segment(
        ROUTES[route][side], ts, seq, ack, flags, payload, missing
    ),
    st.integers(0, 1),
    st.integers(0, 1),
    st.one_of(st.integers(0, 40), st.integers(0xFFFFFFE0, 0xFFFFFFFF), seeds),
    st.one_of(st.integers(0, 40), st.integers(0xFFFFFFE0, 0xFFFFFFFF), seeds),
    st.sampled_from([ACK, ACK, ACK, SYN, SYN | ACK, FIN | ACK, RST, RST | ACK, 0, SYN | FIN, 0xFF]),
    st.binary(max_size=12),
    st.sampled_from([0, 0, 0, 3]),
    st.integers(0, 30).map(lambda s: tcp.T0 + s * 500 * tcp.MS),
)


@given(st.lists(wild, max_size=40), st.integers(0, 33))
def test_any_segments_give_data_gaps_and_one_end(segments: list[Segment], reorder: int) -> None:
    ledger = Ledger()
    streams = Reassembler(ledger, StreamLimits(max_flows=2, stream_buffer=2000, reorder_segments=reorder))
    events: list[StreamEvent] = []
    for segment in segments:
        events += streams.feed([segment])
        events += streams.tick(segment.ts)
        faults = [f for f in ledger.unbalanced() if not f.startswith("stream_bytes")]
        assert faults == []
    events += streams.close()
    assert_order(events)
    assert ledger.tally["segment_held_bytes"] == ledger.tally["flow_open"] == 0


def assert_order(events: list[StreamEvent]) -> None:
    place: dict[tuple[Flow, int], int] = {}
    ended = set()
    for event in events:
        key = event.flow, event.side
        assert key not in ended
        if isinstance(event, End):
            ended.add(key)
            continue
        if isinstance(event, Data):
            assert event.payload
            size = len(event.payload)
        else:
            size = event.length or 0
            assert event.length is None or event.length > 0
        if not (isinstance(event, Gap) and event.length is None):  # joined here: nothing was before
            assert place.get(key, event.offset) == event.offset
        place[key] = event.offset + size
    flows = {event.flow for event in events}
    assert ended == {(flow, side) for flow in flows for side in (0, 1)}


# -- contract 2: any octets at all

pieces = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"GET / HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 101 x\r\n\r\n",
            b"HTTP/1.0 200 OK\nContent-Length: 3\n\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 1, 2\r\n\r\n",
            b"CONNECT h:1 HTTP/1.1\r\n\r\n",
            b"\r\n",
            b"\n",
            b" ",
            b"\x16\x03\x01\x00\x05hello",
        ]
    ),
)
steps = st.lists(
    st.tuples(st.integers(0, 1), st.one_of(pieces, st.none(), st.integers(1, 9)), st.booleans()), max_size=25
)


@given(steps, st.booleans())
@example(
    [(0, b"GET / HTTP/1.1\r\n\r\n", True), (1, None, True), (1, b"HTTP/1.1 200 OK\r\n\r\n", True)], False
)
def test_any_octets_give_whole_messages(
    script: list[tuple[int, bytes | int | None, bool]], joined: bool
) -> None:
    ledger = Ledger()
    demux = Demux(ledger)
    flow = Flow(flow_key(ROUTES[0][0]), 1)
    at = [1 << 32, 1 << 32] if joined else [0, 0]
    events: list[StreamEvent] = []
    if joined:
        events += [Gap(flow, side, 0, None, at[side], truncated=False) for side in (0, 1)]
    for side, what, truncated in script:
        if isinstance(what, bytes):
            if not what:
                continue
            events.append(Data(flow, side, 0, what, at[side], at[1 - side]))
            at[side] += len(what)
        else:
            length = what or 1
            events.append(Gap(flow, side, 0, length, at[side], truncated))
            at[side] += length
    events += [End(flow, side, 0, EndReason.FIN) for side in (0, 1)]
    out = []
    for event in events:
        out += demux.feed([event])
        ledger.tally["stream_bytes"] += len(event.payload) if isinstance(event, Data) else 0
        assert not [f for f in ledger.unbalanced() if f.startswith(("stream_bytes", "http_held"))]
    assert_messages(out)


def assert_messages(out: list[HttpEvent]) -> None:
    begun: set[tuple[int, int]] = set()
    over: set[tuple[int, int]] = set()
    asked: set[int] = set()
    for event in out:
        kind = REQUEST if isinstance(event, Request) else 1 if isinstance(event, Response) else event.kind
        key = event.stream, kind
        assert key not in over
        if isinstance(event, Request):
            assert key not in begun
            begun.add(key)
            asked.add(event.stream)
        elif isinstance(event, Response):
            assert key not in begun
            if not event.interim:
                begun.add(key)
        elif isinstance(event, Body):
            assert key in begun
            assert event.data
        elif isinstance(event, Missing):
            assert key in begun
        else:
            assert key in begun or event.stream in asked
            over.add(key)
    assert begun <= over
    assert {(stream, 1) for stream in asked} <= over


# -- contract 3: bodies are bounded


@given(st.integers(0, 3000), st.integers(1, 2000))
def test_bodies_are_kept_to_the_limit_and_counted_beyond(size: int, limit: int) -> None:
    stages = Stages(body_limit=limit)
    body = bytes(n % 251 for n in range(size))
    talk = Conversation().handshake().ask(b"GET / HTTP/1.1\r\n\r\n")
    talk.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body, 500)
    found = stages.feed(talk.close().out) + stages.close()
    assert len(found) == 1
    response = found[0].response
    assert response is not None
    assert response.content.data() == body[:limit]
    assert response.content.length == size
    whole = exchanges(talk.out)[0].response
    assert whole is not None
    assert response.content.sha256() == whole.body
    over = max(size - limit, 0)
    assert found[0].flaws == ([f"response-over-limit:{over}"] if over else [])
    assert stages.ledger.tally["body_over_limit_bytes"] == over


def test_memory_of_open_exchanges_is_bounded() -> None:
    stages = Stages(memory=100_000)
    talk = Conversation().handshake()
    for n in range(200):
        talk.ask(b"POST /%d HTTP/1.1\r\nContent-Length: 1000\r\n\r\n" % n + b"x" * 1000)
    found = stages.feed(talk.out)
    assert found
    assert all("evicted" in x.flaws for x in found)
    assert stages.pairs._cost <= 100_000 + 4096
    rest = stages.pairs.feed(stages.http.feed(stages.streams.close()))
    assert len(found) + len(rest) == 200
    assert len(calls(found + rest)) == 200


def test_requests_waiting_on_one_connection_are_bounded() -> None:
    from appliance.decoders.http1.conversation import PIPELINE  # noqa: PLC0415

    talk = Conversation().handshake()
    talk.ask(b"GET / HTTP/1.1\r\n\r\n" * PIPELINE)
    stages = Stages()
    assert stages.feed(talk.out) == []  # at the limit
    more = Conversation(isn=(talk.next[0], talk.next[1])).ask(b"GET / HTTP/1.1\r\n\r\n")
    found = stages.feed(more.out)
    assert [x.flaws for x in found] == [["unanswered-limit"]]
    assert len(stages.close()) == PIPELINE


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_connections_at_once(seed: int) -> None:
    """Interleaved, shuffled, duplicated: each connection still has its own calls."""
    dice = random.Random(seed)
    talks = []
    for n in range(300):
        talk = Conversation((f"10.0.1.{n % 250}", 1000 + n), vni=n % 3 or None, now=tcp.T0 + n)
        talk.handshake()
        for k in range(3):
            talk.ask(b"GET /%d/%d HTTP/1.1\r\nX-Number: %d\r\n\r\n" % (n, k, n))
            talk.answer(b"HTTP/1.1 200 OK\r\nX-Number: %d\r\nContent-Length: 4\r\n\r\nbody" % n)
        talks.append(talk.close())
    mixed = sorted((s for talk in talks for s in talk.out), key=lambda s: s.ts)
    found = exchanges(tcp.shuffle_within(tcp.duplicate(mixed, dice), 8, dice), batch=100)
    assert len(found) == 900
    assert all(c.request and c.response and number_of(c.request) == number_of(c.response) for c in found)
    assert all(not c.flaws for c in found)


# -- hostile TCP: numbers that are near to what is right do more harm than those that are far off

PAYLOADS = (b"", b"x", b"abcdef", b"y" * 40, b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 204 x\r\n\r\n")
DELTAS = st.sampled_from([0, 0, 0, 1, 2, 5, 10, 30, -1, -2, 60, 200, -30])
NEAR = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from([0, 0, 0, 1, 2, 3, 4, 4, 5, 6, 7]),
        st.sampled_from([0, 0, 1, 5, 12, 35, 120]),
        DELTAS,
        DELTAS,
        st.sampled_from([0, 0, 0, 1]),
        st.sampled_from(PAYLOADS),
        st.booleans(),
    ),
    max_size=14,
)


@settings(max_examples=500)  # more than elsewhere: it takes luck
@given(NEAR)
def test_segments_near_to_what_is_right_break_nothing(
    some: list[tuple[int, int, int, int, int, int, bytes, bool]],
) -> None:
    base = [0x8000, 0x8000]
    data = b""
    for side, flags, delay, seq, ack, missing, payload, goes_on in some:
        numbers = ((base[side] + seq).to_bytes(2), (base[1 - side] + ack).to_bytes(2))
        data += (
            bytes([flags << 2 | side, delay]) + b"".join(numbers) + bytes([missing, len(payload)]) + payload
        )
        base[side] += goes_on * (len(payload) + (flags in {2, 3, 4}))
    fuzz_stream.one_input(data)
