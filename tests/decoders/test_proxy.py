"""PROXY protocol headers: recognised whole, skipped, counted."""

from __future__ import annotations

import pytest

from appliance.decoders.proxy import MORE, proxy_header
from tests.support.run import Stages
from tests.support.tcp import Conversation

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.7 51234 80\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12)
TLVS = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x01\x2c" + bytes(300)  # as AWS adds the endpoint's id
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
GET = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("header", [V1, V2, TLVS, LOCAL, b"PROXY UNKNOWN\r\n", V1[:-2] + b" " * 50 + b"\r\n"])
def test_header_is_as_long_as_it_says(header: bytes) -> None:
    assert proxy_header(header + GET) == len(header)
    assert {proxy_header(header[:n]) for n in range(1, len(header))} == {MORE}


@pytest.mark.parametrize(
    "octets",
    [
        GET,
        b"POST / HTTP/1.1\r\n",
        b"PROXY / HTTP/1.1\r\n",
        b"PROXY TCP5 a\r\n",
        b"PROXY TCP4 " + b"1" * 100 + b"\r\n",  # over the limit of version 1
        b"\r\nGET / HTTP/1.1\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x11\x11\x00\x0c" + bytes(12),  # no such version
        b"\r\n\r\n\x00\r\nQUIX\n",
    ],
)
def test_other_octets_are_no_header(octets: bytes) -> None:
    assert proxy_header(octets) == 0


@pytest.mark.parametrize("mss", [1, 7, 1448])
@pytest.mark.parametrize("header", [V1, V2, TLVS, LOCAL])
def test_calls_behind_a_load_balancer_are_found(header: bytes, mss: int) -> None:
    stages = Stages()
    found = stages.feed(Conversation().handshake().ask(header + GET, mss).answer(OK).ask(GET).answer(OK).out)
    assert [x.flaws for x in found] == [[], []]
    assert stages.ledger.tally["proxy_bytes"] == len(header)
    assert stages.close() == []


def test_tls_behind_a_load_balancer_is_named() -> None:
    stages = Stages()
    stages.feed(Conversation().handshake().ask(V2 + b"\x16\x03\x01\x00\x05hello").out)
    assert stages.ledger.tally["kind_tls"] == 1


def test_header_alone_is_no_connection_of_another_kind() -> None:
    stages = Stages()
    stages.feed(Conversation().handshake().ask(V1).close().out)
    assert stages.close() == []
    assert stages.ledger.tally["proxy_bytes"] == len(V1)
    assert stages.ledger.tally["kind_other"] == 0


def test_endless_header_is_given_up() -> None:
    stages = Stages()
    talk = Conversation().handshake().ask(b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff" + bytes(65_600))
    stages.feed(talk.out)
    assert stages.ledger.tally["probe_held_bytes"] == 0


def test_blank_lines_before_the_first_request_are_looked_at_once() -> None:
    stages = Stages()
    found = stages.feed(Conversation().handshake().ask(b"\r\n" * 3000, 1).ask(GET).answer(OK).out)
    assert [x.flaws for x in found] == [[]]
