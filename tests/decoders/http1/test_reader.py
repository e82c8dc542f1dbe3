"""One direction of HTTP/1: heads and bodies however they are cut, holes, ends and limits."""

from __future__ import annotations

import pytest

from appliance.decoders.http1.reader import HEAD_LIMIT, LINE_LIMIT, TRAILER_LIMIT
from appliance.model import EndReason
from tests.decoders.steps import Steps, merged

GET = b"GET / HTTP/1.1\r\n\r\n"
ASKED = ["1>GET /", "1>."]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_MORE = b"HTTP/1.1 204 x\r\n\r\n"


def asked() -> Steps:
    """One request, whole."""
    steps = Steps()
    assert steps.c(GET) == ASKED
    return steps


# -- whole messages, cut at every place

WHOLE = {
    "no body": (GET, ["1>GET /", "1>."]),
    "blank lines before": (b"\r\n\r\n\n" + GET, ["1>GET /", "1>."]),
    "length": (b"PUT /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", ["1>PUT /a", "1>:abc", "1>."]),
    "length zero": (b"PUT /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n", ["1>PUT /a", "1>."]),
    "chunked": (
        b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n",
        ["1>PUT /a", "1>:abc0123456789", "1>."],
    ),
    "chunked and empty": (
        b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n000\r\n\r\n",
        ["1>PUT /a", "1>."],
    ),
    "chunk extensions and trailers": (
        (
            b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'3;a=b\r\nabc\r\n2 ; q="\\""\r\nde\r\n0;z\r\nX: y\r\nContent-Length: 9\r\n\r\n'
        ),
        ["1>PUT /a", "1>:abcde", "1>."],
    ),
    "chunked body that looks like HTTP": (
        b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n" + GET + b"\r\n0\r\n\r\n",
        ["1>PUT /a", "1>:" + GET.decode(), "1>."],
    ),
    "bare line feeds in a head": (
        b"PUT /a HTTP/1.1\nContent-Length: 3\n\nabc",
        ["1>PUT /a", "1>:abc", "1>. request-bare-lf"],
    ),
    "bare line feeds in chunks": (
        b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
        ["1>PUT /a", "1>:abc", "1>. request-bare-lf"],
    ),
    "folded field": (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", ["1>GET /", "1>. request-obs-fold"]),
    "target with a blank": (b"GET /a b HTTP/1.1\r\n\r\n", ["1>GET /a b", "1>. request-start-line"]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_message_cut_anywhere(name: str) -> None:
    octets, want = WHOLE[name]
    octets += b"GET /next HTTP/1.1\r\n\r\n"
    want = [*want, "2>GET /next", "2>."]
    assert merged(Steps().c(octets)) == want
    for cut in range(1, len(octets)):
        steps = Steps()
        assert merged(steps.c(octets[:cut]) + steps.c(octets[cut:])) == want, cut
        assert steps.count("http_held_bytes") == 0
    steps = Steps()
    assert merged([text for n in range(len(octets)) for text in steps.c(octets[n : n + 1])]) == want


@pytest.mark.parametrize("cut", range(1, 37))
def test_chunked_response_cut_anywhere(cut: int) -> None:
    steps = asked()
    body = b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nT: v\r\n\r\n"
    assert len(body) == 36
    said = steps.s(CHUNKED + body[:cut]) + (steps.s(body[cut:]) if body[cut:] else [])
    assert merged(said) == ["1<200", "1<:hello world", "1<."]
    assert steps.count("http_framing_bytes") == len(body) - len(b"hello world")


# -- bodies that end with the connection


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        (EndReason.FIN, "1<."),
        (EndReason.RST, "1<! response-unfinished-rst"),
        (EndReason.IDLE, "1<! response-unfinished-idle"),
        (EndReason.REUSED, "1<! response-unfinished-reused"),
        (EndReason.EVICTED, "1<! response-unfinished-evicted"),
        (EndReason.SHUTDOWN, "1<! response-unfinished-shutdown"),
    ],
)
def test_body_until_close_is_whole_only_if_the_server_closed(reason: EndReason, end: str) -> None:
    steps = asked()
    assert steps.s(b"HTTP/1.0 200 OK\r\n\r\nabc") == ["1<200", "1<:abc"]
    assert steps.s(b"GET / HTTP/1.1\r\n\r\n") == ["1<:GET / HTTP/1.1\r\n\r\n"]
    assert steps.end(1, reason) == [end]


def test_body_until_close_with_a_hole_goes_on_behind_it() -> None:
    steps = asked()
    assert steps.s(b"HTTP/1.0 200 OK\r\n\r\nabc") == ["1<200", "1<:abc"]
    assert steps.gap(1, 7) == ["1<~"]
    assert steps.s(b"klm") == ["1<:klm"]
    assert steps.end(1) == ["1<! response-gap:7"]


@pytest.mark.parametrize("reason", EndReason, ids=str)
def test_end_inside_a_body_of_known_length_says_how_much_lacks(reason: EndReason) -> None:
    steps = asked()
    steps.s(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    assert steps.end(1, reason) == [f"1<! response-unfinished-{reason.value}:7"]


UNFINISHED_CHUNKS = [
    b"",
    b"5",
    b"5\r",
    b"5\r\n",
    b"5\r\nhel",
    b"5\r\nhello",
    b"5\r\nhello\r",
    b"0\r\n",
    b"0\r\nT: v",
]


@pytest.mark.parametrize("body", UNFINISHED_CHUNKS)
def test_end_inside_a_chunked_body(body: bytes) -> None:
    steps = asked()
    steps.s(CHUNKED + body)
    assert steps.end(1) == ["1<! response-unfinished-fin"]
    assert steps.count("http_held_bytes") == 0


def test_end_inside_a_head_keeps_its_whole_lines() -> None:
    steps = Steps()
    assert steps.c(b"GET /a HTTP/1.1\r\nHost: h\r\nX-Cut: ab") == []
    assert steps.count("http_held_bytes") == 35
    assert steps.end(0) == ["1>GET /a", "1>! request-head-cut request-unfinished-fin"]
    assert (steps.count("http_head_bytes"), steps.count("http_cut_head_bytes")) == (26, 9)
    assert steps.end(1) == ["1<! unanswered-fin"]


def test_end_inside_a_start_line_invents_nothing() -> None:
    steps = asked()
    assert steps.c(b"GET /b HT") == []
    assert steps.end(0) == []
    assert steps.count("http_cut_head_bytes") == 9


# -- holes


def test_hole_inside_a_body_of_known_length_is_stepped_over() -> None:
    steps = asked()
    assert steps.s(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc") == ["1<200", "1<:abc"]
    assert steps.gap(1, 4) == ["1<~"]
    assert steps.s(b"hij") == ["1<:hij", "1<! response-gap:4"]
    assert steps.c(b"GET /b HTTP/1.1\r\n\r\n") == ["2>GET /b", "2>."]
    assert steps.s(NO_MORE) == ["2<204", "2<."]
    assert steps.count("http_unframed_bytes") == 0


def test_hole_up_to_the_end_of_a_body_keeps_the_boundary() -> None:
    steps = asked()
    steps.c(b"GET /b HTTP/1.1\r\n\r\n")
    steps.s(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    assert steps.gap(1, 7) == ["1<! response-gap:7"]
    assert steps.s(NO_MORE) == ["2<204", "2<."]


def test_hole_beyond_the_end_of_a_body_loses_the_boundary() -> None:
    steps = asked()
    steps.c(b"GET /b HTTP/1.1\r\n\r\n")
    steps.s(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    assert steps.gap(1, 8) == ["1<! response-gap:7"]
    assert steps.s(NO_MORE) == []
    assert steps.count("http_unframed_bytes") == len(NO_MORE)
    assert steps.close() == ["2<! unanswered-gap"]


def test_several_holes_are_added_up_by_kind() -> None:
    steps = asked()
    steps.s(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\na")
    assert steps.gap(1, 2) == ["1<~"]
    assert steps.s(b"d") == ["1<:d"]
    assert steps.gap(1, 3, truncated=True) == ["1<~"]
    assert steps.gap(1, 1) == ["1<~"]
    assert steps.s(b"ij") == ["1<:ij", "1<! response-gap:3 response-truncated:3"]


def test_cut_packet_in_a_body_is_told_from_a_lost_one() -> None:
    steps = asked()
    steps.s(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na")
    assert steps.gap(1, 4, truncated=True) == ["1<! response-truncated:4"]


def test_hole_inside_a_chunk_is_stepped_over() -> None:
    steps = asked()
    assert steps.s(CHUNKED + b"A\r\nabc") == ["1<200", "1<:abc"]
    assert steps.gap(1, 4) == ["1<~"]
    assert steps.s(b"hij\r\n2\r\nkl\r\n0\r\n\r\n") == ["1<:hij", "1<:kl", "1<! response-gap:4"]


def test_hole_up_to_the_end_of_a_chunk_keeps_the_boundary() -> None:
    steps = asked()
    steps.s(CHUNKED + b"A\r\nabc")
    assert steps.gap(1, 7) == ["1<~"]
    assert steps.s(b"\r\n2\r\nkl\r\n0\r\n\r\n") == ["1<:kl", "1<! response-gap:7"]


def test_hole_beyond_the_end_of_a_chunk_ends_the_message() -> None:
    steps = asked()
    steps.s(CHUNKED + b"A\r\nabc")
    assert steps.gap(1, 8) == ["1<! response-gap:7"]
    assert steps.s(b"\n0\r\n\r\n") == []


@pytest.mark.parametrize("body", [b"", b"A", b"3\r\nabc", b"3\r\nabc\r\n", b"0\r\n", b"0\r\nT: v\r\n"])
def test_hole_in_the_framing_of_chunks_ends_the_message(body: bytes) -> None:
    steps = asked()
    steps.s(CHUNKED + body)
    assert steps.gap(1, 5) == ["1<! response-gap:5"]
    assert steps.s(b"\r\n\r\n") == []
    assert steps.count("http_held_bytes") == 0


def test_hole_inside_a_head_keeps_its_whole_lines() -> None:
    steps = asked()
    assert steps.s(b"HTTP/1.1 404 Not Found\r\nServer: x\r\nContent-Le") == []
    assert steps.gap(1, 20) == ["1<404", "1<! response-head-cut response-gap:20"]
    assert steps.s(b"rest of a body") == []
    assert steps.count("http_cut_head_bytes") == len(b"Content-Le")


def test_hole_inside_a_start_line_loses_the_message() -> None:
    steps = asked()
    assert steps.s(b"HTTP/1.1 40") == []
    assert steps.gap(1, 20) == []
    assert steps.close() == ["1<! unanswered-gap"]


def test_hole_between_messages_loses_the_boundary() -> None:
    steps = asked()
    assert steps.gap(1, 5) == []
    assert steps.s(b"body of something\r\n") == []
    assert steps.close() == ["1<! unanswered-gap"]


# -- limits


def head_of(size: int) -> bytes:
    start, end = b"GET /big HTTP/1.1\r\nX: ", b"\r\n\r\n"
    return start + b"x" * (size - len(start) - len(end)) + end


@pytest.mark.parametrize("step", [1448, 60_000])
def test_head_at_its_limit_and_above(step: int) -> None:
    for size, want in ((HEAD_LIMIT, ["1>GET /big", "1>."]), (HEAD_LIMIT + 1, [])):
        steps = Steps()
        octets = head_of(size)
        said = [text for at in range(0, size, step) for text in steps.c(octets[at : at + step])]
        assert said == want
        assert steps.count("http_held_bytes") == 0
        lost = 0 if want else size
        assert steps.count("http_cut_head_bytes") + steps.count("http_unframed_bytes") == lost


def chunk_line_of(size: int) -> bytes:
    """With its line end."""
    return b"3;" + b"x" * (size - 4) + b"\r\n"


@pytest.mark.parametrize("step", [100, LINE_LIMIT // 2 + 1, 60_000])
def test_chunk_line_at_its_limit_and_above(step: int) -> None:
    """However it is cut: the same octets say the same."""
    for size, want in (
        (LINE_LIMIT + 1, ["1<:abc", "1<."]),
        (LINE_LIMIT + 2, ["1<! response-chunk-malformed"]),
    ):
        steps = asked()
        steps.s(CHUNKED)
        octets = chunk_line_of(size) + b"abc\r\n0\r\n\r\n"
        said = [text for at in range(0, len(octets), step) for text in steps.s(octets[at : at + step])]
        assert merged(said) == want
        assert steps.count("http_held_bytes") == 0


@pytest.mark.parametrize("step", [100, 60_000])
@pytest.mark.parametrize("lines", [1, 10])
def test_trailers_at_their_limit_and_above(step: int, lines: int) -> None:
    for size, want in ((TRAILER_LIMIT, "1<."), (TRAILER_LIMIT + lines, "1<! response-trailer-too-large")):
        steps = asked()
        steps.s(CHUNKED + b"0\r\n")
        each = size // lines
        trailer = (b"T:" + b"x" * (each - 4) + b"\r\n") * lines
        trailer += b"" if len(trailer) == size else b"T" * (size - len(trailer) - 2) + b"\r\n"
        octets = trailer + b"\r\n"
        said = [text for at in range(0, len(octets), step) for text in steps.s(octets[at : at + step])]
        assert said == [want]
        assert steps.count("http_held_bytes") == 0


# -- what is no HTTP

BROKEN_CHUNKS = {
    "no number": b"x\r\n",
    "negative": b"-1\r\n",
    "prefix": b"0x3\r\nabc\r\n",
    "empty line": b"\r\n3\r\nabc\r\n",
    "number too long": b"1" * 16 + b"\r\n",
    "blank before": b" 3\r\nabc\r\n",
    "no line end behind the chunk": b"3\r\nabcX\r\n0\r\n\r\n",
    "line end too early": b"5\r\nabc\r\n0\r\n\r\n",
    "carriage return inside": b"3\rx\r\nabc\r\n",
}


@pytest.mark.parametrize("name", BROKEN_CHUNKS)
def test_broken_chunk_ends_the_message_and_loses_the_boundary(name: str) -> None:
    octets = BROKEN_CHUNKS[name]
    for cut in range(len(octets)):
        steps = asked()
        steps.s(CHUNKED)
        said = (steps.s(octets[:cut]) if cut else []) + steps.s(octets[cut:])
        assert merged(said)[-1] == "1<! response-chunk-malformed", cut
        assert steps.s(NO_MORE) == []
        assert steps.count("http_held_bytes") == 0


@pytest.mark.parametrize(
    "cruft", [b"\0\1\2\3", b"hello world\r\n\r\n", b"GET\r\n\r\n", b"<html>\r\n", b"\x16\x03\x01"]
)
def test_octets_behind_a_request_that_start_none(cruft: bytes) -> None:
    steps = asked()
    assert steps.c(cruft) == []
    assert steps.s(NO_MORE) == ["1<204", "1<. resynchronised"], "by acknowledgment: order proves nothing now"
    assert steps.c(GET) == ["2>GET /", "2>."], "the server had acknowledged the octets up to here"
    assert steps.count("http_unframed_bytes") + steps.count("http_cut_head_bytes") == len(cruft)


def test_request_whose_end_is_not_defined_has_no_body() -> None:
    steps = Steps()
    request = (
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcGET /smuggled HTTP/1.1\r\n\r\n"
    )
    assert steps.c(request) == ["1>POST /", "1>! request-cl-conflict"]
    assert steps.count("http_unframed_bytes") == 29
