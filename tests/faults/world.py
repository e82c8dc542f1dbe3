"""A mirror target with a database that misbehaves: real processes, real sockets, no root.

What the ledger says is held against what the stand-in for the database holds.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from bench.load import Load
from examples.resurface import InvalidError, messages

WAIT: Final = 30.0  # seconds for anything at all
OUTER: Final = 42  # Ethernet, IPv4 and UDP headers of a frame of the load
VNIS: Final = 64  # of a service that runs for long; a connection of each is over when its VNI comes again
REQUEST: Final = re.compile(rb"(?:GET|POST) .*\r\nX-Request-Id: (\w+)", re.DOTALL)
OUTCOMES: Final = (
    "delivered", "withheld", "rejected", "shed",
    "spooled", "handed_over", "queued", "worker_lost", "undelivered"
)  # fmt: skip


def answer(status: str, *fields: str) -> bytes:
    lines = (f"HTTP/1.1 {status}", "Content-Length: 0", *fields)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Database:
    """Does what ``mode`` says with each upload; ``calls``: how often it has accepted which."""

    def __init__(self) -> None:
        self.mode = "takes"
        self.calls: Counter[str] = Counter()
        self.faults: list[str] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/message"

    def open(self) -> None:
        async def start() -> asyncio.Server:
            return await asyncio.start_server(self._serve, "127.0.0.1", self.port)

        self._server = asyncio.run_coroutine_threadsafe(start(), self._loop).result(WAIT)
        self.port = self._server.sockets[0].getsockname()[1]

    def shut(self) -> None:
        """Connections are refused from now on; those there are break."""

        async def stop() -> None:
            if self._server is not None:
                self._server.close()
            for writer in self._writers:
                writer.transport.abort()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(WAIT)

    def end(self) -> None:
        async def stop() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.05)

        self.shut()
        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(WAIT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._upload(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _upload(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        size = int(fields["Content-Length"])
        if self.mode == "resets in the middle of a body":
            await reader.readexactly(size // 2)
            writer.transport.abort()
            return False
        body = await reader.readexactly(size)
        if self.mode in FAILURES:
            writer.write(FAILURES[self.mode])
            return True
        if self.mode == "never answers":
            await asyncio.sleep(3600)
        if self.mode == "answers slowly for ever":
            while True:
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.5)
        self._take(fields, body)
        if self.mode == "takes and resets":
            writer.transport.abort()
            return False
        writer.write(TAKEN)
        return True

    def _take(self, fields: dict[str, str], body: bytes) -> None:
        try:
            found = messages(fields["Content-Type"], fields.get("Content-Encoding"), body)
        except InvalidError as error:
            self.faults.append(str(error))
            return
        self.calls.update(dict(one)["request_header:x-request-id"] for one in found)


TAKEN: Final = answer("204 No Content")
FAILURES: Final = {
    "fails with 500": answer("500 Internal Server Error"),
    "is busy": answer("429 Too Many Requests", "Retry-After: 1"),
    "finds it too large": answer("413 Content Too Large"),
}


class Mirror:
    """Sends the reference load as a mirror session does; each burst has a VNI of its own."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.calls: set[str] = set()
        self._bursts = 0

    @property
    def sent(self) -> int:
        return len(self.calls)

    def burst(self, calls: int, seconds: float = 0.5) -> None:
        self._bursts += 1
        load = Load(calls, connections=20, disorder=0.0, seed=self._bursts)
        vni = 1 + self._bursts % VNIS
        header = struct.pack("!II", 0x08000000, vni << 8)
        frames = [frame.data for frame in load.frames()]
        requests = filter(None, map(REQUEST.search, frames))
        self.calls.update(found[1].decode() for found in requests)
        for n, frame in enumerate(frames):
            self._socket.sendto(header + frame, self._address)
            if not n % 64:
                time.sleep(seconds * 64 / len(frames))

    def close(self) -> None:
        self._socket.close()


