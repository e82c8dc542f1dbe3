"""Writes a small capture as a mirror target might record it: ``python examples/make_capture.py FILE``.

Six connections of a little shop, the same octets on every run:

- keep-alive: a list, an order posted as JSON, an order that does not exist (404);
- a response compressed with gzip and one in chunks;
- a segment that reached the client and is not in the capture, then a whole call on the same connection;
- a request whose answer was captured before it, as behind a load balancer;
- TLS, which nobody can read here;
- a connection inside VXLAN, VNI 4242, as VPC Traffic Mirroring delivers it.

It needs no packages and is meant to be read: a pcap file is a header of 24 octets, then for each packet 16
octets and the packet (https://www.tcpdump.org/manpages/pcap-savefile.5.txt).
"""

from __future__ import annotations

import gzip
import json
import struct
import sys
from ipaddress import IPv4Address
from pathlib import Path

MILLISECOND = 1000  # times are microseconds
START = 1_750_000_000 * 1000 * MILLISECOND
MSS = 1448  # TCP payload of an Ethernet frame, with the timestamp option

FIN, SYN, PSH, ACK = 0x01, 0x02, 0x08, 0x10

Endpoint = tuple[str, int]
Packet = tuple[int, bytes]


# -- octets


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(int.from_bytes(data[n : n + 2].ljust(2, b"\0")) for n in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(payload: bytes) -> bytes:
    return bytes.fromhex("0a0000000002 0a0000000001 0800") + payload


def ipv4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """RFC 791 §3.1: version and length, total length, don't fragment, time to live, protocol, addresses."""
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol, 0) + addresses
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + payload


def tcp(ends: tuple[Endpoint, Endpoint], numbers: tuple[int, int], flags: int, payload: bytes) -> bytes:
    """RFC 9293 §3.1, in its IPv4 packet. ``numbers``: sequence and acknowledgment."""
    (source, port), (destination, to) = ends
    segment = struct.pack("!HHIIBBHHH", port, to, *numbers, 5 << 4, flags, 65535, 0, 0) + payload
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    pseudo = addresses + struct.pack("!HH", 6, len(segment))
    segment = segment[:16] + checksum(pseudo + segment).to_bytes(2) + segment[18:]
    return ipv4(source, destination, 6, segment)


def vxlan(vni: int, frame: bytes) -> bytes:
    """RFC 7348 §5: a frame in UDP from the mirrored interface to the mirror target; no UDP checksum."""
    payload = struct.pack("!II", 0x08000000, vni << 8) + frame
    udp = struct.pack("!HHHH", 49152, 4789, 8 + len(payload), 0) + payload
    return ethernet(ipv4("10.0.9.1", "10.0.9.9", 17, udp))


# -- conversations


class Connection:
    """One TCP connection between ``client`` and ``server`` (sides 0 and 1); its packets go to ``packets``."""

    def __init__(self, at: int, client: Endpoint, server: Endpoint, vni: int | None = None) -> None:
        self.now = START + at * MILLISECOND
        self.ends = (client, server)
        self.vni = vni
        self.next = [client[1] << 8, server[1] << 16]  # sequence numbers, the same on every run
        self.packets: list[Packet] = []
        self._segment(0, SYN)
        self._segment(1, SYN | ACK)
        self._segment(0, ACK)

    def call(self, request: bytes, response: bytes, thinking: int = 5) -> None:
        """``thinking``: milliseconds that the server takes."""
        self.send(0, request)
        self.now += thinking * MILLISECOND
        self.send(1, response)

    def send(self, side: int, data: bytes, lost: int = -1) -> None:
        """In segments of MSS; the peer acknowledges. Segment number ``lost`` is not captured."""
        for n, start in enumerate(range(0, len(data), MSS)):
            part = data[start : start + MSS]
            self._segment(side, ACK | (PSH if start + MSS >= len(data) else 0), part)
            if n == lost:
                self.packets.pop()
        self._segment(1 - side, ACK)

    def close(self) -> None:
        self._segment(0, FIN | ACK)
        self._segment(1, FIN | ACK)
        self._segment(0, ACK)

    def _segment(self, side: int, flags: int, payload: bytes = b"") -> None:
        self.now += 400  # half a round trip
        acknowledged = self.next[1 - side] if flags & ACK else 0
        numbers = (self.next[side], acknowledged)
        frame = ethernet(tcp((self.ends[side], self.ends[1 - side]), numbers, flags, payload))
        self.packets.append((self.now, frame if self.vni is None else vxlan(self.vni, frame)))
        self.next[side] += len(payload) + (1 if flags & (SYN | FIN) else 0)


# -- messages


def request(line: str, *fields: str, body: bytes = b"") -> bytes:
    fields = ("Host: shop.example", "User-Agent: example/1.0", "Accept: application/json", *fields)
    if body:
        fields = (*fields, "Content-Type: application/json", f"Content-Length: {len(body)}")
    return "\r\n".join((f"{line} HTTP/1.1", *fields, "", "")).encode() + body


