"""Which response answers which request, and how both are found again after a hole; event by event."""

from __future__ import annotations

import pytest

from appliance.decoders.http1 import conversation
from appliance.decoders.http1.conversation import PIPELINE, SHED
from appliance.model import EndReason
from tests.decoders.steps import Steps


def get(name: str) -> bytes:
    return b"GET /%s HTTP/1.1\r\n\r\n" % name.encode()


def ok(body: bytes = b"", status: int = 200) -> bytes:
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
WAITING = ["1>GET /a", "1>.", "2>GET /b", "2>.", "3>GET /c", "3>."]

# -- in order


def test_pipelined_requests_are_answered_in_order() -> None:
    steps = Steps()
    assert steps.c(get("a") + get("b") + get("c")) == WAITING
    assert steps.s(ok() + ok(b"x")[:-1]) == ["1<200", "1<.", "2<200"]
    assert steps.s(b"x" + ok(status=404)) == ["2<:x", "2<.", "3<404", "3<."]


def test_response_that_comes_before_the_request_is_whole() -> None:
    steps = Steps()
    assert steps.c(b"PUT / HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc") == ["1>PUT /", "1>:abc"]
    assert steps.s(ok(status=413)) == ["1<413", "1<."]
    assert steps.c(b"def") == ["1>:def", "1>."]


