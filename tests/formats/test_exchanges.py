"""One JSON object a line, as docs/exchanges.md has it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from hypothesis import given

from appliance.formats import FormatOptions
from appliance.formats.exchanges import build
from appliance.model import RESPONSE, HttpExchange
from tests.formats.wire import exchanges
from tests.support.calls import T0_MS, call, exchange, orphan, side

ASK = b"POST /a?b=%41 HTTP/1.1\r\nHost: shop.test\r\nX-A:  1 \r\nx-a: 2\r\nContent-Length: 3\r\n\r\nabc"
SAY = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
)


def show(one: HttpExchange) -> dict[str, Any]:
    form = build(FormatOptions())
    line = form.begin() + form.write(one) + form.end()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return json.loads(line)  # type: ignore[no-any-return]


def test_a_whole_call() -> None:
    assert show(call(ASK, SAY, vni=4242)) == {
        "vni": 4242,
        "client": {"address": "10.0.0.1", "port": 40000},
        "server": {"address": "10.0.0.2", "port": 80},
        "request": {
            "method": "POST",
            "target": "/a?b=%41",
            "version": "HTTP/1.1",
            "headers": [["Host", "shop.test"], ["X-A", "1"], ["x-a", "2"], ["Content-Length", "3"]],
            "body": {"length": 3, "sha256": hashlib.sha256(b"abc").hexdigest(), "complete": True},
            "time": (T0_MS - 17) / 1000,
        },
        "response": {
            "status": 200,
            "version": "HTTP/1.1",
            "headers": [["Transfer-Encoding", "chunked"]],
            "body": {"length": 2, "sha256": hashlib.sha256(b"ok").hexdigest(), "complete": True},
            "time": T0_MS / 1000,
        },
        "interim": [100],
        "flaws": [],
    }


def test_a_request_without_response() -> None:
    record = show(call(ASK))
    assert record["response"] is None
    assert record["flaws"] == ["unanswered-fin"]


def test_a_response_without_request() -> None:
    record = show(orphan(b"HTTP/1.0 204 No Content\r\n\r\n"))
    assert record["request"] is None
    assert record["response"]["body"] == {"length": 0, "sha256": None, "complete": True}
    assert record["flaws"] == ["orphan"]
    assert record["client"]["port"] == 40000  # the side that would have asked


def test_the_length_is_what_was_captured_also_beyond_the_limit() -> None:
    response = side(RESPONSE, (b"HTTP/1.1", b"200", b"OK"), body=b"kept")
    response.content.digest = hashlib.sha256(b"kept and not kept")
    response.content.length = 17
    body = show(exchange(None, response))["response"]["body"]
    assert body == {
        "length": 17,
        "sha256": hashlib.sha256(b"kept and not kept").hexdigest(),
        "complete": True,
    }


def test_the_page_names_every_key(root: Path) -> None:
    page = (root / "docs" / "exchanges.md").read_text()
    named = {key.rpartition(".")[2] for key in re.findall(r"`([a-z0-9.]+)`", page)}
    record = show(call(ASK, SAY))
    keys = {*record, *record["client"], *record["request"], *record["response"], *record["request"]["body"]}
    assert named == keys - {"body"}


@given(exchanges())
def test_whatever_the_wire_says_a_record_is_one_line_of_json(one: HttpExchange) -> None:
    assert show(one)["flaws"] == one.flaws
