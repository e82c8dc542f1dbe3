"""Requests, responses and bodies put together by their numbers, within limits."""

from __future__ import annotations

import hashlib

import pytest

from appliance.exchange import INTERIM, OVERHEAD, PART, Pairer
from appliance.ledger import Ledger
from appliance.model import (
    REQUEST,
    RESPONSE,
    Body,
    EndOfMessage,
    Endpoint,
    Flow,
    FlowKey,
    Head,
    HttpEvent,
    HttpExchange,
    Request,
    Response,
)

FLOW = Flow(FlowKey(None, Endpoint(bytes([10, 0, 0, 1]), 40000), Endpoint(bytes([10, 0, 0, 2]), 80)), 1)
HEAD = 100  # octets of each head


class Steps:
    """A pairer, and the events that it is given in a few letters."""

    def __init__(self, body_limit: int = 1000, memory: int = 1 << 20) -> None:
        self.ledger = Ledger()
        self.pairer = Pairer(self.ledger, body_limit, memory)

    def feed(self, *events: HttpEvent) -> list[HttpExchange]:
        for event in events:
            if isinstance(event, Body):  # what the decoder counts
                self.ledger.count("http_body_bytes", len(event.data))
        out = self.pairer.feed(list(events))
        faults = [f for f in self.ledger.unbalanced() if not f.startswith("stream_bytes")]  # no stream here
        assert faults == []
        return out

    def count(self, name: str) -> int:
        return self.ledger.tally[name]


def ask(n: int = 1, side: int = 0, flow: Flow = FLOW, size: int = HEAD) -> Request:
    return Request(flow, n, n, Head((b"GET", b"/%d" % n, b"HTTP/1.1"), [], [], size), side)


def answer(n: int = 1, status: int = 200, side: int = 1, flow: Flow = FLOW) -> Response:
    head = Head((b"HTTP/1.1", b"%d" % status, b""), [], [], HEAD)
    return Response(flow, n, n, head, side, status, status < 200)


def body(n: int, kind: int, data: bytes) -> Body:
    return Body(FLOW, n, kind, data)


def over(n: int, kind: int, *flaws: str, complete: bool = True, flow: Flow = FLOW) -> EndOfMessage:
    return EndOfMessage(flow, n, kind, 9, complete, list(flaws))


def test_exchange_comes_out_once_when_both_messages_are_over() -> None:
    steps = Steps()
    assert steps.feed(ask(), over(1, REQUEST)) == []
    assert steps.count("exchange_open") == 1
    assert steps.feed(answer()) == []
    (call,) = steps.feed(over(1, RESPONSE))
    assert (call.flow, call.client, call.flaws, call.interim) == (FLOW, 0, [], [])
    assert call.request is not None
    assert call.response is not None
    assert (call.request.head.start[1], call.response.status) == (b"/1", 200)
    assert call.request.content.complete
    assert call.response.content.complete
    assert (steps.count("exchange_open"), steps.count("exchange_answered")) == (0, 1)
    assert steps.pairer.close() == []


def test_response_may_be_over_before_its_request() -> None:
    steps = Steps()
    assert steps.feed(ask(), answer(status=413), over(1, RESPONSE)) == []
    assert len(steps.feed(over(1, REQUEST))) == 1


def test_the_client_is_the_side_that_asks() -> None:
    assert Steps().feed(ask(side=1), over(1, REQUEST), answer(side=0), over(1, RESPONSE))[0].client == 1
    assert Steps().feed(answer(side=0), over(1, RESPONSE, "orphan"))[0].client == 1


def test_exchanges_are_told_apart_by_number_and_by_flow() -> None:
    steps = Steps()
    other = Flow(FLOW.key, 2)
    steps.feed(
        ask(1), ask(2), ask(1, flow=other), over(1, REQUEST), over(2, REQUEST), over(1, REQUEST, flow=other)
    )
    (second,) = steps.feed(answer(2, 202), over(2, RESPONSE))
    (third,) = steps.feed(answer(1, 203, flow=other), over(1, RESPONSE, flow=other))
    (first,) = steps.feed(answer(1, 201), over(1, RESPONSE))
    assert [x.response and x.response.status for x in (first, second, third)] == [201, 202, 203]
    assert [x.request and x.request.head.start[1] for x in (first, second, third)] == [b"/1", b"/2", b"/1"]
    assert [x.flow for x in (first, second, third)] == [FLOW, FLOW, other]


def test_unanswered_request() -> None:
    steps = Steps()
    (call,) = steps.feed(ask(), over(1, REQUEST), over(1, RESPONSE, "unanswered-fin", complete=False))
    assert call.request is not None
    assert call.response is None
    assert call.flaws == ["unanswered-fin"]
    assert (steps.count("exchange_unanswered"), steps.count("exchange_incomplete")) == (1, 0)


def test_orphan_response() -> None:
    steps = Steps()
    (call,) = steps.feed(answer(), over(1, RESPONSE, "orphan"))
    assert call.request is None
    assert call.flaws == ["orphan"]
    assert steps.count("exchange_orphan") == 1


def test_interim_responses_are_kept_to_a_limit() -> None:
    steps = Steps()
    steps.feed(ask(), over(1, REQUEST), *[answer(status=102)] * (INTERIM + 1))
    (call,) = steps.feed(answer(), over(1, RESPONSE))
    assert call.interim == [102] * INTERIM
    assert call.response is not None
    assert call.response.status == 200


