"""Each connection gets the decoder of what it speaks, once; what is no HTTP stays silent and is counted."""

from __future__ import annotations

import pytest

from appliance.decoders.recognise import PREFIX_LIMIT
from tests.decoders.steps import JOINED, Steps

GET = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 204 x\r\n\r\n"

OTHERS = {
    "tls": (b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x03\x00\x02ok"),
    "ssh": (b"SSH-2.0-x\r\n", b"SSH-2.0-y\r\n"),
    "http2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"),
    "other": (b"EHLO x\r\n", b"250 y\r\n"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("first", [0, 1], ids=["client first", "server first"])
def test_what_is_no_http_stays_silent_and_is_counted(kind: str, first: int) -> None:
    steps = Steps()
    said, answered = OTHERS[kind]
    assert steps.say(first, said) == []
    assert steps.say(1 - first, answered) == []
    assert steps.c(GET) == steps.s(OK) == [], "what was decided stays"
    assert steps.gap(0, 10) == steps.close() == []
    assert steps.count(kind + "_bytes") == len(said + answered + GET + OK)
    assert steps.count("kind_" + kind) == 1
    assert steps.count("kind_http1") == 0


@pytest.mark.parametrize("kind", ["tls", "ssh", "http2"])
def test_it_may_come_octet_by_octet(kind: str) -> None:
    steps = Steps()
    for n in range(len(OTHERS[kind][0])):
        assert steps.c(OTHERS[kind][0][n : n + 1]) == []
    assert steps.count(kind + "_bytes") == len(OTHERS[kind][0])
    assert steps.count("probe_held_bytes") == 0


def test_http_may_come_octet_by_octet() -> None:
    steps = Steps()
    said = [text for n in range(len(GET)) for text in steps.c(GET[n : n + 1])]
    assert said == ["1>GET /", "1>."]
    assert (steps.count("kind_http1"), steps.count("http_head_bytes")) == (1, len(GET))


def test_either_side_may_be_the_client() -> None:
    steps = Steps()
    assert steps.s(GET) == ["1>GET /", "1>."]
    assert steps.c(OK) == ["1<204", "1<."]


def test_what_was_said_before_it_was_recognised_is_not_lost() -> None:
    steps = Steps()
    assert steps.c(b"GET / HT") == []
    assert steps.count("probe_held_bytes") == 8
    assert steps.s(OK, acked=0) == ["1<204", "1<. orphan"], "it came before any request was whole"
    assert steps.count("probe_held_bytes") == 0
    assert steps.c(b"TP/1.1\r\n\r\n") == ["2>GET /", "2>."]


def test_connection_too_short_to_tell() -> None:
    steps = Steps()
    assert steps.c(b"GET /") == []
    assert steps.close() == []
    assert (steps.count("kind_other"), steps.count("other_bytes")) == (1, 5)


def test_connection_without_a_single_octet_is_of_no_kind() -> None:
    steps = Steps()
    assert steps.close() == []
    assert steps.count("kind_other") == 0


def test_request_line_that_never_ends() -> None:
    steps = Steps()
    size = 0
    while steps.count("kind_other") == 0:
        assert steps.c(b"GET /" if not size else b"x" * 1000) == []
        size = steps.place[0]
        assert steps.count("probe_held_bytes") < PREFIX_LIMIT
    assert size == pytest.approx(PREFIX_LIMIT, abs=1000)
    assert steps.count("other_bytes") == size


def test_side_that_has_ended_before_the_other_is_recognised() -> None:
    steps = Steps()
    assert steps.end(0) == []
    assert steps.s(OK) == ["1<204", "1<. orphan"]
    assert steps.end(1) == []


# -- joined in the middle, or with a hole


def test_joined_at_a_request() -> None:
    steps = Steps(joined=True)
    assert steps.c(GET) == ["1>GET /", "1>."]


def test_joined_in_a_body_then_found_by_the_other_sides_acknowledgment() -> None:
    steps = Steps(joined=True)
    tail = b"\0 the end of a body"
    assert steps.s(tail) == []
    assert steps.c(b"\0\1", acked=JOINED + len(tail)) == []
    assert steps.s(OK) == ["1<204", "1<. orphan"]
    assert steps.count("http_unframed_bytes") == len(tail) + 2


def test_joined_in_something_that_is_never_recognised() -> None:
    steps = Steps(joined=True)
    for octets in (b"\0\1\2", b"\3\4"):
        assert steps.c(octets) == steps.s(octets) == []
    assert steps.count("probe_held_bytes") == 10, "it may still turn out to be something"
    assert steps.close() == []
    assert (steps.count("other_bytes"), steps.count("kind_other")) == (10, 1)


def test_joined_in_the_middle_of_tls() -> None:
    steps = Steps(joined=True)
    assert steps.c(b"\x17\x03\x03\x00\x02xx") == []
    assert steps.count("kind_tls") == 1


def test_octet_of_a_keep_alive_probe_before_the_first_request() -> None:
    """RFC 9293 §3.8.4: it repeats the last octet that was sent before."""
    steps = Steps(joined=True)
    assert steps.c(b"\0") == []
    assert steps.c(GET) == ["1>GET /", "1>."]


def test_hole_at_the_very_beginning() -> None:
    steps = Steps()
    assert steps.gap(0, 100) == []
    assert steps.c(b"the rest of a request\r\n\r\n") == []
    assert steps.s(OK) == ["1<204", "1<. orphan"]
    assert steps.c(GET) == ["2>GET /", "2>."]
    assert steps.s(OK) == ["2<204", "2<. resynchronised"]


def test_hole_behind_what_could_have_been_a_request() -> None:
    steps = Steps()
    assert steps.c(b"GET / HT") == []
    assert steps.gap(0, 100) == []
    assert steps.s(OK) == ["1<204", "1<. orphan"]
    assert steps.count("http_unframed_bytes") == 8