def test_interim_responses_belong_to_the_request_that_waits() -> None:
    steps = Steps()
    steps.c(b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
    assert steps.s(CONTINUE) == ["1<(100)"]
    assert steps.c(b"x") == ["1>:x", "1>."]
    said = steps.s(b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n" + CONTINUE + ok())
    assert said == ["1<(103)", "1<(100)", "1<200", "1<."]
    assert (steps.count("interim_responses"), steps.count("responses")) == (3, 1)


def test_interim_response_without_request_belongs_to_no_exchange() -> None:
    steps = Steps()
    assert steps.s(CONTINUE) == []
    assert steps.s(ok()) == ["1<200", "1<. orphan"]
    assert steps.count("interim_responses") == 1


def test_interim_response_and_nothing_more() -> None:
    steps = Steps()
    steps.c(get("a"))
    assert steps.s(CONTINUE) == ["1<(100)"]
    assert steps.close() == ["1<! unanswered-fin"]


@pytest.mark.parametrize("fields", [b"", b"Content-Length: 1000\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("HEAD", 404), ("GET", 304)])
def test_message_without_body_whatever_it_announces(method: str, status: int, fields: bytes) -> None:
    steps = Steps()
    steps.c(method.encode() + b" /a HTTP/1.1\r\n\r\n" + get("b"))
    said = steps.s(b"HTTP/1.1 %d x\r\n" % status + fields + b"\r\n" + ok())
    assert said == [f"1<{status}", "1<.", "2<200", "2<."]


# -- tunnels


def test_after_connect_is_accepted_all_is_tunnel() -> None:
    steps = Steps()
    assert steps.c(b"CONNECT h:443 HTTP/1.1\r\n\r\n") == ["1>CONNECT h:443", "1>."]
    assert steps.s(b"HTTP/1.1 200 x\r\nContent-Length: 3\r\n\r\n\x16\x03\x01") == ["1<200", "1<."]
    assert steps.c(get("hidden")) == []
    assert steps.gap(0, 5) == []
    assert steps.s(ok()) == []
    assert steps.count("tunnel_bytes") == 3 + len(get("hidden") + ok())
    assert steps.close() == []


def test_connect_that_is_refused_leaves_http() -> None:
    steps = Steps()
    steps.c(b"CONNECT h:443 HTTP/1.1\r\n\r\n")
    assert steps.s(ok(b"no", 407)) == ["1<407", "1<:no", "1<."]
    assert steps.c(get("a")) == ["2>GET /a", "2>."]
    assert steps.s(ok()) == ["2<200", "2<."]


def test_upgrade_that_is_not_taken_up_leaves_http() -> None:
    steps = Steps()
    steps.c(b"GET /a HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")
    assert steps.s(ok()) == ["1<200", "1<."]
    assert steps.c(get("b")) == ["2>GET /b", "2>."]


def test_tunnel_takes_what_the_client_had_sent_already() -> None:
    """What is held of a head is tunnel; a request that was read stays unanswered."""
    steps = Steps()
    steps.c(b"CONNECT h:443 HTTP/1.1\r\n\r\n" + get("b") + b"GET /c HTT")
    assert steps.s(b"HTTP/1.1 200 x\r\n\r\n") == ["1<200", "1<."]
    assert steps.count("tunnel_bytes") == 10
    assert steps.close() == ["2<! unanswered-fin"]


# -- no answer, no question


@pytest.mark.parametrize("reason", EndReason, ids=str)
def test_unanswered_request_says_why(reason: EndReason) -> None:
    steps = Steps()
    steps.c(get("a") + get("b"))
    assert steps.end(0, reason) == []
    assert steps.end(1, reason) == [f"1<! unanswered-{reason.value}", f"2<! unanswered-{reason.value}"]


def test_client_that_has_closed_is_still_answered() -> None:
    steps = Steps()
    steps.c(get("a"))
    assert steps.end(0) == []
    assert steps.s(ok()) == ["1<200", "1<."]


def test_request_behind_the_servers_end() -> None:
    steps = Steps()
    steps.c(get("a"))
    steps.s(ok())
    assert steps.end(1) == []
    assert steps.c(get("b")) == ["2>GET /b", "2>."]
    assert steps.end(0, EndReason.RST) == ["2<! unanswered-rst"]


def test_responses_beyond_the_requests_are_orphans() -> None:
    steps = Steps()
    steps.c(get("a"))
    assert steps.s(ok() + ok(status=408)) == ["1<200", "1<.", "2<408", "2<. orphan"]


def test_only_the_servers_direction_was_captured() -> None:
    steps = Steps()
    assert steps.s(ok(b"x"), acked=18) == ["1<200", "1<:x", "1<. orphan"]
    assert steps.s(ok(b"y"), acked=36) == ["2<200", "2<:y", "2<. orphan"]


def test_only_the_clients_direction_was_captured() -> None:
    steps = Steps()
    assert steps.c(get("a"), acked=0) == ["1>GET /a", "1>."]
    assert steps.c(get("b"), acked=40) == ["2>GET /b", "2>."]
    assert steps.close() == ["1<! unanswered-fin", "2<! unanswered-fin"]


# -- after a hole


def test_response_behind_a_hole_is_paired_by_acknowledgment() -> None:
    """The request of which the response is missing stays unanswered; the next one is not given to it."""
    steps = Steps()
    steps.c(get("a"))
    steps.gap(1, 100)
    assert steps.c(get("b")) == ["2>GET /b", "2>."]
    assert steps.s(ok(status=202)) == ["1<! unanswered-gap", "2<202", "2<. resynchronised"]
    steps.c(get("c"))
    assert steps.s(ok()) == ["3<200", "3<."], "order counts again"


def test_response_behind_a_hole_without_proof_is_an_orphan() -> None:
    """The client had 50 octets less than what came before: it may answer something that was asked before."""
    steps = Steps()
    steps.c(get("a"))
    steps.gap(1, 100)
    assert steps.c(get("b"), acked=50) == ["2>GET /b", "2>."]
    assert steps.s(ok(status=202)) == ["3<202", "3<. orphan resynchronised"], "found by its start line"
    assert steps.close() == ["1<! unanswered-gap", "2<! unanswered-gap"]


def test_pipelined_responses_behind_a_hole_answer_nobody() -> None:
    steps = Steps()
    steps.c(get("a") + get("b") + get("c"))
    assert steps.s(ok()) == ["1<200", "1<."]
    steps.gap(1, len(ok()))
    assert steps.s(ok(status=203)) == []
    assert steps.close() == ["2<! unanswered-gap", "3<! unanswered-gap"]


def test_request_behind_a_hole_is_found_where_the_server_had_everything() -> None:
    steps = Steps()
    steps.c(get("a"))
    steps.s(ok())
    steps.gap(0, 30)
    assert steps.s(ok(status=201)) == ["2<201", "2<. orphan"]
    assert steps.c(get("c")) == ["3>GET /c", "3>."]
    assert steps.s(ok(status=202)) == ["3<202", "3<. resynchronised"]


def test_request_behind_a_hole_in_the_middle_of_a_segment() -> None:
    """The server had acknowledged up to the middle of what comes next: there a message begins."""
    steps = Steps()
    steps.c(get("a"))
    steps.s(ok())
    steps.gap(0, 30)
    tail = b"tail of a body"
    steps.s(ok(status=201), acked=steps.place[0] + len(tail))
    assert steps.c(tail + get("c")) == ["3>GET /c", "3>."]
    assert steps.count("http_unframed_bytes") == len(tail)


def test_hole_that_may_hide_a_request_is_never_paired_across() -> None:
    """Before the request at hand another may have been sent at the same time: which one is answered?"""
    steps = Steps()
    steps.c(get("a"))
    steps.s(ok())
    steps.gap(0, len(get("b")))
    assert steps.c(get("c")) == ["2>GET /c", "2>. resynchronised"]
    assert steps.s(ok(status=201)) == ["3<201", "3<. orphan"]
    assert steps.close() == ["2<! unanswered-gap"]


def test_interim_response_behind_a_hole_leaves_the_mark_to_the_final_one() -> None:
    steps = Steps()
    steps.c(get("a"))
    steps.gap(1, 100)
    steps.c(get("b"))
    assert steps.s(CONTINUE + ok()) == ["1<! unanswered-gap", "2<(100)", "2<200", "2<. resynchronised"]
    steps.c(get("c"))
    assert steps.s(ok()) == ["3<200", "3<."]


def test_joined_with_a_request_first() -> None:
    steps = Steps(joined=True)
    assert steps.c(get("a")) == ["1>GET /a", "1>."]
    assert steps.s(ok()) == ["1<200", "1<. resynchronised"]
    steps.c(get("b"))
    assert steps.s(ok()) == ["2<200", "2<."]


def test_joined_with_a_response_first() -> None:
    steps = Steps(joined=True)
    assert steps.s(ok(b"x")) == ["1<200", "1<:x", "1<. orphan"]
    assert steps.c(get("a")) == ["2>GET /a", "2>."]
    assert steps.s(ok()) == ["2<200", "2<. resynchronised"]


def test_joined_in_a_body() -> None:
    steps = Steps(joined=True)
    assert steps.s(b"the rest of a body") == []
    assert steps.c(get("a")) == ["1>GET /a", "1>."]
    assert steps.s(ok()) == ["1<200", "1<. resynchronised"]
    assert steps.count("http_cut_head_bytes") == 18, "it could have been a method that nobody knows"


# -- limits


def test_requests_that_wait_are_limited_and_the_order_goes_on() -> None:
    steps = Steps()
    said = steps.c(get("a") * PIPELINE)
    assert not [text for text in said if "unanswered" in text], "at the limit"
    assert steps.c(get("b")) == [f"{PIPELINE + 1}>GET /b", "1<! unanswered-limit", f"{PIPELINE + 1}>."]
    assert steps.s(ok()) == [f"{PIPELINE + 2}<200", f"{PIPELINE + 2}<. orphan"], "the first one's"
    assert steps.s(ok())[0] == "2<200"


def test_given_up_requests_still_say_where_their_responses_end() -> None:
    steps = Steps()
    steps.c(b"HEAD / HTTP/1.1\r\n\r\n")
    steps.c(get("a") * PIPELINE)
    assert steps.s(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")[-1].endswith(". orphan")
    assert steps.s(ok())[0] == "2<200"


def test_order_ends_where_too_many_were_given_up() -> None:
    steps = Steps()
    for _ in range((PIPELINE + SHED) // 512):
        steps.c(get("a") * 512)
    assert steps.demux._shared.shed == SHED, "at the limit"
    steps.c(get("a"))
    assert steps.demux._shared.shed == 0
    assert {text.split("<")[1] for text in steps.s(ok() * (SHED + 2))} == {"200", ". orphan"}
    ended = steps.end(1)
    assert len(ended) == PIPELINE
    assert ended[0].endswith("unanswered-limit")
    assert steps.demux._shared.waiting == 0


@pytest.mark.skipif(conversation.__file__.endswith(".so"), reason="limits are compiled in")
def test_requests_that_wait_on_all_connections_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "WAITING_LIMIT", 4)
    steps = Steps()
    said = steps.c(get("a") * 6)
    assert [text for text in said if "unanswered" in text] == ["1<! unanswered-limit", "2<! unanswered-limit"]
    assert steps.s(ok() * 3)[-2:] == ["3<200", "3<."]