class Service:
    """``appliance run``."""

    def __init__(self, folder: Path, number: int, environment: dict[str, str]) -> None:
        self.log = folder / f"log-{number}"
        with self.log.open("wb") as log, (folder / f"out-{number}").open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "appliance", "run", "--summary"],
                env=environment,
                stdout=out,
                stderr=log,
            )
        self.until(lambda: "workers:" in self.said(), "start")

    def said(self) -> str:
        return self.log.read_text()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < end, f"never: {what}\n{self.said()}"
            assert self.process.poll() is None, f"ended:\n{self.said()}"
            time.sleep(0.02)

    def ledger(self) -> dict[str, int]:
        """As it is now."""
        before = len(self.said())
        self.process.send_signal(signal.SIGUSR1)
        self.until(lambda: "the ledger adds up\n" in self.said()[before:], "ledger")
        return self.counts()

    def counts(self) -> dict[str, int]:
        """The ledger that it printed last: calls, by their outcome."""
        text = self.said()[: self.said().rindex("the ledger adds up")].rpartition("the ledger adds up")[2]
        found = re.findall(r"^[! ] +message_(\w+) +([\d,]+) ", text, re.MULTILINE)
        out = Counter({name: int(n.replace(",", "")) for name, n in found})
        messages = re.findall(r"^[! ] +messages +([\d,]+) ", text, re.MULTILINE)
        out["messages"] = int(messages[-1].replace(",", "")) if messages else 0
        return out

    def row(self, sink: str) -> Counter[str]:
        """Of the ledger that it printed last."""
        line = re.findall(rf"^    {sink} +(message_.*)$", self.said(), re.MULTILINE)[-1]
        return Counter(
            {name: int(n.replace(",", "")) for name, n in re.findall(r"message_(\w+) ([\d,]+)", line)}
        )

    def heard(self, calls: int) -> None:
        """Wait until so many calls have come out."""
        self.until(lambda: self.ledger()["messages"] >= calls, f"{calls} calls")

    def workers(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in found]

    def stop(self) -> dict[str, int]:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(2 * WAIT)
        counts = self.counts()
        assert not re.search("Traceback|defect", self.said()), self.said()
        assert counts["messages"] + counts["copied"] + counts["restored"] == sum(
            counts[name] for name in OUTCOMES
        )
        return counts


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database()
        self.database.open()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.mirror = Mirror(port)
        self.settings = {
            "SNIFFER_ENGINE": "vxlan",
            "SNIFFER_MIRROR_VXLANPORT": str(port),
            "SNIFFER_MIRROR_GENEVEPORT": "off",
            "SNIFFER_WORKERS": "2",
            "SNIFFER_RECEIVE_BUFFER": "4mb",
            "SNIFFER_DRAIN_SECONDS": "2",
            "SNIFFER_SINKS": "resurface",
            "SNIFFER_SPOOL_DIR": str(folder / "spool"),
            "USAGE_LOGGERS_URL": self.database.url,
            "USAGE_LOGGERS_RULES": "include debug\nallow_http_url",
            "USAGE_LOGGERS_BUNDLE_SIZE": "64kb",
            "USAGE_LOGGERS_BUNDLE_QUEUE_SIZE": "4",
        }
        self._services: list[Service] = []

    @contextmanager
    def service(self, **settings: str) -> Iterator[Service]:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("SNIFFER", "USAGE"))
        }
        one = Service(self.folder, len(self._services), environment | self.settings | settings)
        self._services.append(one)
        yield one

    def close(self) -> None:
        for one in self._services:
            with suppress(ProcessLookupError):
                one.process.kill()
            one.process.wait(WAIT)
        self.database.end()
        self.mirror.close()

    def delivered(self, *counts: dict[str, int]) -> None:
        """The database holds what the ledgers say, and nothing that was never sent."""
        assert self.database.faults == []
        assert set(self.database.calls) <= self.mirror.calls
        assert self.database.calls.total() == sum(each["delivered"] for each in counts)
