"""HttpExchange -> Message: an API call in Resurface's vocabulary, as (key, value) pairs of text.

Contract: keys and order of the protocol specification §1.2-§1.3 with its recommended outcomes: wire order,
the path as on the wire, a call is never dropped for a bad escape or an odd status. Pairs without a value
are left out. A call without response has no ``response_code``; one without request only response pairs.
Not done yet, and left as on the wire: content decoding, declared charsets, client address (step 2).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from appliance.model import HttpExchange, HttpMessage

Message = list[tuple[str, str]]

_MILLISECOND: Final = 1_000_000
_NOT_LOGGED: Final = frozenset({"transfer-encoding", "trailer"})
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def message(exchange: HttpExchange, host: str) -> Message:
    """``host``: name of the machine that runs us."""
    request, response = exchange.request, exchange.response
    pairs: Message = []
    if request is not None:
        pairs.append(("request_method", _text(request.head.start[0])))
        pairs.append(("request_url", url(request)))
    if response is not None:
        pairs.append(("response_code", str(response.status)))
    if request is not None:
        pairs.append(("request_body", _text(request.content.data())))
        pairs += _headers("request_header:", request, drop_host=True)
        pairs += _parameters(request)
    if response is not None:
        pairs += _headers("response_header:", response, drop_host=False)
        pairs.append(("response_body", _text(response.content.data())))
    pairs += _times(request, response)
    pairs.append(("host", host))
    return [pair for pair in pairs if pair[1]]


def url(request: HttpMessage, *, query: bool = False) -> str:
    """``http://`` + Host + path, without query unless asked for; an absolute target as it is (§1.4)."""
    target = _text(request.head.start[1])
    if _ABSOLUTE.match(target):
        return target
    if request.head.start[0] == b"CONNECT":
        return "http://" + target
    host = request.head.get(b"host") or b""
    return "http://" + _text(host) + (target if query else target.partition("?")[0])


def _headers(prefix: str, side: HttpMessage, *, drop_host: bool) -> Message:
    fields = [(name.lower(), value) for name, value in side.head.texts()]
    chunked = any(name == "transfer-encoding" for name, _ in fields)
    return [
        (prefix + name, value)
        for name, value in fields
        if name not in _NOT_LOGGED
        and not (drop_host and name == "host")
        and not (chunked and name == "content-length")
    ]


def _parameters(request: HttpMessage) -> Message:
    """Of the query string only, names in lower case after decoding; broken pieces are skipped (§1.6)."""
    pairs = []
    for piece in request.head.start[1].partition(b"?")[2].split(b"&"):
        if not piece or _BROKEN_ESCAPE.search(piece):
            continue
        name, _, value = piece.partition(b"=")
        pairs.append(("request_param:" + _decoded(name).lower(), _decoded(value)))
    return pairs


def _decoded(octets: bytes) -> str:
    return _text(unquote_to_bytes(octets.replace(b"+", b" ")))


def _times(request: HttpMessage | None, response: HttpMessage | None) -> Message:
    """``now``: first octet of the response; ``interval``: from that of the request, at least 1 ms (§1.8)."""
    last = response or request
    pairs = [("now", str(last.ts // _MILLISECOND))] if last is not None else []
    if request is not None and response is not None:
        pairs.append(("interval", str(max((response.ts - request.ts) // _MILLISECOND, 1))))
    return pairs


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")
