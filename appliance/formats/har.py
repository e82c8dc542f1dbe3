"""HAR 1.2: opens in the network panel of a browser's developer tools.

Streamed: one entry at a time, whatever the length of the capture. HAR knows only whole calls. A request
without response has status 0, as browsers write it; a response without request has the method and URL
``UNKNOWN`` and ``http://unknown/``; ``comment`` names the flaws. Bodies are as on the wire after removing
chunked coding: text where they are UTF-8, base64 otherwise.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from appliance.formats import FormatOptions
from appliance.message import url
from appliance.model import HttpExchange, HttpMessage

_MILLISECOND: Final = 1_000_000
_MICROSECOND: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Format:
    def __init__(self, version: str) -> None:
        self._version = version
        self._comma = b""

    def begin(self) -> bytes:
        creator = orjson.dumps({"name": "vpc-mirror-appliance", "version": self._version})
        return b'{"log":{"version":"1.2","creator":' + creator + b',"pages":[],"entries":[\n'

    def write(self, exchange: HttpExchange) -> bytes:
        comma, self._comma = self._comma, b",\n"
        return comma + orjson.dumps(_entry(exchange))

    def end(self) -> bytes:
        return b"\n]}}\n"


def build(options: FormatOptions) -> Format:
    return Format(options.version)


def _entry(exchange: HttpExchange) -> dict[str, Any]:
    key = exchange.flow.key
    request, response = exchange.request, exchange.response
    first = request or response
    wait = max(response.ts - request.ts, 0) / _MILLISECOND if request and response else 0
    server = key.b if exchange.client == 0 else key.a
    entry: dict[str, Any] = {
        "startedDateTime": _iso(first.ts if first else 0),
        "time": wait,
        "request": _request(request),
        "response": _response(response),
        "cache": {},
        "timings": {"send": 0, "wait": wait, "receive": 0},
        "serverIPAddress": server.text(),
        "connection": str(exchange.flow.serial),
    }
    if exchange.flaws:
        entry["comment"] = " ".join(exchange.flaws)
    return entry


def _request(side: HttpMessage | None) -> dict[str, Any]:
    if side is None:
        return {
            "method": "UNKNOWN",
            "url": "http://unknown/",
            "httpVersion": "unknown",
            "cookies": [],
            "headers": [],
            "queryString": [],
            "headersSize": -1,
            "bodySize": -1,
            "comment": "the request is not in the capture",
        }
    method, target, version = side.head.start
    query = _text(target).partition("?")[2]
    record = {
        "method": _text(method),
        "url": url(side, query=True),
        "httpVersion": _text(version),
        "cookies": [],
        "headers": _headers(side),
        "queryString": [{"name": n, "value": v} for n, v in parse_qsl(query, keep_blank_values=True)],
        "headersSize": side.head.size,
        "bodySize": side.content.length,
    }
    if side.content.length:
        record["postData"] = {"mimeType": _type(side), **_body(side)}
    return record


def _response(side: HttpMessage | None) -> dict[str, Any]:
    if side is None:
        return {
            "status": 0,
            "statusText": "",
            "httpVersion": "unknown",
            "cookies": [],
            "headers": [],
            "content": {"size": 0, "mimeType": "x-unknown"},
            "redirectURL": "",
            "headersSize": -1,
            "bodySize": -1,
            "comment": "the response is not in the capture",
        }
    return {
        "status": side.status,
        "statusText": _text(side.head.start[2]),
        "httpVersion": _text(side.head.start[0]),
        "cookies": [],
        "headers": _headers(side),
        "content": {"size": side.content.length, "mimeType": _type(side), **_body(side)},
        "redirectURL": _text(side.head.get(b"location") or b""),
        "headersSize": side.head.size,
        "bodySize": side.content.length,
    }


def _headers(side: HttpMessage) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in side.head.texts()]


def _type(side: HttpMessage) -> str:
    return _text(side.head.get(b"content-type") or b"application/octet-stream")


def _body(side: HttpMessage) -> dict[str, str]:
    octets = side.content.data()
    try:
        return {"text": octets.decode()}
    except UnicodeDecodeError:
        return {"text": base64.b64encode(octets).decode(), "encoding": "base64"}


def _iso(ts: int) -> str:
    """RFC 3339 with microseconds; a capture may claim any time."""
    try:
        return (_EPOCH + timedelta(microseconds=ts // _MICROSECOND)).isoformat(timespec="microseconds")
    except OverflowError:
        return _EPOCH.isoformat(timespec="microseconds")


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")
