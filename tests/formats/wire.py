"""Exchanges that say anything at all, for what must hold whatever comes off the wire."""

from __future__ import annotations

from hypothesis import strategies as st

from appliance.model import REQUEST, RESPONSE, HttpExchange, HttpMessage
from tests.support.calls import exchange, side

_NASTY = [
    b"\x1b[2J",
    b"\r\n",
    b"\x00",
    b"\xff\xfe",
    b'"\\',
    b"\xe2\x80\xae",
    b"\xed\xa0\x80",
    b"\xc2\x9b",
    b"%zz",
]
OCTETS = st.one_of(st.binary(max_size=20), st.sampled_from(_NASTY), st.text(max_size=8).map(str.encode))
_FIELDS = st.lists(
    st.tuples(st.one_of(OCTETS, st.sampled_from([b"Host", b"Content-Type", b"Location"])), OCTETS),
    max_size=4,
)
_TS = st.one_of(st.integers(0, 2**63), st.just(2**64 * 10**9))


@st.composite
def sides(draw: st.DrawFn, kind: int) -> HttpMessage:
    start = (draw(OCTETS), draw(OCTETS), draw(OCTETS))
    body = draw(st.one_of(st.just(b""), OCTETS))
    message = side(kind, start, draw(_FIELDS), body, ts=draw(_TS), status=draw(st.integers(100, 999)))
    message.content.complete = draw(st.booleans())
    return message


@st.composite
def exchanges(draw: st.DrawFn) -> HttpExchange:
    request = draw(st.one_of(st.none(), sides(REQUEST)))
    response = draw(sides(RESPONSE) if request is None else st.one_of(st.none(), sides(RESPONSE)))
    return exchange(request, response, vni=draw(st.one_of(st.none(), st.integers(0, 2**24 - 1))))
