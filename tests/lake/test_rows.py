"""Lines become rows: what is in which column, and that no pair gets lost."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.lake.rows import LINE, SCHEMA, Rows, by_hour, pairs
from appliance.model import Message

MESSAGE: Message = [
    ("request_method", "POST"),
    ("request_url", "http://api.shop.test:8080/v1/orders"),
    ("response_code", "201"),
    ("request_body", "grün"),
    ("request_header:accept", "a/b"),
    ("request_header:accept", "c/d"),
    ("request_header:x-id", "7"),
    ("request_param:q", "1"),
    ("response_header:set-cookie", "a=1"),
    ("response_body", "{}"),
    ("session_field:user", "u"),
    ("now", "1700000000123"),
    ("interval", "12"),
    ("custom_field:flaws", "gap,request-truncated"),
    ("custom_field:client", "10.0.0.1:34786"),
    ("custom_field:server", "10.0.0.2:80"),
    ("custom_field:vni", "123"),
    ("custom_field:stage", "test"),
    ("host", "here"),
]


def rows(*lines: bytes) -> list[dict[str, Any]]:
    table = Rows().table(b"".join(line + b"\n" for line in lines))
    table.validate(full=True)
    assert table.schema == SCHEMA
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def row(message: Message) -> dict[str, Any]:
    return rows(orjson.dumps(message))[0]


def test_each_key_has_its_column() -> None:
    assert row(MESSAGE) == {
        "time": datetime(2023, 11, 14, 22, 13, 20, 123000, UTC),
        "interval_ms": 12,
        "method": "POST",
        "url": "http://api.shop.test:8080/v1/orders",
        "host": "api.shop.test",
        "path": "/v1/orders",
        "status": 201,
        "request_headers": [("accept", ["a/b", "c/d"]), ("x-id", ["7"])],
        "response_headers": [("set-cookie", ["a=1"])],
        "request_params": [("q", ["1"])],
        "request_body": "grün",
        "response_body": "{}",
        "session_fields": [("user", ["u"])],
        "custom_fields": [("stage", ["test"])],
        "flaws": ["gap", "request-truncated"],
        "client": "10.0.0.1:34786",
        "server": "10.0.0.2:80",
        "vni": 123,
        "sniffer_host": "here",
        "request_size": 5,
        "response_size": 2,
        "other": None,
    }


@pytest.mark.parametrize("key", [key for key, _ in MESSAGE])
def test_what_a_rule_removed_is_null(key: str) -> None:
    left = [pair for pair in MESSAGE if pair[0] != key]
    assert Counter(pairs(row(left))) == Counter(left)


def test_nothing_is_null_all_over() -> None:
    assert set(row([]).values()) == {None}


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("http://h", "h", None),
        ("http://h/", "h", "/"),
        ("http:///x", None, "/x"),
        ("http://h:80/x?y#z", "h", "/x"),
        ("https://user:pass@h/x", "h", "/x"),
        ("http://[::1]:8080/x", "[::1]", "/x"),
        ("http://h*", "h", "*"),
        ("no address", None, None),
    ],
)
def test_host_and_path_are_the_addresss(url: str, host: str | None, path: str | None) -> None:
    found = row([("request_url", url)])
    assert (found["host"], found["path"]) == (host, path)


@pytest.mark.parametrize(
    "pair",
    [
        ("response_code", "abc"),
        ("response_code", "99999"),
        ("response_code", "0200"),
        ("response_code", "200\n"),
        ("now", "-1"),
        ("now", "99999999999999"),
        ("interval", "1.5"),
        ("custom_field:vni", "16777216"),
        ("interval", "٣"),
        ("unknown", "x"),
    ],
)
def test_what_no_column_can_hold_is_kept_as_it_is(pair: tuple[str, str]) -> None:
    assert row([pair])["other"] == [(pair[0], [pair[1]])]


def test_second_value_of_a_scalar_is_kept() -> None:
    found = row([("request_method", "GET"), ("request_method", "POST")])
    assert (found["method"], found["other"]) == ("GET", [("request_method", ["POST"])])


@pytest.mark.parametrize(
    "line",
    [b"{", b'{"ab":1}', b"1", b"null", b'"text"', b'["ab"]', b'[["a"]]', b'[["a",1]]', b'[[1,"a"]]',
     b'[[["a"],"b"]]', b'[["a","b","c"]]', b'[["a",null]]', b"\xff", b""],
)  # fmt: skip
def test_line_that_is_no_message_is_kept_whole(line: bytes) -> None:
    good = orjson.dumps(MESSAGE)
    found = rows(good, line, good)
    assert found[0] == found[2] == row(MESSAGE)
    assert found[1]["other"] == [(LINE, [line.decode("utf-8", "backslashreplace")])]


KEYS = st.one_of(
    st.sampled_from([key for key, _ in MESSAGE]),
    st.text(),
    st.builds(
        str.__add__, st.sampled_from(["request_header:", "custom_field:", "session_field:"]), st.text()
    ),
)
VALUES = st.one_of(st.text(), st.integers().map(str), st.sampled_from(["", "a,b", ",", "200", "007"]))


@given(st.lists(st.lists(st.tuples(KEYS, VALUES)), max_size=5))
def test_pairs_in_are_pairs_out(messages: list[Message]) -> None:
    found = rows(*[orjson.dumps(message) for message in messages])
    assert len(found) == len(messages)
    for one, message in zip(found, messages, strict=True):
        assert Counter(pairs(one)) == Counter(message)


@given(st.lists(st.tuples(st.sampled_from(["request_header:a", "request_header:b", "x"]), st.text())))
def test_values_of_a_name_keep_their_order(message: Message) -> None:
    found = pairs(row(message))
    for key in {key for key, _ in message}:
        assert [v for k, v in found if k == key] == [v for k, v in message if k == key]


def test_calls_are_put_by_their_own_hour() -> None:
    times = ["3599999", "3600000", "7200000"]
    table = Rows().table(b"".join(orjson.dumps([("now", now)]) + b"\n" for now in times) + b"[]\n")
    assert [(hour, len(part)) for hour, part in by_hour(table, 7_200_001)] == [(0, 1), (1, 1), (2, 2)]
