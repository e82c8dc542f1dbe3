"""What two sides say to each other over HTTP/1, phenomenon by phenomenon."""

from __future__ import annotations

import pytest

from appliance.decoders.http1.reader import HEAD_LIMIT, LINE_LIMIT, TRAILER_LIMIT
from appliance.model import HttpExchange
from tests.support.run import Stages
from tests.support.tcp import Conversation

GET = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def heard(talk: Conversation) -> tuple[list[HttpExchange], dict[str, int]]:
    stages = Stages()
    found = stages.feed(talk.out) + stages.close()
    return found, stages.ledger.tally


def short(x: HttpExchange) -> tuple[str | None, int | None, bytes | None]:
    """Method, status and body of the response."""
    return (
        x.request.head.start[0].decode() if x.request else None,
        x.response.status if x.response else None,
        x.response.content.data() if x.response else None,
    )


def say(*turns: bytes) -> Conversation:
    """Client and server in turn, on one connection."""
    talk = Conversation().handshake()
    for n, octets in enumerate(turns):
        talk.say(n % 2, octets)
    return talk


NO_BODY = {
    "HEAD with a length": (b"HEAD / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
    "HEAD, chunked": (b"HEAD / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "204": (GET, b"HTTP/1.1 204 No Content\r\n\r\n"),
    "204 with a length": (GET, b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n"),
    "304 with a length": (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
    "length 0": (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
}


@pytest.mark.parametrize("name", NO_BODY)
def test_response_without_body_is_followed_by_the_next(name: str) -> None:
    found, _ = heard(say(*NO_BODY[name], GET, OK))
    assert [short(x)[1:] for x in found] == [(found[0].response.status, b""), (200, b"ok")]  # type: ignore[union-attr]
    assert all(m.content.complete for x in found for m in (x.request, x.response) if m)


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_interim_responses_come_before_the_final_one(status: int) -> None:
    interim = b"HTTP/1.1 %d x\r\nLink: y\r\n\r\n" % status
    found, tally = heard(say(GET, interim + interim + OK))
    assert [(short(x), x.interim) for x in found] == [(("GET", 200, b"ok"), [status, status])]
    assert tally["interim_responses"] == 2


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        (b"CONNECT h:443 HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
)
def test_tunnel_is_logged_then_silent_and_counted(ask: bytes, answer: bytes) -> None:
    found, tally = heard(say(ask, answer, GET, OK))
    assert len(found) == 1
    assert tally["tunnel_bytes"] == len(GET + OK)


def test_refused_connect_stays_http() -> None:
    found, _ = heard(
        say(b"CONNECT h:1 HTTP/1.1\r\n\r\n", b"HTTP/1.1 407 x\r\nContent-Length: 0\r\n\r\n", GET, OK)
    )
    assert [short(x)[:2] for x in found] == [("CONNECT", 407), ("GET", 200)]


@pytest.mark.parametrize(("ends", "complete"), [("fin", True), ("rst", False), ("shutdown", False)])
def test_body_until_close_is_whole_only_after_fin(ends: str, complete: bool) -> None:
    talk = say(GET, b"HTTP/1.0 200 OK\r\n\r\nall of it")
    if ends == "fin":
        talk.close(1)
    elif ends == "rst":
        talk.reset(1)
        talk.now += 10**10
    stages = Stages()
    found = stages.feed(talk.out)
    found += stages.pairs.feed(stages.http.feed(stages.streams.tick(talk.now))) + stages.close()
    response = found[0].response
    assert response is not None
    assert response.content.data() == b"all of it"
    assert response.content.complete is complete
    assert found[0].flaws == ([] if complete else [f"response-unfinished-{ends}"])


def test_surplus_octets_are_no_response() -> None:
    found, tally = heard(say(GET, OK + b"\r\n\r\nnoise and more", GET, OK))
    assert [short(x)[:2] for x in found] == [("GET", 200), ("GET", 200)]
    assert tally["http_cut_head_bytes"] + tally["http_unframed_bytes"] == len(b"noise and more")
    assert "resynchronised" in found[1].flaws


def test_response_that_nobody_asked_for_is_an_orphan() -> None:
    found, _ = heard(say(GET, OK + b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n"))
    assert [(short(x)[:2], x.flaws) for x in found] == [(("GET", 200), []), ((None, 408), ["orphan"])]


def test_early_response_waits_for_the_rest_of_its_request() -> None:
    post = b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n"
    found, _ = heard(say(post + b"ab", OK, b"cd" + GET, OK))
    assert [short(x)[:2] for x in found] == [("POST", 200), ("GET", 200)]
    assert found[0].request is not None
    assert found[0].request.content.data() == b"abcd"


@pytest.mark.parametrize(("size", "whole"), [(HEAD_LIMIT, True), (HEAD_LIMIT + 1, False)])
def test_head_at_the_limit_and_above(size: int, whole: bool) -> None:
    start, end = b"GET / HTTP/1.1\r\nX: ", b"\r\n\r\n"
    found, tally = heard(say(GET, OK, start + b"x" * (size - len(start) - len(end)) + end, OK))
    assert [short(x)[0] for x in found] == ["GET", "GET" if whole else None]
    assert (tally["http_cut_head_bytes"] > 0) is not whole


CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("tail", "flaw"),
    [
        (b"1;" + b"e" * (LINE_LIMIT - 4) + b"\r\nx\r\n0\r\n\r\n", None),
        (b"1;" + b"e" * LINE_LIMIT + b"\r\nx\r\n0\r\n\r\n", "request-chunk-malformed"),
        (b"0\r\nT: " + b"t" * (TRAILER_LIMIT - 9) + b"\r\n\r\n", None),
        (b"0\r\nT: " + b"t" * TRAILER_LIMIT + b"\r\n\r\n", "request-trailer-too-large"),
        (b"0\r\n" + b"T: t\r\n" * (TRAILER_LIMIT // 6 + 1) + b"\r\n", "request-trailer-too-large"),
        (b"xyz\r\n", "request-chunk-malformed"),
        (b"-1\r\n", "request-chunk-malformed"),
        (b"1\r\nxy\r\n", "request-chunk-malformed"),
        (b"1 \r\nx\r\n0\r\n\r\n", None),
        (b"1\nx\n0\n\n", "request-bare-lf"),
        (b"F" * 16 + b"\r\n", "request-chunk-malformed"),
    ],
)
def test_chunked_coding_at_its_limits_and_broken(tail: bytes, flaw: str | None) -> None:
    found, _ = heard(say(CHUNKED + tail, OK))
    request = found[0].request
    assert request is not None
    assert request.content.complete is (flaw in {None, "request-bare-lf"})
    assert (flaw in found[0].flaws) if flaw else found[0].flaws == []


KINDS = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00",
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "other": b"EHLO example.test\r\n",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mss", [1448, 1])
def test_what_speaks_no_http_is_silent_and_counted_by_kind(kind: str, mss: int) -> None:
    found, tally = heard(Conversation().handshake().say(0, KINDS[kind], mss).say(1, OK).say(0, GET))
    assert found == []
    assert tally["kind_" + kind] == 1
    assert tally[kind + "_bytes"] == len(KINDS[kind] + OK + GET)


def test_pipelined_calls_are_paired_in_order() -> None:
    asks = b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % n for n in range(5))
    answers = b"".join(b"HTTP/1.1 20%d x\r\nContent-Length: 0\r\n\r\n" % n for n in range(4))
    found, _ = heard(say(asks, answers))
    assert [short(x)[1] for x in found] == [200, 201, 202, 203, None]
    assert found[4].flaws == ["unanswered-shutdown"]
