"""From exchange to message through the rules: every message vector, and what the predecessor loses."""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Any

import pytest

from appliance.ledger import Ledger
from appliance.message import MessageOptions, Messages
from appliance.model import HttpExchange
from appliance.pipeline import NOBODYS, OwnUploads, Publication
from appliance.rules.engine import Rules
from appliance.rules.grammar import parse
from tests.support import vectors
from tests.support.calls import call
from tests.support.run import Stages
from tests.support.tcp import MS, Conversation

Pairs = list[tuple[str, str]]
VECTORS = vectors.messages()
JSON_BODY = '{"z":1}'

# Where the outcome is not the predecessor's: what lacks of its pairs, what comes instead, and why
# (docs/compatibility.md says the same for people).
RAW_PATH = "the path stays as on the wire (§1.4)"
CODINGS = "codings are undone whatever their spelling (§1.7)"
READABLE = "what is there of a damaged body is kept (§1.7)"
NAMED = "flaws are named in a custom field"
DIFFERENT: dict[str, tuple[Pairs, Pairs, str]] = {
    "get": (
        [("request_url", "http://shop.test:8080/v1/a b/c")],
        [("request_url", "http://shop.test:8080/v1/a%20b/c")],
        RAW_PATH,
    ),
    "get-debug": (
        [("request_url", "http://shop.test:8080/v1/a b/c")],
        [("request_url", "http://shop.test:8080/v1/a%20b/c")],
        RAW_PATH,
    ),
    "bad-utf8-path": (
        [("request_url", "http://a/\ufffd\ufffd")],
        [("request_url", "http://a/%ff%E9")],
        RAW_PATH,
    ),
    "encoded-slash": (
        [("request_url", "http://x/a/b/?c")],
        [("request_url", "http://x/a%2Fb/%3Fc")],
        RAW_PATH,
    ),
    "connect": (
        [("response_body", '{"ok":true}')],
        [],
        "what follows a CONNECT is a tunnel (RFC 9110 §9.3.6)",
    ),
    "GZIP-upper": ([], [("response_body", JSON_BODY)], CODINGS),
    "deflate-raw": ([], [("response_body", JSON_BODY)], CODINGS),
    "two-encodings": ([], [("response_body", JSON_BODY)], CODINGS),
    "zstd": ([], [("response_body", "abc"), ("custom_field:flaws", "response-coding-damaged")], READABLE),
    "truncated-cl": (
        [],
        [("response_body", "short"), ("custom_field:flaws", "response-unfinished-fin:45")],
        READABLE,
    ),
    "chunked-cut": (
        [],
        [("response_body", "abc"), ("custom_field:flaws", "response-unfinished-fin")],
        READABLE,
    ),
    "gzip-corrupt": (
        [],
        [("response_body", JSON_BODY), ("custom_field:flaws", "response-coding-damaged")],
        READABLE,
    ),
    "gzip-plain-lie": (
        [],
        [("response_body", "plain"), ("custom_field:flaws", "response-coding-damaged")],
        READABLE,
    ),
    "latin1": (
        [("response_body", "caf\ufffd")],
        [("response_body", "café")],
        "text by the declared character set (§1.7)",
    ),
    "pragma": (
        [("request_header:cache-control", "no-cache"), ("response_header:cache-control", "no-cache")],
        [],
        "nothing is invented (§1.5)",
    ),
    "custom": ([("custom_field:foo", "bar")], [], "not reachable from the predecessor"),
    "cl-te": ([], [("custom_field:flaws", "request-te-and-cl")], NAMED),
    "resp-cl-and-te": ([], [("custom_field:flaws", "response-te-and-cl")], NAMED),
    "obsfold": ([], [("custom_field:flaws", "request-obs-fold")], NAMED),
    "strict": (
        [
            ("request_header:authorization", "Bearer s3cret"),
            ("request_header:cookie", "a=b"),
            ("response_header:set-cookie", "k=v"),
        ],
        [
            ("request_url", "http://x/p"),
            ("request_header:user-agent", "curl"),
            ("response_header:content-type", "text/plain"),
            ("response_header:content-length", "2"),
        ],
        "strict is what its authors meant (§3.2)",
    ),
    "hdr-space-before-colon": (
        [("request_header:x-a ", "1")],
        [("request_header:x-a", "1"), ("custom_field:flaws", "request-field-space")],
        "the name ends before the blank, and the call says so",
    ),
    "neg-interval": ([("interval", "-5")], [("interval", "1")], "at least 1 (§1.8)"),
}
LOST = {  # by the predecessor: a pair that ours have
    "badpctpath": ("request_url", "http://x/p%zz"),
    "dup-host": ("request_url", "http://a/p"),
    "dup-cl": ("custom_field:flaws", "request-cl-conflict,resynchronised"),
    "te-gzip-chunked": ("response_body", "a"),
}


