"""Exchanges in Resurface's vocabulary."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from appliance.message import message, url
from appliance.model import REQUEST, RESPONSE
from tests.support.calls import T0_MS, call, exchange, orphan, side
from tests.support.tcp import MS

ASK = b"GET /a?b=1 HTTP/1.1\r\nHost: shop.test\r\n\r\n"
SAY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def keys(pairs: list[tuple[str, str]]) -> list[str]:
    return [key for key, _ in pairs]


def asked(head: str, body: str = "") -> list[tuple[str, str]]:
    return message(call(f"{head}\r\n\r\n{body}".encode(), SAY), "h")


def test_pairs_come_in_the_order_of_the_protocol() -> None:
    request = b"POST /a?Q=1&q=2 HTTP/1.1\r\nHost: x\r\nB: 1\r\nA: 2\r\nb: 3\r\nContent-Length: 3\r\n\r\nabc"
    response = b"HTTP/1.1 201 Created\r\nZ: 1\r\nContent-Length: 2\r\n\r\nok"
    assert message(call(request, response), "sniffer-1") == [
        ("request_method", "POST"),
        ("request_url", "http://x/a"),
        ("response_code", "201"),
        ("request_body", "abc"),
        ("request_header:b", "1"),
        ("request_header:a", "2"),
        ("request_header:b", "3"),
        ("request_header:content-length", "3"),
        ("request_param:q", "1"),
        ("request_param:q", "2"),
        ("response_header:z", "1"),
        ("response_header:content-length", "2"),
        ("response_body", "ok"),
        ("now", str(T0_MS)),
        ("interval", "17"),
        ("host", "sniffer-1"),
    ]


def test_a_call_without_response_has_no_code_and_no_interval() -> None:
    pairs = message(call(ASK), "h")
    assert keys(pairs) == ["request_method", "request_url", "request_param:b", "now", "host"]
    assert dict(pairs)["now"] == str(T0_MS - 17)


def test_an_orphan_has_only_what_the_response_says() -> None:
    pairs = message(orphan(SAY), "h")
    assert keys(pairs) == ["response_code", "response_header:content-length", "response_body", "now", "host"]


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (-5 * MS, "1"),
        (0, "1"),
        (MS - 1, "1"),
        (MS, "1"),
        (2 * MS - 1, "1"),
        (2 * MS, "2"),
        (90_000 * MS, "90000"),
    ],
)
def test_interval_is_whole_milliseconds_and_at_least_one(nanoseconds: int, text: str) -> None:
    request = side(REQUEST, (b"GET", b"/", b"HTTP/1.1"), ts=T0_MS * MS - nanoseconds)
    response = side(RESPONSE, (b"HTTP/1.1", b"200", b"OK"), ts=T0_MS * MS)
    pairs = dict(message(exchange(request, response), "h"))
    assert pairs["interval"] == text
    assert pairs["now"] == str(T0_MS)


@pytest.mark.parametrize(
    ("method", "target", "host", "expected"),
    [
        (b"GET", b"/p?q", b"shop.test:8080", "http://shop.test:8080/p"),
        (b"GET", b"/a%20b%2Fc?q", b"x", "http://x/a%20b%2Fc"),  # not decoded: it would not be a URL
        (b"GET", b"/p%zz", b"x", "http://x/p%zz"),  # never dropped for a broken escape
        (b"GET", b"/p", b"[2001:db8::1]:80", "http://[2001:db8::1]:80/p"),
        (b"GET", b"http://other/p%41?q#f", b"x", "http://other/p%41?q#f"),
        (b"GET", b"https://other", b"x", "https://other"),
        (b"CONNECT", b"h:443", b"x", "http://h:443"),
        (b"OPTIONS", b"*", b"x", "http://x*"),
        (b"GET", b"/p", None, "http:///p"),
        (b"GET", b"//a/../b;c=1", b"x", "http://x//a/../b;c=1"),
        (b"GET", b"/redirect?to=http://evil", b"x", "http://x/redirect"),
        (b"GET", b"/\xff", b"x", "http://x/�"),
    ],
)
def test_url(method: bytes, target: bytes, host: bytes | None, expected: str) -> None:
    fields = [] if host is None else [(b"hOsT", host)]
    assert url(side(REQUEST, (method, target, b"HTTP/1.1"), fields)) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("a=1&b=2", [("a", "1"), ("b", "2")]),
        ("A=1&a=2", [("a", "1"), ("a", "2")]),
        ("%41=%C3%A9", [("a", "é")]),
        ("a=1+2%2B3", [("a", "1 2+3")]),
        ("a=b=c", [("a", "b=c")]),
        ("a=1;b=2", [("a", "1;b=2")]),
        ("k&k2=&x=1", [("x", "1")]),
        ("=v", [("", "v")]),
        ("bad=%zz&bad%=1&bad=%4&good=1", [("good", "1")]),
        ("a=1?b", [("a", "1?b")]),
        ("&&", []),
        ("", []),
    ],
)
def test_parameters_of_the_query(query: str, expected: list[tuple[str, str]]) -> None:
    pairs = asked(f"GET /p?{query} HTTP/1.1\r\nHost: x")
    found = [(key.removeprefix("request_param:"), v) for key, v in pairs if key.startswith("request_param:")]
    assert found == expected


def test_a_form_in_the_body_is_a_body_and_not_parameters() -> None:
    kind = "application/x-www-form-urlencoded"
    head = f"POST /f?a=1 HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 11"
    pairs = asked(head, "user=a&b=c2")
    assert ("request_body", "user=a&b=c2") in pairs
    assert [pair for pair in pairs if pair[0].startswith("request_param:")] == [("request_param:a", "1")]


def test_framing_fields_and_the_host_are_not_headers() -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\nX: 1\r\n\r\n"
    request += b"0\r\nT: 2\r\n\r\n"
    response = b"HTTP/1.1 200 OK\r\nHost: y\r\nContent-Length: 0\r\n\r\n"
    found = [key for key in keys(message(call(request, response), "h")) if "header:" in key]
    assert found == ["request_header:x", "response_header:host", "response_header:content-length"]


def test_content_length_beside_chunked_is_not_a_header() -> None:
    response = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    )
    pairs = message(call(ASK, response), "h")
    assert not [key for key in keys(pairs) if key.startswith("response_header:")]
    assert ("response_body", "ok") in pairs


def test_pairs_without_value_are_left_out_and_blank_bodies_are_kept() -> None:
    response = b"HTTP/1.1 200 OK\r\nX-Empty:   \r\nContent-Length: 2\r\n\r\n  "
    pairs = message(call(ASK, response), "h")
    assert "response_header:x-empty" not in keys(pairs)
    assert ("response_body", "  ") in pairs


def test_what_is_captured_of_a_damaged_body_is_kept() -> None:
    pairs = message(call(ASK, b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort"), "h")
    assert ("response_body", "short") in pairs


# -- what the predecessor's output stage makes of the same octets

# Where we differ: in these keys, for this reason.
_URL = "the path stays as on the wire (spec §1.4)"
_CODING = "content decoding is not done yet"
_RULES = "rules are not done yet"
_KEPT = "what is there of a damaged body is kept (spec §1.7)"
_BODY = {"response_body"}
DIFFERENT: dict[str, tuple[set[str], str]] = {
    "get": ({"request_url"}, _URL),
    "get-debug": ({"request_url", "session_field:sid", "session_field:theme"}, _URL + "; " + _RULES),
    "bad-utf8-path": ({"request_url"}, _URL),
    "encoded-slash": ({"request_url"}, _URL),
    "connect": (_BODY, "what follows a CONNECT is a tunnel (RFC 9110 §9.3.6)"),
    "gzip": (_BODY, _CODING),
    "GZIP-upper": (_BODY, _CODING),
    "deflate-zlib": (_BODY, _CODING),
    "deflate-raw": (_BODY, _CODING),
    "two-encodings": (_BODY, _CODING),
    "gzip-corrupt": (_BODY, _CODING),
    "gzip-multi": (_BODY, _CODING),
    "req-gzip": ({"request_body"}, _CODING),
    "zstd": (_BODY, _KEPT),
    "truncated-cl": (_BODY, _KEPT),
    "chunked-cut": (_BODY, _KEPT),
    "gzip-plain-lie": (_BODY, _KEPT),
    "pragma": (
        {"request_header:cache-control", "response_header:cache-control"},
        "nothing is invented (spec §1.5)",
    ),
    "custom": ({"custom_field:foo"}, "not reachable from the predecessor"),
    "hdr-space-before-colon": (
        {"request_header:x-a ", "request_header:x-a"},
        "the name ends before the blank",
    ),
    "neg-interval": ({"interval"}, "at least 1 (spec §1.8)"),
    "emptycookie": ({"session_field:b", "session_field:c"}, _RULES),
    "two-cookie-lines": ({"session_field:a", "session_field:b"}, _RULES),
}
RULES = {"strict", "standard"}  # compared when there are rules
LOST = {"badpctpath", "dup-host", "dup-cl", "te-gzip-chunked"}  # by the predecessor; never by us
INVALID = {"escapes"}  # the predecessor's line is not JSON
VECTORS = 69


@pytest.fixture(scope="session")
def vectors(shared: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((shared / "spec" / "message-vectors.json").read_text())["vectors"]
    assert len(found) == VECTORS
    return {vector["name"]: vector for vector in found}


def octets(source: dict[str, str]) -> bytes:
    return source["text"].encode() if "text" in source else base64.b64decode(source["base64"])


def made(vector: dict[str, Any]) -> list[tuple[str, str]]:
    one = call(octets(vector["request"]), octets(vector["response"]), interval=vector["interval_ms"])
    return message(one, vector["host"])


def test_messages_are_the_predecessors(vectors: dict[str, dict[str, Any]]) -> None:
    for name in sorted(vectors.keys() - RULES - LOST - INVALID):
        ours = {tuple(pair) for pair in made(vectors[name])}
        theirs = {tuple(pair) for pair in vectors[name]["sniffer"]["pairs"]}
        expected = DIFFERENT.get(name, (set(), ""))[0]
        assert {key for key, _ in ours ^ theirs} == expected, name
        if name not in DIFFERENT:
            assert len(made(vectors[name])) == len(vectors[name]["sniffer"]["pairs"]), name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("badpctpath", ("request_url", "http://x/p%zz")),
        ("dup-host", ("request_url", "http://a/p")),
        ("dup-cl", ("request_url", "http://a/")),
        ("te-gzip-chunked", ("request_url", "http://a/")),
    ],
)
def test_calls_that_the_predecessor_loses_come_out(
    name: str, expected: tuple[str, str], vectors: dict[str, dict[str, Any]]
) -> None:
    assert "call_lost" in vectors[name]["sniffer"]
    assert expected in made(vectors[name])


def test_a_body_with_backslash_u003c_survives(vectors: dict[str, dict[str, Any]]) -> None:
    assert "invalid_json_line" in vectors["escapes"]["sniffer"]
    body = octets(vectors["escapes"]["response"]).partition(b"\r\n\r\n")[2].decode()
    assert "\\u003c" in body
    assert ("response_body", body) in made(vectors["escapes"])
