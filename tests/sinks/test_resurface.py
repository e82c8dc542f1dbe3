"""The Resurface sink over real sockets: what the database sees, and what comes of its answers."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import time
import zlib
from collections.abc import Awaitable, Callable, Coroutine
from email.utils import formatdate
from pathlib import Path

import pytest
from aiohttp import web

from appliance.model import Batch
from appliance.sinks.base import Reject, Retry
from appliance.sinks.resurface import LONGEST_WAIT, Options, seconds
from appliance.sinks.resurface import Resurface as Sink
from examples.resurface import Resurface

LINE = b'[["request_method","GET"],["request_url","http://x/"],["response_code","200"],["now","1"]]\n'
BATCH = Batch(LINE * 3, 3, 0)


def with_server(
    server: Resurface, work: Callable[[str], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> None:
    async def serve() -> None:
        runner = web.AppRunner(server.application(), shutdown_timeout=0.01)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        try:
            await work(f"http{'s' if tls else ''}://localhost:{port}/message")
        finally:
            await runner.cleanup()

    asyncio.run(serve())


async def send(url: str, *, compress: bool = True, batch: Batch = BATCH, **times: float) -> None:
    sink = Sink(Options(url, compress, "Resurface/3.3.2 (test)", **times))
    try:
        await sink.send(batch)
    finally:
        await sink.close()


@pytest.mark.parametrize("compress", [True, False])
def test_request_is_the_predecessors(compress: bool) -> None:
    """Byte for byte, but for the order of the fields and the zlib stream's own choices (§2.2)."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        seen.extend([head, await reader.readexactly(int(fields[b"Content-Length"]))])
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            await send(f"http://127.0.0.1:{port}/message", compress=compress)
        seen.append(str(port).encode())

    asyncio.run(work())
    head, body, port = seen
    first, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert first == b"POST /message HTTP/1.1"
    expected = {
        b"Host: 127.0.0.1:" + port,
        b"User-Agent: Resurface/3.3.2 (test)",
        b"Content-Length: %d" % len(body),
        b"Content-Type: application/ndjson; charset=UTF-8",
        b"Accept-Encoding: gzip",
    }
    assert set(fields) == expected | ({b"Content-Encoding: deflated"} if compress else set())
    assert (zlib.decompress(body) if compress else body) == BATCH.payload


@pytest.mark.parametrize("compress", [True, False])
def test_stand_in_takes_what_is_sent(compress: bool) -> None:
    server = Resurface()
    with_server(server, lambda url: send(url, compress=compress))
    assert len(server.messages) == 3
    assert server.faults == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
def test_answer_that_may_change_is_to_be_tried_again(status: int) -> None:
    with pytest.raises(Retry, match=f"status {status}") as retry:
        with_server(Resurface([(status, {"Retry-After": "7"})]), send)
    assert retry.value.after == 7


@pytest.mark.parametrize("status", [200, 201, 202, 301, 302, 307, 400, 401, 403, 404, 413])
def test_only_204_is_delivered(status: int) -> None:
    """A redirect is not followed: what it points to was not configured."""
    with pytest.raises(Reject, match=f"status {status}"):
        with_server(Resurface([(status, {"Location": "/message"})]), send)


def test_nobody_listens() -> None:
    with pytest.raises(Retry, match="cannot connect: Connection refused"):
        asyncio.run(send("http://127.0.0.1:1/message"))


def test_unknown_host() -> None:
    with pytest.raises(Retry, match="cannot connect"):
        asyncio.run(send("http://host.invalid/message"))


def test_stalled_server_ends_at_the_read_time_out() -> None:
    with pytest.raises(Retry, match="timed out"):
        with_server(Resurface(stall=30.0), lambda url: send(url, read_timeout=0.05))


def test_connection_that_breaks_off() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server:
            await send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/message")

    with pytest.raises(Retry):
        asyncio.run(work())


def test_large_upload_is_sent_in_pieces() -> None:
    server = Resurface()
    large = Batch(LINE * 60_000, 60_000, 0)
    with_server(server, lambda url: send(url, compress=False, batch=large))
    assert len(server.messages) == 60_000
    assert int(server.requests[0]["Content-Length"]) == len(large.payload)