def octets(source: dict[str, str]) -> bytes:
    return source["text"].encode() if "text" in source else base64.b64decode(source["base64"])


def publication(
    rules: str, ledger: Ledger, host: str = "h", own: OwnUploads = NOBODYS, **options: Any
) -> Publication:
    engine = Rules(parse(rules), ledger, lambda _: 0, lambda: 0.0)
    return Publication(Messages(MessageOptions(**options)), engine, ledger, host, own)


def published(vector: dict[str, Any]) -> Pairs:
    ledger = Ledger()
    one = call(octets(vector["request"]), octets(vector["response"]), interval=vector["interval_ms"])
    message = publication(vector["rules"], ledger, vector["host"]).publish(one)
    assert message is not None
    assert (ledger.tally["calls"], ledger.tally["messages"]) == (1, 1)
    return message


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_message_vector(vector: dict[str, Any]) -> None:
    ours = published(vector)
    if vector["name"] in LOST:
        assert "call_lost" in vector["sniffer"]
        assert LOST[vector["name"]] in ours
    elif vector["name"] == "escapes":  # the predecessor's line is not JSON
        with pytest.raises(ValueError, match="escape"):
            json.loads(vector["sniffer"]["invalid_json_line"])
        body = octets(vector["response"]).partition(b"\r\n\r\n")[2].decode()
        assert "\\u003c" in body
        assert ("response_body", body) in ours
    else:
        lacking, instead, _ = DIFFERENT.get(vector["name"], ([], [], ""))
        theirs = Counter((key, value) for key, value in vector["sniffer"]["pairs"])
        assert Counter(ours) == theirs - Counter(lacking) + Counter(instead)


def test_vectors_are_all_here() -> None:
    assert len(VECTORS) == 69
    assert {*DIFFERENT, *LOST} <= {vector["name"] for vector in VECTORS}


