"""A line a call; nothing that the traffic says can touch the terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.formats import FormatOptions
from appliance.formats.table import build, visible
from appliance.model import REQUEST, RESPONSE, HttpExchange
from tests.formats.wire import exchanges
from tests.support.calls import T0_MS, call, exchange, orphan, side
from tests.support.tcp import MS

ASK = b"GET /a?b=1 HTTP/1.1\r\nHost: shop.test\r\n\r\n"
SAY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def lines(one: HttpExchange, width: int = 160) -> tuple[str, str]:
    form = build(FormatOptions(width=width))
    head, line, rest = (form.begin() + form.write(one) + form.end()).decode().split("\n")
    assert rest == ""
    return head, line


def test_a_whole_call() -> None:
    head, line = lines(call(ASK, SAY, vni=4242))
    assert head.split() == [
        "time", "client", "server", "vni", "method", "url", "code", "asks", "says", "ms", "flaws"
    ]  # fmt: skip
    assert line.split() == [
        "22:13:20.106", "10.0.0.1:40000", "10.0.0.2:80", "4242", "GET", "shop.test/a?b=1",
        "200", "0", "2", "17",
    ]  # fmt: skip


def test_what_is_not_there_is_a_dash() -> None:
    assert lines(call(ASK))[1].split()[-4:] == ["-", "0", "-", "unanswered-fin"]
    assert lines(orphan(SAY))[1].split()[3:] == ["-", "-", "200", "-", "2", "orphan"]


def test_cells_stand_under_their_names() -> None:
    head, line = lines(call(ASK, SAY))
    for name, cell in (("client", "10.0.0.1:40000"), ("method", "GET"), ("url", "shop.test")):
        assert head.index(name) == line.index(cell)
    for name, cell in (("code", "200"), ("ms", "17")):
        assert head.index(name) + len(name) == line.rindex(cell) + len(cell)


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (60, "time method url code flaws"),
        (80, "time method url code ms flaws"),
        (100, "time server method url code ms flaws"),
        (120, "time client server method url code ms flaws"),
        (160, "time client server vni method url code asks says ms flaws"),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns_and_no_broken_lines(width: int, columns: str) -> None:
    request = side(REQUEST, (b"OPTIONS", b"/" + b"a" * 500, b"HTTP/1.1"), [(b"Host", b"shop.test")])
    response = side(RESPONSE, (b"HTTP/1.1", b"200", b"OK"))
    one = exchange(request, response, vni=0xFFFFFF)
    one.flaws[:] = ["resynchronised"]
    head, line = lines(one, width)
    assert head.split() == columns.split()
    assert len(line) <= max(width, 67)


def test_a_flaw_is_never_cut() -> None:
    one = call(ASK, SAY)
    one.flaws[:] = ["request-unfinished-shutdown:123456", "response-gap:1448"]
    assert lines(one, 80)[1].endswith(" request-unfinished-shutdown:123456 response-gap:1448")


def test_wide_characters_take_two_columns() -> None:
    request = side(REQUEST, (b"GET", "/日本".encode() * 40, b"HTTP/1.1"))
    head, line = lines(exchange(request, side(RESPONSE, (b"HTTP/1.1", b"200", b"OK"))), 80)
    before = line.partition("200")[0]
    assert before.rstrip().endswith("…")
    shown = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in before)
    assert shown == head.index("code") + 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("naïve 日本", "naïve 日本"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\r\nb\tc\0", "a\\x0d\\x0ab\\x09c\\x00"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),  # would turn the line around
        ("a\u2028b\ufeff", "a\\u2028b\\ufeff"),
        ("\ufffd", "\ufffd"),
    ],
)
def test_what_could_move_the_cursor_is_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(exchanges(), st.integers(1, 300))
def test_whatever_the_wire_says_a_call_is_one_line_of_harmless_text(one: HttpExchange, width: int) -> None:
    _, line = lines(one, width)
    assert not [c for c in line if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}]


@pytest.mark.parametrize(
    ("octets", "complete", "shown"),
    [
        (0, True, "0"),
        (10239, True, "10239"),
        (10240, True, "10k"),
        (3 << 20, False, "3072k+"),
        (5, False, "5+"),
    ],
)
def test_sizes_are_short_and_say_what_is_not_whole(octets: int, complete: bool, shown: str) -> None:
    response = side(RESPONSE, (b"HTTP/1.1", b"200", b"OK"))
    response.content.length = octets
    response.content.complete = complete
    assert lines(exchange(None, response))[1].split()[-2] == shown


def test_a_capture_that_claims_an_impossible_time() -> None:
    response = side(RESPONSE, (b"HTTP/1.1", b"200", b"OK"), ts=2**80)
    assert lines(exchange(None, response))[1].startswith("?")


def test_the_time_between_may_be_negative_where_the_capture_is_out_of_order() -> None:
    request = side(REQUEST, (b"GET", b"/", b"HTTP/1.1"), ts=(T0_MS + 2) * MS)
    response = side(RESPONSE, (b"HTTP/1.1", b"200", b"OK"), ts=T0_MS * MS)
    assert lines(exchange(request, response))[1].split()[-2] == "-2"
