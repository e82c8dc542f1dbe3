"""HttpExchange -> Message: an API call in Resurface's vocabulary, as (key, value) pairs of text.

Contract: keys and order of the protocol specification §1.2-§1.3 with its recommended outcomes: wire order,
the path as on the wire, content codings undone, text by the declared character set; a call is never
dropped for a bad escape, an odd status or a damaged body. Pairs without a value are left out. A call
without response has no ``response_code``; one without request only response pairs. What is wrong with a
call is said in ``custom_field:flaws``; ``host`` is not here: it comes after the rules (pipeline.py).

Bounds: a decoded body ``body_limit`` (content.py); names remembered ``NAMES``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from appliance.content import GOOD, charset, decode, text
from appliance.flaws import flaw
from appliance.model import REQUEST, RESPONSE, Endpoint, HttpExchange, HttpMessage, Message

ANNOTATIONS: Final = ("flaws", "vni", "client", "server", "connection")
NAMES: Final = 4096  # of header fields; attackers can invent any number
NAME_SIZE: Final = 128

_MILLISECOND: Final = 1_000_000
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")

# What a field means to us, beside being shown.
_PLAIN: Final = 0
_CODING: Final = 1
_TYPE: Final = 2
_HIDDEN: Final = 3  # from here on: not shown (§1.5)
_TRANSFER: Final = 4
_MEANINGS: Final = (
    {
        b"content-encoding": _CODING,
        b"content-type": _TYPE,
        b"host": _HIDDEN,  # in the URL
        b"trailer": _HIDDEN,
        b"transfer-encoding": _TRANSFER,
    },
    {
        b"content-encoding": _CODING,
        b"content-type": _TYPE,
        b"trailer": _HIDDEN,
        b"transfer-encoding": _TRANSFER,
    },
)
_PREFIXES: Final = ("request_header:", "response_header:")
_BODIES: Final = ("request_body", "response_body")


@dataclass(frozen=True, slots=True)
class MessageOptions:
    body_limit: int = 1 << 20  # octets after decoding
    realip: str = ""  # name of the request header that gets the client's address; empty: none
    annotate: frozenset[str] = frozenset({"flaws"})  # of ANNOTATIONS


class Messages:
    """Makes messages; remembers the names of header fields, which repeat from call to call."""

    def __init__(self, options: MessageOptions | None = None) -> None:
        self._options = options or MessageOptions()
        self._names: tuple[dict[bytes, tuple[str, int]], ...] = ({}, {})

    def make(self, exchange: HttpExchange) -> Message:
        request, response = exchange.request, exchange.response
        pairs: Message = []
        flaws = list(exchange.flaws)
        if request is not None:
            head = request.head
            fields, body = self._side(REQUEST, request, flaws)
            pairs.append(("request_method", text(head.start[0])))
            pairs.append(("request_url", url(request)))
            if response is not None:
                pairs.append(("response_code", str(response.status)))
            if body:
                pairs.append(("request_body", body))
            pairs += fields
            if self._options.realip:
                pairs.append((_PREFIXES[REQUEST] + self._options.realip, _client(exchange).text()))
            if b"?" in head.start[1]:
                pairs += _parameters(head.start[1])
        if response is not None:
            if request is None:
                pairs.append(("response_code", str(response.status)))
            fields, body = self._side(RESPONSE, response, flaws)
            pairs += fields
            if body:
                pairs.append(("response_body", body))
        _times(request, response, pairs)
        if self._options.annotate:
            self._annotations(exchange, flaws, pairs)
        return pairs

    def _side(self, kind: int, side: HttpMessage, flaws: list[str]) -> tuple[Message, str]:
        """The header pairs and the body of one message."""
        names = self._names[kind]
        pairs: Message = []
        codings: list[str] = []
        transfer: list[str] = []
        content_type: bytes | None = None
        for name, value in side.head.fields:
            known = names.get(name)
            key, meaning = known if known is not None else self._name(kind, name)
            if meaning == _CODING:
                codings += _tokens(value)
            elif meaning == _TYPE:
                content_type = value
            elif meaning == _TRANSFER:
                transfer += _tokens(value)
            if meaning < _HIDDEN:  # common case
                shown = text(value.rstrip(b" \t"))
                if shown:
                    pairs.append((key, shown))
        if transfer:  # the length, where there is one nonetheless, is not the body's
            length = _PREFIXES[kind] + "content-length"
            pairs = [pair for pair in pairs if pair[0] != length]
        if not side.content.parts:
            return pairs, ""
        return pairs, self._body(kind, side, codings + transfer, charset(content_type), flaws)

    def _name(self, kind: int, name: bytes) -> tuple[str, int]:
        """A field's key and meaning, from now on by its octets."""
        known = (_PREFIXES[kind] + text(name).lower(), _MEANINGS[kind].get(name.lower(), _PLAIN))
        names = self._names[kind]
        if len(name) <= NAME_SIZE:
            if len(names) >= NAMES:
                names.clear()
            names[name] = known
        return known

    def _body(self, kind: int, side: HttpMessage, codings: list[str], codec: str, flaws: list[str]) -> str:
        content = side.content
        octets = content.data()
        if codings:
            if content.hole >= 0:  # what comes after it would be decoded to something that nobody sent
                octets = octets[: content.hole]
            octets, wrong = decode(octets, codings, self._options.body_limit)
            if wrong != GOOD:
                flaws.append(flaw(kind, wrong))
        return text(octets, codec)

    def _annotations(self, exchange: HttpExchange, flaws: list[str], pairs: Message) -> None:
        wanted = self._options.annotate
        if flaws and "flaws" in wanted:
            pairs.append(("custom_field:flaws", ",".join(flaws)))
        if len(wanted) == 1 and "flaws" in wanted:  # common case
            return
        for name, show in _ANNOTATE.items():
            if name in wanted:
                value = show(exchange)
                if value:
                    pairs.append(("custom_field:" + name, value))


