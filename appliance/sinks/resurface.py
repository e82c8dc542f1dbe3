"""Batch -> a Resurface database, as the predecessor's library sends it (protocol specification §2.2).

Contract: one POST a batch with the same headers; the body is NDJSON, or a zlib stream of it under the name
``deflated``. Only 204 is success. Network errors, time-outs, 408, 429 and 5xx may go better later (with the
server's Retry-After, up to ``LONGEST_WAIT``); every other status never will. Redirects are not followed:
what they point to was not configured. TLS is verified, by ``SSL_CERT_FILE`` where that is set.

Bounds: time-outs for connecting, reading, and all of an upload; ``ANSWER_LIMIT`` octets of an answer are
read, none are kept.
"""

from __future__ import annotations

import asyncio
import email.utils
import io
import os
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import aiohttp
from isal import isal_zlib

from appliance.model import Batch
from appliance.sinks.base import Reject, Retry, SinkOptions

LONGEST_WAIT: Final = 300.0  # seconds that a server may ask for
ANSWER_LIMIT: Final = 64 << 10
REST_TIME: Final = 2.0  # seconds for what follows an answer's head
HEAD_LIMIT: Final = 64 << 10  # octets of one line of an answer's head; gateways add long ones
LEVEL: Final = 1  # of isal; it packs messages 7:1, and the next level costs half as much again
AGAIN: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
SERVER_ERRORS: Final = 500
_NEVER_SENT: Final = ("Accept",)  # aiohttp adds it by itself


@dataclass(frozen=True, slots=True)
class Options:
    url: str
    compress: bool
    agent: str  # User-Agent: Resurface/<version> (<agent>)
    connect_timeout: float = 5.0  # seconds; importer and simulator have the same
    read_timeout: float = 30.0  # seconds between two octets of the answer
    total_timeout: float = 300.0  # seconds for an upload: 5 MiB at 20 kB/s, and a peer that stops reading


class Resurface:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._session: aiohttp.ClientSession | None = None
        self._headers = {
            "User-Agent": options.agent,
            "Content-Type": "application/ndjson; charset=UTF-8",
            "Accept-Encoding": "gzip",
        }
        if options.compress:
            self._headers["Content-Encoding"] = "deflated"

    async def send(self, batch: Batch) -> None:
        body = batch.payload
        if self._options.compress:  # off the loop: 5 MiB take milliseconds
            body = await asyncio.get_running_loop().run_in_executor(None, isal_zlib.compress, body, LEVEL)
        try:
            async with self._opened().post(
                self._options.url, data=io.BytesIO(body), headers=self._headers, allow_redirects=False
            ) as answer:
                status, after = answer.status, answer.headers.get("Retry-After")
                with suppress(aiohttp.ClientError, OSError, TimeoutError):  # the status has said it all
                    async with asyncio.timeout(REST_TIME):
                        await answer.content.read(ANSWER_LIMIT)
        except aiohttp.ClientSSLError as error:
            raise Retry(f"TLS: {_tls_reason(error)}") from None
        except TimeoutError as error:
            connected = not isinstance(error, aiohttp.ConnectionTimeoutError)
            raise Retry("timed out", unsure=connected) from None
        except (aiohttp.ClientError, OSError) as error:
            connected = not isinstance(error, aiohttp.ClientConnectorError)
            raise Retry(_network_reason(error), unsure=connected) from None
        if status == HTTPStatus.NO_CONTENT:  # common case
            return
        if status in AGAIN or status >= SERVER_ERRORS:
            raise Retry(f"status {status}", seconds(after, time.time()))
        raise Reject(f"status {status}")

    def hurry(self) -> None:
        """Nothing waits here."""

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        """Made on first use: a session belongs to the loop that is running then."""
        if self._session is None:
            options = self._options
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=ssl.create_default_context()),
                timeout=aiohttp.ClientTimeout(
                    total=options.total_timeout,
                    connect=options.connect_timeout,
                    sock_connect=options.connect_timeout,
                    sock_read=options.read_timeout,
                ),
                skip_auto_headers=_NEVER_SENT,
                cookie_jar=aiohttp.DummyCookieJar(),  # each upload has the same head
                max_line_size=HEAD_LIMIT,
                max_field_size=HEAD_LIMIT,
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


def _network_reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {_os_reason(error.os_error)}"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is no HTTP that can be read"
    return _os_reason(error) if isinstance(error, OSError) else type(error).__name__


def _os_reason(error: OSError) -> str:
    """By its number: asyncio's own text has the address in it."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or type(error).__name__


def _tls_reason(error: aiohttp.ClientSSLError) -> str:
    cause = getattr(error, "certificate_error", None) or error.os_error
    return str(getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or type(cause).__name__)


def seconds(after: str | None, now: float) -> float | None:
    """Retry-After (RFC 9110 §10.2.3) in either form as seconds from ``now``, or None."""
    if after is None:
        return None
    if after.isascii() and after.strip().isdigit():
        return min(float(after), LONGEST_WAIT)
    try:
        then = email.utils.parsedate_to_datetime(after)
    except (ValueError, OverflowError):
        return None
    return min(max(then.timestamp() - now, 0.0), LONGEST_WAIT)


def build(options: SinkOptions) -> Resurface:
    return Resurface(Options(options.url, options.compress, options.agent))
