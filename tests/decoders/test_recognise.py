"""What a connection speaks, told from its first octets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decoders.recognise import (
    HTTP1_REQUEST,
    HTTP1_RESPONSE,
    HTTP2,
    MORE,
    OTHER,
    PREFIX_LIMIT,
    SSH,
    TLS,
    recognise,
)

PREFIXES = {
    "request": (b"GET / HTTP/1.1\r\n", HTTP1_REQUEST),
    "request without its line end": (b"GET / HTTP/1.1", MORE),
    "request, method only": (b"GE", MORE),
    "request, unknown method": (b"BREW /pot HTTP/1.1\r\n", HTTP1_REQUEST),
    "request behind blank lines": (b"\r\n\r\nGET / HTTP/1.0\n", HTTP1_REQUEST),
    "HTTP/0.9": (b"GET /\r\n", OTHER),
    "method that is too long": (b"G" * 65, OTHER),
    "method at its limit": (b"G" * 64, MORE),
    "response": (b"HTTP/1.0 200 OK\r\n", HTTP1_RESPONSE),
    "response, first letter": (b"H", MORE),
    "request that begins as a response does": (b"HEAD / HTTP/1.1\r\n", HTTP1_REQUEST),
    "response without status": (b"HTTP/1.1 OK\r\n", OTHER),
    "blank lines only": (b"\r\n\n\r", MORE),
    "TLS handshake": (b"\x16\x03\x01\x02\x00\x01", TLS),
    "TLS alert": (b"\x15\x03\x03\x00\x02", TLS),
    "TLS application data": (b"\x17\x03\x03", TLS),
    "TLS, two octets": (b"\x16\x03", MORE),
    "not TLS": (b"\x16\x02\x01", OTHER),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", SSH),
    "SSH, three letters": (b"SSH", MORE),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP2),
    "HTTP/2 preface that is not whole": (b"PRI * HTTP/2.0", MORE),
    "SMTP": (b"220 mail.example ESMTP\r\n", OTHER),
    "Redis": (b"*1\r\n$4\r\nPING\r\n", OTHER),
    "octets": (b"\x00\x01", OTHER),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_prefix(name: str) -> None:
    prefix, kind = PREFIXES[name]
    assert recognise(prefix) == kind


@pytest.mark.parametrize("name", PREFIXES)
@given(more=st.binary(max_size=20))
def test_the_answer_does_not_change_with_more_octets(name: str, more: bytes) -> None:
    prefix, kind = PREFIXES[name]
    if kind != MORE:
        assert recognise(prefix + more) == kind


@pytest.mark.parametrize("name", PREFIXES)
def test_no_shorter_prefix_is_taken_for_something_else(name: str) -> None:
    prefix, kind = PREFIXES[name]
    for size in range(1, len(prefix)):
        assert recognise(prefix[:size]) in {MORE, kind}, size


def test_first_line_at_its_limit() -> None:
    assert recognise(b"GET /" + b"x" * (PREFIX_LIMIT - 6)) == MORE
    assert recognise(b"GET /" + b"x" * (PREFIX_LIMIT - 5)) == OTHER
    assert recognise(b"\n" * (PREFIX_LIMIT - 1)) == MORE
    assert recognise(b"\n" * PREFIX_LIMIT) == OTHER