def url(request: HttpMessage, *, query: bool = False) -> str:
    """``http://`` + Host + path, without query unless asked for; an absolute target as it is (§1.4)."""
    target = text(request.head.start[1])
    if target[:1] != "/":
        if _ABSOLUTE.match(target):
            return target
        if request.head.start[0] == b"CONNECT":
            return "http://" + target
    host = request.head.get(b"host") or b""
    return "http://" + text(host) + (target if query else target.partition("?")[0])


def _tokens(value: bytes) -> list[str]:
    return [text(part.strip(b" \t")).lower() for part in value.split(b",")]


def _parameters(target: bytes) -> Message:
    """Of the query string only, names in lower case after decoding; broken pieces are skipped (§1.6)."""
    pairs = []
    for piece in target.partition(b"?")[2].split(b"&"):
        if not piece or _BROKEN_ESCAPE.search(piece):
            continue
        name, _, value = piece.partition(b"=")
        shown = _decoded(value)
        if shown:
            pairs.append(("request_param:" + _decoded(name).lower(), shown))
    return pairs


def _decoded(octets: bytes) -> str:
    if b"%" in octets or b"+" in octets:
        octets = unquote_to_bytes(octets.replace(b"+", b" "))
    return text(octets)


def _times(request: HttpMessage | None, response: HttpMessage | None, pairs: Message) -> None:
    """``now``: first octet of the response; ``interval``: from that of the request, at least 1 ms (§1.8)."""
    last = response or request
    if last is not None:
        pairs.append(("now", str(last.ts // _MILLISECOND)))
    if request is not None and response is not None:
        pairs.append(("interval", str(max((response.ts - request.ts) // _MILLISECOND, 1))))


def _client(exchange: HttpExchange) -> Endpoint:
    key = exchange.flow.key
    return key.a if exchange.client == 0 else key.b


def _server(exchange: HttpExchange) -> Endpoint:
    key = exchange.flow.key
    return key.b if exchange.client == 0 else key.a


def _shown(end: Endpoint) -> str:
    address = end.text()
    return f"[{address}]:{end.port}" if ":" in address else f"{address}:{end.port}"


def _connection(exchange: HttpExchange) -> str:
    """The same text for all calls of a connection, and for no other's as long as we run."""
    return f"{_shown(_client(exchange))}-{_shown(_server(exchange))}#{exchange.flow.serial}"


def _vni(exchange: HttpExchange) -> str:
    vni = exchange.flow.session
    return "" if vni is None else str(vni)


_ANNOTATE: Final[dict[str, Callable[[HttpExchange], str]]] = {
    "vni": _vni,
    "client": lambda exchange: _shown(_client(exchange)),
    "server": lambda exchange: _shown(_server(exchange)),
    "connection": _connection,
}