def test_flaws_of_both_messages_once_each() -> None:
    steps = Steps()
    first = over(1, REQUEST, "request-bare-lf", "resynchronised")
    second = over(1, RESPONSE, "resynchronised", "response-gap:5", complete=False)
    (call,) = steps.feed(ask(), first, answer(), second)
    assert call.flaws == ["request-bare-lf", "resynchronised", "response-gap:5"]
    assert steps.count("exchange_incomplete") == 1
    assert call.request is not None
    assert call.request.content.complete
    assert call.response is not None
    assert not call.response.content.complete


# -- bodies


def test_body_in_pieces() -> None:
    steps = Steps()
    steps.feed(ask(), body(1, REQUEST, b"ab"), body(1, REQUEST, b"c"), over(1, REQUEST))
    (call,) = steps.feed(answer(), body(1, RESPONSE, b"xyz"), over(1, RESPONSE))
    assert call.request is not None
    assert call.response is not None
    assert (call.request.content.data(), call.request.content.length) == (b"abc", 3)
    assert call.request.content.sha256() == hashlib.sha256(b"abc").hexdigest()
    assert call.response.content.data() == b"xyz"
    assert steps.count("body_kept_bytes") == 6


@pytest.mark.parametrize("size", [999, 1000, 1001, 5000])
@pytest.mark.parametrize("step", [1, 7, 1000, 5000])
def test_body_at_its_limit_and_above(size: int, step: int) -> None:
    steps = Steps(body_limit=1000)
    data = bytes(n % 251 for n in range(size))
    steps.feed(ask(), over(1, REQUEST), answer())
    for at in range(0, size, step):
        steps.feed(body(1, RESPONSE, data[at : at + step]))
    (call,) = steps.feed(over(1, RESPONSE))
    assert call.response is not None
    content = call.response.content
    assert (content.data(), content.length, content.complete) == (data[:1000], size, True)
    assert content.sha256() == hashlib.sha256(data).hexdigest(), "of all, also of what is not kept"
    assert call.flaws == ([f"response-over-limit:{size - 1000}"] if size > 1000 else [])
    assert steps.count("body_over_limit_bytes") == max(size - 1000, 0)


def test_body_limit_zero_keeps_nothing_and_knows_all() -> None:
    steps = Steps(body_limit=0)
    (call,) = steps.feed(ask(), body(1, REQUEST, b"abc"), over(1, REQUEST), answer(), over(1, RESPONSE))
    assert call.request is not None
    assert (call.request.content.data(), call.request.content.length) == (b"", 3)
    assert call.request.content.sha256() == hashlib.sha256(b"abc").hexdigest()
    assert call.flaws == ["request-over-limit:3"]


# -- memory

ONE = OVERHEAD + HEAD


def test_body_beyond_the_memory_is_counted_and_not_kept() -> None:
    steps = Steps(memory=ONE + 10 + PART)
    steps.feed(ask(), body(1, REQUEST, b"0123456789"), body(1, REQUEST, b"abc"))
    (call,) = steps.pairer.feed([over(1, REQUEST), over(1, RESPONSE, "unanswered-fin", complete=False)])
    assert call.request is not None
    assert call.request.content.length == 13
    assert call.request.content.sha256() == hashlib.sha256(b"0123456789abc").hexdigest()
    assert call.flaws == ["request-over-memory:3", "unanswered-fin"]
    assert (steps.count("body_kept_bytes"), steps.count("body_over_memory_bytes")) == (10, 3)


def test_memory_is_given_back() -> None:
    steps = Steps(memory=3 * ONE)
    for n in range(1, 1000):
        assert (
            len(steps.feed(ask(n), over(n, REQUEST), answer(n), body(n, RESPONSE, b"x"), over(n, RESPONSE)))
            == 1
        )
    assert steps.count("exchange_evicted") == 0
    assert steps.pairer._cost == 0


def test_exchanges_at_the_memory_limit_and_above() -> None:
    steps = Steps(memory=16 * ONE)
    assert steps.feed(*[ask(n) for n in range(1, 17)]) == []
    evicted = steps.feed(ask(17))
    assert evicted
    assert [x.request and x.request.head.start[1] for x in evicted][:2] == [b"/1", b"/2"], "the oldest first"
    assert all(x.flaws == ["evicted"] for x in evicted)
    assert steps.count("exchange_evicted") == len(evicted)


def test_no_more_are_given_up_than_the_memory_needs() -> None:
    steps = Steps(memory=16 * ONE)
    evicted = steps.feed(*[ask(n) for n in range(1, 18)])
    assert len(evicted) == 3, "down to seven eighths"


def test_what_comes_for_an_exchange_that_was_given_up() -> None:
    steps = Steps(memory=ONE)
    assert len(steps.feed(ask(1), ask(2))) >= 1
    assert steps.feed(body(1, REQUEST, b"late"), over(1, REQUEST)) == []
    assert (steps.count("body_late_bytes"), steps.count("http_event_late")) == (4, 1)


def test_response_to_a_request_that_was_given_up_says_that_it_has_none() -> None:
    steps = Steps(memory=ONE)
    assert len(steps.feed(ask(1), over(1, REQUEST), ask(2))) >= 1
    found = steps.feed(answer(1), over(1, RESPONSE))
    assert [(x.request, x.response and x.response.status, x.flaws) for x in found] == [
        (None, 200, ["orphan"])
    ]


def test_what_is_open_at_the_end_comes_out() -> None:
    steps = Steps()
    steps.feed(ask(1), ask(2), answer(2))
    assert [x.flaws for x in steps.pairer.close()] == [["evicted"], ["evicted"]]
    assert steps.ledger.unbalanced() == []
    assert steps.count("exchange_open") == 0