def response(status: str, body: bytes, *fields: str) -> bytes:
    fields = ("Content-Type: application/json", f"Content-Length: {len(body)}", *fields)
    return "\r\n".join((f"HTTP/1.1 {status}", *fields, "", "")).encode() + body


def chunked(status: str, parts: list[bytes]) -> bytes:
    """RFC 9112 §7.1: each part after its length in hexadecimal; a part of length 0 ends the body."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])


def record(kind: int, content: bytes) -> bytes:
    """RFC 8446 §5.1: 22 is a handshake, 23 application data."""
    return struct.pack("!BHH", kind, 0x0303, len(content)) + content


def products(count: int) -> bytes:
    some = [{"id": n, "name": f"product {n}", "price": 100 + 7 * n} for n in range(count)]
    return json.dumps(some).encode()


# -- the capture


def keep_alive() -> Connection:
    c = Connection(0, ("10.0.1.10", 40001), ("10.0.2.1", 80))
    c.call(request("GET /api/products?page=1"), response("200 OK", products(20)))
    order = json.dumps({"product": 3, "quantity": 2, "email": "someone@shop.example"}).encode()
    c.call(
        request("POST /api/orders", body=order),
        response("201 Created", b'{"order": 4711}', "Location: /api/orders/4711"),
        thinking=38,
    )
    c.call(request("GET /api/orders/9999"), response("404 Not Found", b'{"error": "no such order"}'))
    c.close()
    return c


def codings() -> Connection:
    c = Connection(11, ("10.0.1.11", 40002), ("10.0.2.1", 80))
    packed = gzip.compress(products(200), mtime=0)
    c.call(
        request("GET /api/products?page=all", "Accept-Encoding: gzip"),
        response("200 OK", packed, "Content-Encoding: gzip"),
    )
    found = products(60)
    parts = [found[:900], found[900:1000], found[1000:]]
    c.call(request("GET /api/search?q=pro"), chunked("200 OK", parts), thinking=17)
    c.close()
    return c


def lossy() -> Connection:
    c = Connection(23, ("10.0.1.12", 40003), ("10.0.2.2", 8080))
    c.send(0, request("GET /api/report"))
    c.send(1, response("200 OK", products(120)), lost=1)
    c.call(request("GET /api/report/2"), response("200 OK", products(2)))
    c.close()
    return c


def reordered() -> Connection:
    c = Connection(31, ("10.0.1.13", 40004), ("10.0.2.2", 8080))
    c.call(request("DELETE /api/orders/4711"), response("200 OK", b'{"deleted": 4711}'), thinking=1)
    c.close()
    asked, answered = (n for n, (_, frame) in enumerate(c.packets) if b"HTTP/1.1" in frame)
    (t1, first), (t2, second) = c.packets[asked], c.packets[answered]
    c.packets[asked], c.packets[answered] = (t1, second), (t2, first)
    return c


def encrypted() -> Connection:
    """What can be seen of TLS: a ClientHello, a ServerHello (RFC 8446 §4.1), records of application data."""
    c = Connection(35, ("10.0.1.14", 40005), ("10.0.2.3", 443))
    version, noise, suite = b"\x03\x03", bytes(range(32)), b"\x13\x01"
    hello = version + noise + b"\x00" + len(suite).to_bytes(2) + suite + b"\x01\x00"
    c.send(0, record(22, b"\x01" + len(hello).to_bytes(3) + hello))
    hello = version + noise + b"\x00" + suite + b"\x00"
    c.send(1, record(22, b"\x02" + len(hello).to_bytes(3) + hello))
    c.call(record(23, noise * 6), record(23, noise * 20), thinking=2)
    c.close()
    return c


def mirrored() -> Connection:
    c = Connection(47, ("172.31.0.5", 40006), ("172.31.0.9", 80), vni=4242)
    c.call(request("GET /health"), response("200 OK", b'{"healthy": true}'), thinking=1)
    stock = b'{"units": 12}'
    c.call(request("PUT /api/stock/3", body=stock), response("200 OK", stock), thinking=9)
    c.close()
    return c


def capture() -> bytes:
    """A pcap file: little-endian, microseconds, Ethernet, snap length 65,535."""
    packets: list[Packet] = []
    for connection in (keep_alive(), codings(), lossy(), reordered(), encrypted(), mirrored()):
        packets += connection.packets
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
    for at, frame in sorted(packets):
        seconds, fraction = divmod(at, 1_000_000)
        out += [struct.pack("<IIII", seconds, fraction, len(frame), len(frame)), frame]
    return b"".join(out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/make_capture.py FILE")
    Path(sys.argv[1]).write_bytes(capture())
