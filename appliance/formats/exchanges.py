"""One JSON object a line for each exchange, before any privacy rule: a view for debugging.

Keys: docs/exchanges.md. What was octets on the wire is shown as UTF-8 with
replacement. Times are seconds since the Unix epoch.
"""

from __future__ import annotations

import orjson

from appliance.formats import FormatOptions
from appliance.model import NANOSECONDS, Endpoint, HttpExchange, HttpMessage


class Format:
    def begin(self) -> bytes:
        return b""

    def write(self, exchange: HttpExchange) -> bytes:
        key = exchange.flow.key
        client, server = (key.a, key.b) if exchange.client == 0 else (key.b, key.a)
        record = {
            "vni": key.vni,
            "client": _endpoint(client),
            "server": _endpoint(server),
            "request": _request(exchange.request),
            "response": _response(exchange.response),
            "interim": exchange.interim,
            "flaws": exchange.flaws,
        }
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)

    def end(self) -> bytes:
        return b""


def build(options: FormatOptions) -> Format:  # noqa: ARG001  # the door is the same for all
    return Format()


def _endpoint(end: Endpoint) -> dict[str, object]:
    return {"address": end.text(), "port": end.port}


def _request(message: HttpMessage | None) -> dict[str, object] | None:
    if message is None:
        return None
    method, target, version = message.head.start
    return {"method": _text(method), "target": _text(target), "version": _text(version), **_common(message)}


def _response(message: HttpMessage | None) -> dict[str, object] | None:
    if message is None:
        return None
    return {"status": message.status, "version": _text(message.head.start[0]), **_common(message)}


def _common(message: HttpMessage) -> dict[str, object]:
    content = message.content
    return {
        "headers": message.head.texts(),
        "body": {"length": content.length, "sha256": content.sha256(), "complete": content.complete},
        "time": message.ts / NANOSECONDS,
    }


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")
