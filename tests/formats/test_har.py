"""HTTP Archive 1.2, held against its schema as the specification words it (http://www.softwareishard.com/blog/har-12-spec/)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from appliance.formats import FormatOptions
from appliance.formats.har import build
from appliance.model import REQUEST, RESPONSE, HttpExchange
from tests.formats.wire import exchanges
from tests.support.calls import T0_MS, call, exchange, orphan, side
from tests.support.tcp import MS

ASK = b"GET /a?b=%41&b=&c+d=e HTTP/1.1\r\nHost: shop.test\r\n\r\n"
SAY = b"HTTP/1.1 302 Found\r\nLocation: /z\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


def archive(*calls: HttpExchange) -> dict[str, Any]:
    form = build(FormatOptions(version="1.2.3"))
    return json.loads(b"".join([form.begin(), *map(form.write, calls), form.end()]))  # type: ignore[no-any-return]


def entry(one: HttpExchange) -> dict[str, Any]:
    return archive(one)["log"]["entries"][0]  # type: ignore[no-any-return]


# -- the schema: required members of each object and what they are; others are its optional ones

Check = Callable[[object], bool]


def _text(value: object) -> bool:
    return isinstance(value, str)


def _count(value: object) -> bool:
    return isinstance(value, int) and value >= -1


def _time(value: object) -> bool:
    return isinstance(value, int | float) and value >= 0


def _iso(value: object) -> bool:
    return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None


def _pairs(value: object) -> bool:
    return isinstance(value, list) and all(_object(item, PAIR) for item in value)


def _object(value: object, members: dict[str, Check], optional: dict[str, Check] | None = None) -> bool:
    assert isinstance(value, dict)
    known = members | (optional or {})
    assert members.keys() <= value.keys() <= known.keys(), value.keys() ^ members.keys()
    for name, member in value.items():
        assert known[name](member), (name, member)
    return True


COMMENT: dict[str, Check] = {"comment": _text}
PAIR: dict[str, Check] = {"name": _text, "value": _text}
MESSAGE: dict[str, Check] = {
    "httpVersion": _text,
    "cookies": _pairs,
    "headers": _pairs,
    "headersSize": _count,
    "bodySize": _count,
}
POST: dict[str, Check] = {"mimeType": _text, "text": _text}
CONTENT: dict[str, Check] = {"size": _count, "mimeType": _text}
CONTENT_OPTIONAL: dict[str, Check] = {"text": _text, "encoding": lambda value: value == "base64"}
TIMINGS: dict[str, Check] = {"send": _time, "wait": _time, "receive": _time}
ENTRY: dict[str, Check] = {
    "startedDateTime": _iso,
    "time": _time,
    "request": lambda value: _object(
        value,
        MESSAGE | {"method": _text, "url": _text, "queryString": _pairs},
        COMMENT | {"postData": lambda post: _object(post, POST, {"encoding": _text})},
    ),
    "response": lambda value: _object(
        value,
        MESSAGE
        | {
            "status": _count,
            "statusText": _text,
            "redirectURL": _text,
            "content": lambda content: _object(content, CONTENT, CONTENT_OPTIONAL),
        },
        COMMENT,
    ),
    "cache": lambda value: value == {},
    "timings": lambda value: _object(value, TIMINGS),
}
ENTRY_OPTIONAL: dict[str, Check] = COMMENT | {"serverIPAddress": _text, "connection": _text}


def valid(log: dict[str, Any]) -> bool:
    assert log.keys() == {"log"}
    return _object(
        log["log"],
        {
            "version": lambda value: value == "1.2",
            "creator": lambda value: _object(value, {"name": _text, "version": _text}),
            "pages": lambda value: value == [],
            "entries": lambda value: (
                isinstance(value, list) and all(_object(one, ENTRY, ENTRY_OPTIONAL) for one in value)
            ),
        },
    )


def test_an_archive_without_calls() -> None:
    assert valid(archive())
    assert archive()["log"]["entries"] == []


def test_an_archive_of_each_kind_of_call() -> None:
    log = archive(call(ASK, SAY), call(ASK), orphan(SAY))
    assert valid(log)
    assert len(log["log"]["entries"]) == 3


@given(st.lists(exchanges(), max_size=3))
def test_whatever_the_wire_says_the_archive_is_valid(calls: list[HttpExchange]) -> None:
    log = archive(*calls)
    assert valid(log)
    assert len(log["log"]["entries"]) == len(calls)


def test_a_whole_call() -> None:
    one = entry(call(ASK, SAY))
    assert one["startedDateTime"] == "2023-11-14T22:13:20.106000+00:00"
    assert one["time"] == one["timings"]["wait"] == 17
    assert one["serverIPAddress"] == "10.0.0.2"
    assert "comment" not in one
    assert one["request"]["url"] == "http://shop.test/a?b=%41&b=&c+d=e"
    assert one["request"]["queryString"] == [
        {"name": "b", "value": "A"},
        {"name": "b", "value": ""},
        {"name": "c d", "value": "e"},
    ]
    assert one["request"]["headersSize"] == len(ASK)
    assert "postData" not in one["request"]
    assert one["response"]["status"] == 302
    assert one["response"]["statusText"] == "Found"
    assert one["response"]["redirectURL"] == "/z"
    assert one["response"]["content"] == {"size": 2, "mimeType": "text/plain", "text": "ok"}


def test_a_request_without_response_has_status_0_as_in_a_browser() -> None:
    one = entry(call(ASK))
    assert one["response"]["status"] == 0
    assert one["comment"] == "unanswered-fin"
    assert one["time"] == 0


def test_a_response_without_request_says_so() -> None:
    one = entry(orphan(SAY))
    assert one["request"]["method"] == "UNKNOWN"
    assert one["request"]["comment"] == "the request is not in the capture"
    assert one["startedDateTime"] == "2023-11-14T22:13:20.123000+00:00"


def test_octets_that_are_no_text_are_base64() -> None:
    octets = b"\x89PNG\xff"
    ask = b"PUT /p HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 5\r\n\r\n" + octets[:5]
    one = entry(call(ask, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + octets))
    packed = base64.b64encode(octets).decode()
    assert one["request"]["postData"] == {"mimeType": "image/png", "text": packed, "encoding": "base64"}
    assert one["response"]["content"] == {
        "size": 5,
        "mimeType": "application/octet-stream",
        "text": packed,
        "encoding": "base64",
    }


def test_a_response_before_its_request_takes_no_negative_time() -> None:
    request = side(REQUEST, (b"GET", b"/", b"HTTP/1.1"), ts=(T0_MS + 2) * MS)
    response = side(RESPONSE, (b"HTTP/1.1", b"200", b"OK"), ts=T0_MS * MS)
    assert entry(exchange(request, response))["time"] == 0


def test_the_archive_is_written_call_by_call() -> None:
    form = build(FormatOptions())
    first, second = form.write(call(ASK, SAY)), form.write(call(ASK, SAY))
    assert second == b",\n" + first