def test_peer_that_stops_reading_ends_at_the_time_out() -> None:
    left: list[asyncio.StreamWriter] = []

    async def stop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100)
        left.append(writer)

    async def work() -> None:
        server = await asyncio.start_server(stop, "127.0.0.1", 0, limit=1000)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/message"
        async with server:
            try:
                await send(url, compress=False, batch=Batch(LINE * 200_000, 200_000, 0), total_timeout=0.1)
            finally:
                left[0].transport.abort()
                await asyncio.sleep(0)

    with pytest.raises(Retry, match="timed out"):
        asyncio.run(work())


def test_proxy_of_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with_server(Resurface(), send)


def test_user_and_password_become_basic_authorization_and_are_in_no_reason() -> None:
    server = Resurface()
    with_server(server, lambda url: send(url.replace("//", "//user:s3cret@")))
    assert server.requests[0]["Authorization"] == "Basic dXNlcjpzM2NyZXQ="
    with pytest.raises(Retry) as retry:
        asyncio.run(send("http://user:s3cret@127.0.0.1:1/message"))
    assert "s3cret" not in retry.value.reason


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of localhost, signed by itself, with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    argv = [*command.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", "-", "-out", "-"]
    path.write_bytes(subprocess.run(argv, check=True, capture_output=True).stdout)
    return path


def context(certificate: Path) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    return tls


def test_unknown_certificate_is_refused(certificate: Path) -> None:
    with pytest.raises(Retry, match=r"TLS: .*self.signed certificate"):
        with_server(Resurface(), send, context(certificate))


def test_own_authority_is_believed(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = Resurface()
    with_server(server, send, context(certificate))
    assert len(server.messages) == 3


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (None, None),
        ("3", 3.0),
        ("0", 0.0),
        ("99999", LONGEST_WAIT),
        (" 5 ", 5.0),
        ("-1", None),
        ("soon", None),
        ("Wed, 99 Foo 2026", None),
    ],
)
def test_retry_after(after: str | None, expected: float | None) -> None:
    assert seconds(after, 0.0) == expected


@pytest.mark.parametrize("after", ["²", "١٢", "Fri, 31 Dec 99999999999999999999 23:59:59 GMT", "", "-1"])
def test_retry_after_that_is_none(after: str) -> None:
    assert seconds(after, 0.0) is None


def answering(answer: bytes, *, stall: bool = False) -> Callable[[], Coroutine[object, object, None]]:
    """Sends to a server that gives these octets, and then nothing, or closes."""

    async def work() -> None:
        over = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            await reader.readexactly(int(fields[b"Content-Length"]))
            writer.write(answer)
            await writer.drain()
            if stall:
                await over.wait()
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        async with server:
            try:
                await send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/message")
            finally:
                over.set()

    return work


@pytest.mark.parametrize("stall", [False, True])
def test_status_counts_whatever_becomes_of_the_answers_rest(
    stall: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway's 413 whose body never comes was sent again for ever, and its reason was a time-out."""
    monkeypatch.setattr("appliance.sinks.resurface.REST_TIME", 0.05)
    refused = b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\n"
    with pytest.raises(Reject, match="status 413"):
        asyncio.run(answering(refused, stall=stall)())
    with pytest.raises(Retry) as retry:
        asyncio.run(answering(refused.replace(b"413", b"429") + b"", stall=stall)())
    assert retry.value.reason == "status 429"
    later = b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nContent-Length: 9\r\n\r\n"
    with pytest.raises(Retry) as retry:
        asyncio.run(answering(later, stall=stall)())
    assert retry.value.after == 120


def test_answers_with_long_heads_are_read() -> None:
    asyncio.run(answering(b"HTTP/1.1 204 x\r\nX: " + b"y" * 30_000 + b"\r\n\r\n")())


def test_cookies_of_the_server_are_not_sent_back() -> None:
    seen: list[str] = []

    async def message(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Cookie", ""))
        answer = web.Response(status=204)
        answer.set_cookie("session", "1")
        return answer

    async def work() -> None:
        application = web.Application()
        application.router.add_post("/message", message)
        runner = web.AppRunner(application, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        sink = Sink(Options(f"http://localhost:{runner.addresses[0][1]}/message", False, "R"))
        await sink.send(BATCH)
        await sink.send(BATCH)
        await sink.close()
        await runner.cleanup()

    asyncio.run(work())
    assert seen == ["", ""]


def test_retry_after_as_a_date() -> None:
    now = float(int(time.time()))
    assert seconds(formatdate(now + 10, usegmt=True), now) == 10
    assert seconds(formatdate(now - 10, usegmt=True), now) == 0
