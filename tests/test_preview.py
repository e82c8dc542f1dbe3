"""What a team is shown of its rules."""

from __future__ import annotations

from appliance.ledger import Ledger
from appliance.message import Messages
from appliance.preview import VALUE_WIDTH, Preview
from appliance.rules.engine import Rules
from appliance.rules.grammar import parse
from tests.support.calls import call

ASK = b"GET /a?secret=1 HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\nX: y\r\n\r\n"


def preview(text: str, calls: int = 1, body: bytes = b"token=abc") -> str:
    ledger = Ledger()
    one = Preview(Messages(), Rules(parse(text), ledger, lambda _: 0, lambda: 0.0), ledger, calls)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    one.take(call(ASK, answer))
    one.take(call(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 204 x\r\n\r\n"))
    return one.report()


def test_rules_are_counted_and_a_call_is_shown_before_and_after() -> None:
    report = preview("/request_header:cookie/ remove\n/response_body/ replace /abc/, /***/\n/zzz/ remove")
    assert report.splitlines() == [
        "calls  fields  line  rule",
        "    1       1     1  /request_header:cookie/ remove",
        "    1       1     2  /response_body/ replace /abc/, /***/",
        "    0       0     3  /zzz/ remove",
        "",
        "2 calls, 2 would leave",
        "",
        "call 1:   - does not leave   ~ leaves changed",
        "  request_method: GET",
        "  request_url: http://x/a",
        "  response_code: 200",
        "- request_header:cookie: a=b",
        "  request_header:x: y",
        "  request_param:secret: 1",
        "  response_header:content-length: 9",
        "~ response_body: token=abc -> token=***",
        "  now: 1700000000123",
        "  interval: 17",
    ]


def test_calls_that_do_not_leave_at_all_are_shown_and_counted() -> None:
    report = preview("/request_param:secret/ stop")
    assert "2 calls, 1 would leave\n1 dropped by a stop rule\n" in report
    assert "- request_method: GET\n" in report
    assert "  request_method" not in report


def test_only_as_many_calls_are_shown_as_were_asked_for() -> None:
    assert "call 1" not in preview("include strict", calls=0)
    assert preview("/request_url/ remove", calls=5).count("call ") == 2


def test_long_and_unprintable_values_are_cut_and_marked() -> None:
    report = preview("/request_header:x/ remove", body=b"\x1b[31m" + b"z" * 500)
    assert "\x1b" not in report
    assert f"\u00b7[31m{'z' * (VALUE_WIDTH - 5)}... (505 characters)" in report


def test_rule_that_does_not_come_to_an_end_is_named() -> None:
    report = preview("/response_body/ remove_if /(?!x)(a+)+$/", body=b"a" * 5000 + b"b")
    assert "1 values removed since a rule did not come to an end in its time" in report
