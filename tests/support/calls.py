"""Exchanges as the stages make them, from the octets of a request and of a response."""

from __future__ import annotations

from appliance.flaws import flaw
from appliance.model import (
    REQUEST,
    RESPONSE,
    Endpoint,
    Field,
    Flow,
    FlowKey,
    Head,
    HttpExchange,
    HttpMessage,
)
from tests.support.run import Stages
from tests.support.tcp import MS, Conversation

T0_MS = 1_700_000_000_123
CLIENT = ("10.0.0.1", 40000)
SERVER = ("10.0.0.2", 80)


def call(
    request: bytes, response: bytes | None = None, *, interval: int = 17, vni: int | None = None
) -> HttpExchange:
    """One call over a connection of its own; the response's first octet comes at T0_MS."""
    talk = Conversation(CLIENT, SERVER, vni=vni).handshake()
    talk.now = (T0_MS - interval - 1) * MS
    talk.ask(request)
    if response is not None:
        talk.now = (T0_MS - 1) * MS
        talk.answer(response)
    talk.close()
    stages = Stages()
    found = stages.feed(talk.out) + stages.close()
    assert len(found) == 1
    return found[0]


def orphan(response: bytes) -> HttpExchange:
    """The connection is joined after its request."""
    talk = Conversation(CLIENT, SERVER)
    talk.now = (T0_MS - 1) * MS
    talk.answer(response)
    stages = Stages()
    found = stages.feed(talk.out) + stages.close()
    assert len(found) == 1
    assert found[0].request is None
    return found[0]


def side(  # any message at all, also what no parser would let through
    kind: int,
    start: tuple[bytes, bytes, bytes],
    fields: list[Field] | None = None,
    body: bytes = b"",
    *,
    ts: int = T0_MS * MS,
    status: int = 200,
) -> HttpMessage:
    message = HttpMessage(Head(start, fields or [], [], 100), ts, 0 if kind == REQUEST else status)
    if body:
        message.content.parts.append(body)
        message.content.length = message.content.kept = len(body)
    message.content.complete = True
    return message


def exchange(
    request: HttpMessage | None, response: HttpMessage | None, *, vni: int | None = None
) -> HttpExchange:
    key = FlowKey(vni, Endpoint(bytes([10, 0, 0, 1]), 40000), Endpoint(bytes([10, 0, 0, 2]), 80))
    return HttpExchange(Flow(key, 7), 0, request, response, [], [flaw(RESPONSE, "gap", 1448)])
