"""Exchanges in Resurface's vocabulary."""

from __future__ import annotations

import gzip
import random
from typing import Any

import brotli
import pytest

from appliance.message import ANNOTATIONS, NAME_SIZE, NAMES, MessageOptions, Messages, url
from appliance.model import REQUEST, RESPONSE, Endpoint, Flow, FlowKey, HttpExchange
from tests.support.calls import T0_MS, call, exchange, orphan, side
from tests.support.tcp import MS

ASK = b"GET /a?b=1 HTTP/1.1\r\nHost: shop.test\r\n\r\n"
BR = brotli.compress(b"abc")
SAY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def message(exchange: HttpExchange, **options: Any) -> list[tuple[str, str]]:
    return Messages(MessageOptions(**options)).make(exchange)


def keys(pairs: list[tuple[str, str]]) -> list[str]:
    return [key for key, _ in pairs]


def asked(head: str, body: str = "") -> list[tuple[str, str]]:
    return message(call(f"{head}\r\n\r\n{body}".encode(), SAY))


def test_pairs_come_in_the_order_of_the_protocol() -> None:
    request = b"POST /a?Q=1&q=2 HTTP/1.1\r\nHost: x\r\nB: 1\r\nA: 2\r\nb: 3\r\nContent-Length: 3\r\n\r\nabc"
    response = b"HTTP/1.1 201 Created\r\nZ: 1\r\nContent-Length: 2\r\n\r\nok"
    assert message(call(request, response)) == [
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
    ]


def test_a_call_without_response_has_no_code_and_no_interval() -> None:
    pairs = message(call(ASK))
    assert keys(pairs) == ["request_method", "request_url", "request_param:b", "now", "custom_field:flaws"]
    assert dict(pairs)["now"] == str(T0_MS - 17)


def test_an_orphan_has_only_what_the_response_says() -> None:
    pairs = message(orphan(SAY))
    assert keys(pairs) == [
        "response_code",
        "response_header:content-length",
        "response_body",
        "now",
        "custom_field:flaws",
    ]


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
    pairs = dict(message(exchange(request, response)))
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
    found = [key for key in keys(message(call(request, response))) if "header:" in key]
    assert found == ["request_header:x", "response_header:host", "response_header:content-length"]


def test_content_length_beside_chunked_is_not_a_header() -> None:
    response = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    )
    pairs = message(call(ASK, response))
    assert not [key for key in keys(pairs) if key.startswith("response_header:")]
    assert ("response_body", "ok") in pairs


def test_pairs_without_value_are_left_out_and_blank_bodies_are_kept() -> None:
    response = b"HTTP/1.1 200 OK\r\nX-Empty:   \r\nContent-Length: 2\r\n\r\n  "
    pairs = message(call(ASK, response))
    assert "response_header:x-empty" not in keys(pairs)
    assert ("response_body", "  ") in pairs


def test_what_is_captured_of_a_damaged_body_is_kept() -> None:
    pairs = message(call(ASK, b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort"))
    assert ("response_body", "short") in pairs


# -- content


def body_of(fields: str, body: bytes, **options: Any) -> tuple[str | None, str | None]:
    """The response's body as text, and the flaws."""
    head = f"HTTP/1.1 200 OK\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
    pairs = dict(message(call(ASK, head.encode() + body), **options))
    return pairs.get("response_body"), pairs.get("custom_field:flaws")


@pytest.mark.parametrize(
    ("fields", "body", "expected"),
    [
        ("Content-Encoding: GZip\r\n", gzip.compress(b"abc", mtime=0), ("abc", None)),
        ("Content-Encoding: br\r\nContent-Encoding: gzip\r\n", gzip.compress(BR, mtime=0), ("abc", None)),
        ("Content-Encoding: br, gzip\r\n", gzip.compress(BR, mtime=0), ("abc", None)),
        ("Content-Encoding: gzip\r\n", b"abc", ("abc", "response-coding-damaged")),
        ("Content-Encoding: compress\r\n", b"abc", ("abc", "response-coding-unknown")),
        ("Content-Type: text/plain; charset=latin1\r\n", b"caf\xe9", ("café", None)),
        ("Content-Type: text/plain\r\n", b"caf\xe9", ("caf\ufffd", None)),
        ("Content-Encoding: gzip\r\n", b"", (None, None)),
    ],
)
def test_content_is_decoded(fields: str, body: bytes, expected: tuple[str | None, str | None]) -> None:
    assert body_of(fields, body) == expected


def test_decoded_content_is_limited_too() -> None:
    coded = gzip.compress(bytes(100_000))
    found = body_of("Content-Encoding: gzip\r\n", coded, body_limit=1000)
    assert found == ("\0" * 1000, "response-over-limit")


def test_transfer_coding_behind_chunked_is_undone_too() -> None:
    coded = gzip.compress(b"abc", mtime=0)
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    response += b"%x\r\n" % len(coded) + coded + b"\r\n0\r\n\r\n"
    assert ("response_body", "abc") in message(call(ASK, response))


def test_coded_body_ends_where_octets_lack() -> None:
    """What is decoded from behind a hole is something that nobody sent."""
    plain = random.Random(1).randbytes(5000)
    coded = gzip.compress(plain, mtime=0)
    one = call(ASK, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9999\r\n\r\n")
    assert one.response is not None
    one.response.content.parts = [coded[:2000], coded[3000:]]
    one.response.content.hole = 2000
    shown = dict(message(one))["response_body"]
    assert plain.decode("utf-8", "replace").startswith(shown[:-2])
    assert len(shown) > 500


# -- what is added


def test_client_address_comes_behind_what_was_sent() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Real-IP: 1.1.1.1\r\n\r\n"
    pairs = message(call(request, SAY), realip="x-real-ip")
    assert [v for key, v in pairs if key == "request_header:x-real-ip"] == ["1.1.1.1", "10.0.0.1"]


def test_annotations_come_last_and_only_those_that_are_wanted() -> None:
    one = call(ASK, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", vni=42)
    assert message(one)[-1] == ("custom_field:flaws", "response-unfinished-fin:3")
    assert keys(message(one, annotate=frozenset()))[-1] == "interval"
    assert message(one, annotate=frozenset(ANNOTATIONS))[-5:] == [
        ("custom_field:flaws", "response-unfinished-fin:3"),
        ("custom_field:vni", "42"),
        ("custom_field:client", "10.0.0.1:40000"),
        ("custom_field:server", "10.0.0.2:80"),
        ("custom_field:connection", f"10.0.0.1:40000-10.0.0.2:80#{one.flow.serial}"),
    ]


def test_address_of_version_6_stands_in_brackets() -> None:
    one = call(ASK, SAY)
    one.flow = Flow(FlowKey(None, Endpoint(bytes(15) + b"\1", 9), Endpoint(bytes(16), 80)), 1)
    assert ("custom_field:client", "[::1]:9") in message(one, annotate=frozenset({"client"}))


def test_names_that_attackers_invent_are_not_remembered_without_end() -> None:
    maker = Messages()
    for n in range(0, NAMES + 200, 100):
        fields = "".join(f"N{n + i}: 1\r\n" for i in range(100))
        maker.make(call(f"GET / HTTP/1.1\r\n{fields}{'L' * (NAME_SIZE + 1)}: 1\r\n\r\n".encode(), SAY))
    assert len(maker._names[REQUEST]) <= NAMES
    assert max(map(len, maker._names[REQUEST])) <= NAME_SIZE
