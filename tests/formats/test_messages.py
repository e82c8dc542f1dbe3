"""One JSON array of pairs a line."""

from __future__ import annotations

import json

from hypothesis import given

from appliance.formats import FormatOptions
from appliance.formats.messages import build
from appliance.message import Messages
from appliance.model import HttpExchange, Message
from tests.formats.wire import exchanges
from tests.support.calls import call


def test_a_line_is_what_a_database_is_sent() -> None:
    one = call(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"<\xe9')
    form = build(FormatOptions(publish=Messages().make))
    assert form.begin() == form.end() == b""
    assert form.write(one).decode() == (
        '[["request_method","GET"],["request_url","http://x/"],["response_code","200"],'
        '["response_header:content-length","3"],["response_body","\\"<\N{REPLACEMENT CHARACTER}"],'
        '["now","1700000000123"],["interval","17"]]\n'
    )


def _published(one: HttpExchange) -> Message:
    """As the rules leave it: no pair without value."""
    return [pair for pair in Messages().make(one) if pair[1]]


@given(exchanges())
def test_whatever_the_wire_says_a_message_is_one_line_of_pairs_of_text(one: HttpExchange) -> None:
    line = build(FormatOptions(publish=_published)).write(one)
    assert line.count(b"\n") == 1
    pairs = json.loads(line)
    assert [tuple(pair) for pair in pairs] == _published(one)
    assert all(isinstance(text, str) and text for pair in pairs for text in pair)


def test_a_call_that_may_not_leave_is_no_line() -> None:
    one = call(b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 204 x\r\n\r\n")
    assert build(FormatOptions(publish=lambda _: None)).write(one) == b""
