"""The reference load: what an API behind a load balancer looks like to a mirror target.

500 keep-alive connections; ten request and eight response headers, of which some never change, some
change with the connection and some with every call; JSON bodies of 0-1 kB and about 2.5 kB; a quarter of
the responses gzip, a third chunked; data and acknowledgments come to about five packets a call; one
packet in a hundred is reordered, one in a hundred sent twice. Plain or in VXLAN. The same seed gives the
same octets.

    python -m bench.load OUT.pcap --calls 40000 --vxlan --mss 1448
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance.model import ACK, LINK_ETHERNET, PSH, SYN, Frame

START = 1_700_000_000_000_000_000
VNI = 123
_AGENTS = (b"okhttp/4.12.0", b"python-requests/2.32", b"Go-http-client/1.1", b"axios/1.7.2")
_PATHS = (
    b"/v1/orders",
    b"/v1/orders/%d",
    b"/v2/users/%d/profile",
    b"/v1/search?q=%d&limit=20",
    b"/v1/carts/%d/items",
)
_ETHERNET = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x08\x00"
_IP = struct.Struct(">BBHHHBBHII")
_TCP = struct.Struct(">HHIIBBHHH")


@dataclass
class Load:
    calls: int
    connections: int = 500
    vxlan: bool = False
    mss: int = 1448
    seed: int = 1
    disorder: float = 0.01  # of packets, and as many are sent twice
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._bodies = [_json(self.random, 2500) for _ in range(64)]
        self._packed = [gzip.compress(body, 6, mtime=0) for body in self._bodies]

    def frames(self) -> Iterator[Frame]:
        """In order of time, some out of place."""
        ts = START
        waiting: Frame | None = None
        for _, octets in self._packets():
            ts += 2_000
            data = _vxlan(octets) if self.vxlan else octets
            frame = Frame(ts, data, len(data), LINK_ETHERNET)
            dice = self.random.random()
            if dice < self.disorder and waiting is None:
                waiting = frame
                continue
            yield frame
            if dice > 1 - self.disorder:
                yield frame
            if waiting is not None:
                yield waiting
                waiting = None
        if waiting is not None:
            yield waiting

    def payloads(self) -> Iterator[tuple[int, int, bytes]]:
        """(connection, side, octets) in order, each once: what the floor reads."""
        for (connection, side, payload), _ in self._packets():
            if payload:
                yield connection, side, payload

    def _packets(self) -> Iterator[tuple[tuple[int, int, bytes], bytes]]:
        places = [[1_000_000 + 7919 * c, 2_000_000 + 104_729 * c] for c in range(self.connections)]
        for c, place in enumerate(places):
            yield self._packet(c, 0, place, b"", SYN, back=1)
            yield self._packet(c, 1, place, b"", SYN | ACK, back=1)
            yield self._packet(c, 0, place, b"", ACK)
        for n in range(self.calls):
            c = self.random.randrange(self.connections)
            for side, message in ((0, self._request(n, c)), (1, self._response(n, c))):
                for at in range(0, len(message), self.mss):
                    part = message[at : at + self.mss]
                    yield self._packet(c, side, places[c], part, ACK | PSH)
                    places[c][side] += len(part)
                yield self._packet(c, 1 - side, places[c], b"", ACK)

    def _packet(
        self, c: int, side: int, place: list[int], payload: bytes, flags: int, back: int = 0
    ) -> tuple[tuple[int, int, bytes], bytes]:
        ends = ((0x0A000000 + c // 100, 30000 + c % 100), (0x0A010000 + c % 4, 8080))
        (source, sport), (target, dport) = ends[side], ends[1 - side]
        seq = place[side] - back & 0xFFFFFFFF
        ack = place[1 - side] & 0xFFFFFFFF if flags & ACK else 0
        ip = _IP.pack(0x45, 0, 40 + len(payload), 0, 0x4000, 64, 6, 0, source, target)
        tcp = _TCP.pack(sport, dport, seq, ack, 0x50, flags, 65535, 0, 0)
        return (c, side, payload), _ETHERNET + ip + tcp + payload

    def _request(self, n: int, c: int) -> bytes:
        body = b"" if n % 4 == 0 else _json(self.random, self.random.randrange(2, 1000))
        path = _PATHS[n % 5]
        lines = [
            (b"POST " if body else b"GET ") + (path % n if b"%d" in path else path) + b" HTTP/1.1",
            b"Host: api.shop.test",
            b"User-Agent: " + _AGENTS[c % 4],
            b"Accept: application/json",
            b"Accept-Encoding: gzip, deflate",
            b"Connection: keep-alive",
            b"Authorization: Bearer %064x" % (c * 0x9E3779B97F4A7C15),
            b"Cookie: session=%032x; theme=dark" % (c * 0xC2B2AE3D27D4EB4F),
            b"X-Request-Id: %032x" % self.random.getrandbits(128),
            b"Traceparent: 00-%032x-%016x-01" % (self.random.getrandbits(128), self.random.getrandbits(64)),
        ]
        lines.append(b"Content-Length: %d" % len(body) if body else b"Cache-Control: no-cache")
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    def _response(self, n: int, c: int) -> bytes:
        packed = n % 4 == 1
        body = (self._packed if packed else self._bodies)[n % 64]
        lines = [
            b"HTTP/1.1 200 OK",
            b"Server: nginx/1.24.0",
            b"Date: Tue, 14 Nov 2023 22:13:%02d GMT" % (n % 60),
            b"Content-Type: application/json; charset=utf-8",
            b"Connection: keep-alive",
            b"X-Request-Id: %032x" % self.random.getrandbits(128),
            b'Etag: W/"%x-%x"' % (len(body), n),
            b"Content-Encoding: gzip" if packed else b"Vary: Accept-Encoding",
        ]
        if n % 3:
            lines.append(b"Content-Length: %d" % len(body))
            return b"\r\n".join(lines) + b"\r\n\r\n" + body
        lines.append(b"Transfer-Encoding: chunked")
        half = len(body) // 2
        parts = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (half, body[:half], len(body) - half, body[half:])
        return b"\r\n".join(lines) + b"\r\n\r\n" + parts


def _json(dice: random.Random, size: int) -> bytes:
    items: list[dict[str, object]] = []
    while len(json.dumps(items)) < size:
        items.append(
            {"id": dice.getrandbits(40), "name": f"item {dice.randrange(1000)}", "price": dice.random()}
        )
        if len(items) == 1 and len(json.dumps(items)) > size:
            return json.dumps({"id": dice.randrange(1000)}).encode()
    return json.dumps(items).encode()


def _vxlan(inner: bytes) -> bytes:
    """As AWS Traffic Mirroring sends it: UDP 4789, no checksum (RFC 7348 §5)."""
    udp = struct.pack(">HHHHII", 65_432, 4789, 16 + len(inner), 0, 0x08000000, VNI << 8)
    ip = _IP.pack(0x45, 0, 36 + len(inner), 0, 0x4000, 64, 17, 0, 0x0A630001, 0x0A630002)
    return _ETHERNET + ip + udp + inner


def write(path: Path, load: Load) -> int:
    """A classic pcap file with nanoseconds; the number of frames."""
    frames = 0
    with path.open("wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, LINK_ETHERNET))
        for frame in load.frames():
            seconds, rest = divmod(frame.ts, 1_000_000_000)
            out.write(struct.pack("<IIII", seconds, rest, len(frame.data), frame.wire_length) + frame.data)
            frames += 1
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the reference load to a capture file.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--calls", type=int, default=40_000)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--mss", type=int, default=1448)
    parser.add_argument("--vxlan", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    frames = write(a.path, Load(a.calls, a.connections, a.vxlan, a.mss, a.seed))
    print(f"{a.calls} calls in {frames} frames, {frames / a.calls:.2f} a call")


if __name__ == "__main__":
    main()