def test_host_comes_after_the_rules_and_annotations_before() -> None:
    ledger = Ledger()
    one = call(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 204 x\r\n\r\n", vni=7)
    rules = "/host|custom_field:.*/ remove\nallow_http_url"
    message = publication(rules, ledger, annotate=frozenset({"vni"})).publish(one)
    assert message is not None
    assert message[-2:] == [("interval", "17"), ("host", "h")]


def test_own_uploads_are_not_captured_and_nobody_else_can_hide_so() -> None:
    ledger = Ledger()
    one = publication(
        "include debug",
        ledger,
        own=OwnUploads(b"Resurface/3.3.2 (x 1234)", b"Resurface/3.3.2 (x", path=b"/message"),
    )
    head = b"POST /message HTTP/1.1\r\nHost: x\r\nUser-Agent: %s\r\n\r\n"
    answer = b"HTTP/1.1 204 x\r\n\r\n"
    assert one.publish(call(head % b"Resurface/3.3.2 (x 1234)", answer)) is None
    for other in (b"Resurface/3.3.2 (x)", b"Resurface/3.3.2 (x 12345)", b"Resurface/3.3.2 (x 123"):
        assert one.publish(call(head % other, answer)) is not None
    assert ledger.tally["call_own_upload"] == 1
    assert not [fault for fault in ledger.unbalanced() if fault.startswith("calls")]


def test_uploads_of_another_appliance_to_our_database_are_no_calls() -> None:
    """Two that see each other would feed each other for ever. The same head to anybody else is a call."""
    ledger = Ledger()
    own = OwnUploads(b"R (x 1)", b"R (x ", b"db.test", 80, b"/message")
    one = publication("include debug", ledger, own=own)

    def sent(
        method: str = "POST", path: str = "/message", host: str = "DB.test:80", agent: str = "R (x 2)"
    ) -> bool:
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n\r\n"
        return one.publish(call(head.encode(), b"HTTP/1.1 204 x\r\n\r\n")) is None

    assert sent()
    assert not any([sent("PUT"), sent(path="/other"), sent(host="shop.test"), sent(agent="R (y 2)")])
    assert ledger.tally["call_own_upload"] == 1


# -- the behaviour matrix (§4.8): what the predecessor loses and we deliver


def get(path: str, *fields: str) -> bytes:
    return f"GET /{path} HTTP/1.1\r\nHost: x\r\n{''.join(f + chr(13) + chr(10) for f in fields)}\r\n".encode()


def ok(body: bytes = b"", status: str = "200 OK", more: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n".encode() + more + b"\r\n" + body


def talk() -> Conversation:
    return Conversation().handshake()


def _pause(middle: int) -> Conversation:
    one = talk().ask(get("a")).say(1, ok(b"12345678")[:-4])
    one.now += middle * MS
    return one.say(1, b"5678")


def _wrap() -> Conversation:
    return Conversation(isn=(0xFFFFFFF0, 0xFFFFFFE0)).handshake().ask(get("a")).answer(ok(b"x" * 50), 7)


def _retransmitted() -> Conversation:
    one = talk().ask(get("a"))
    answer = ok(b"0123456789" * 20)
    one.segment(1, answer[:90])
    one.next[1] -= 60
    one.segment(1, answer[30:])
    return one


def _acknowledged_in_between() -> Conversation:
    one = talk()
    body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc"
    one.segment(0, body)
    one.say(1, ok(b"early"))
    one.segment(0, b"def")
    return one


ROWS: dict[str, tuple[Conversation, list[tuple[str, str]]]] = {
    "sequential keep-alive": (
        talk().ask(get("a")).answer(ok(b"1")).ask(get("b")).answer(ok(b"2")),
        [("http://x/a", "200"), ("http://x/b", "200")],
    ),
    "pipelined, two segments": (
        talk().ask(get("a")).ask(get("b")).answer(ok(b"1")).answer(ok(status="404 N")),
        [("http://x/a", "200"), ("http://x/b", "404")],
    ),
    "pipelined, one segment": (
        talk().ask(get("a") + get("b")).answer(ok(b"1") + ok(status="404 N")),
        [("http://x/a", "200"), ("http://x/b", "404")],
    ),
    "HEAD with a length": (
        talk().ask(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n").answer(ok(b"12345")[:-5]),
        [("http://x/a", "200")],
    ),
    "304 with a length": (talk().ask(get("a")).answer(ok(b"12345", "304 N")[:-5]), [("http://x/a", "304")]),
    "until close, one segment": (
        talk().ask(get("a")).answer(b"HTTP/1.0 200 OK\r\n\r\nbody").close(1),
        [("http://x/a", "200")],
    ),
    "until close, head alone": (
        talk().ask(get("a")).answer(b"HTTP/1.0 200 OK\r\n\r\n").answer(b"body").close(1),
        [("http://x/a", "200")],
    ),
    "body longer than its length": (
        talk().ask(get("a")).ask(get("b")).answer(ok(b"1") + ok(b"2")),
        [("http://x/a", "200"), ("http://x/b", "200")],
    ),
    "status that nobody registered": (
        talk().ask(get("a")).answer(ok(status="599 x")).ask(get("b")).answer(ok(status="499 x")),
        [("http://x/a", "599"), ("http://x/b", "499")],
    ),
    "method that nobody knows": (
        talk().ask(b"PROPFIND /a HTTP/1.1\r\nHost: x\r\n\r\n").answer(ok(status="207 x")),
        [("http://x/a", "207")],
    ),
    "bare LF": (
        talk().ask(b"GET /a HTTP/1.1\nHost: x\n\n").answer(b"HTTP/1.1 200 OK\nContent-Length: 1\n\n1"),
        [("http://x/a", "200")],
    ),
    "status line split": (talk().ask(get("a"), 3).answer(ok(b"1"), 5), [("http://x/a", "200")]),
    "retransmission with other boundaries": (_retransmitted(), [("http://x/a", "200")]),
    "sequence numbers wrap": (_wrap(), [("http://x/a", "200")]),
    "acknowledgment changes inside a message": (_acknowledged_in_between(), [("http://x/", "200")]),
    "100 Continue": (
        talk()
        .ask(get("a", "Expect: 100-continue"))
        .answer(b"HTTP/1.1 100 Continue\r\n\r\n")
        .answer(ok(b"1")),
        [("http://x/a", "200")],
    ),
    "100 Continue with fields": (
        talk().ask(get("a")).answer(b"HTTP/1.1 100 Continue\r\nX: 1\r\n\r\n").answer(ok(b"1")),
        [("http://x/a", "200")],
    ),
    "103 Early Hints": (
        talk().ask(get("a")).answer(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n").answer(ok(b"1")),
        [("http://x/a", "200")],
    ),
    "101 Switching Protocols": (
        talk()
        .ask(get("a", "Upgrade: x"))
        .answer(b"HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n")
        .say(1, b"GET / HTTP/1.1"),
        [("http://x/a", "101")],
    ),
    "chunk data that looks like the end": (
        talk()
        .ask(get("a"))
        .answer(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nA\n0\r\n\r\n\r\n1\r\nB\r\n0\r\n\r\n",
            57,
        ),
        [("http://x/a", "200")],
    ),
    "trailers that nobody announced": (
        talk()
        .ask(get("a"))
        .answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n0\r\nT: 1\r\n\r\n"),
        [("http://x/a", "200")],
    ),
    "payload of zeros": (talk().ask(get("a")).answer(ok(bytes(9)), 39), [("http://x/a", "200")]),
    "two seconds of silence inside a message": (_pause(2500), [("http://x/a", "200")]),
    "an answer after two minutes": (_pause(130_000), [("http://x/a", "200")]),
}


def deliver(one: Conversation) -> list[HttpExchange]:
    stages = Stages()
    return stages.feed(one.out) + stages.close()


@pytest.mark.parametrize("row", ROWS)
def test_call_that_the_predecessor_loses_is_delivered_whole(row: str) -> None:
    one, expected = ROWS[row]
    ledger = Ledger()
    out = publication("include debug", ledger)
    messages = [dict(message or ()) for message in map(out.publish, deliver(one))]
    assert [(m["request_url"], m["response_code"]) for m in messages] == expected
    flaws = {m.get("custom_field:flaws") for m in messages}
    assert flaws == ({"request-bare-lf,response-bare-lf"} if row == "bare LF" else {None})
    bodies = [m.get("response_body") for m in messages]
    if "close" in row:
        assert bodies == ["body"]
    if row == "chunk data that looks like the end":
        assert bodies == ["A\n0\r\n\r\nB"]
    if row == "payload of zeros":
        assert bodies == ["\0" * 9]


def test_one_direction_alone_is_delivered_and_says_so() -> None:
    one = talk()
    one.out = [seg for seg in one.ask(get("a")).answer(ok(b"1")).close().out if seg.route == one.routes[0]]
    (message,) = [dict(m or ()) for m in map(publication("include debug", Ledger()).publish, deliver(one))]
    assert message["request_url"] == "http://x/a"
    assert "response_code" not in message
    assert message["custom_field:flaws"] == "unanswered-shutdown"
