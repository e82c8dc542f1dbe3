"""The kernel steers: both directions of a connection to one worker, what is not selected to nobody."""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.packet.vni import VniSelection
from appliance.sources import bpf

ALL = VniSelection([])
MAC = bytes(12)
IPV4, IPV6, VLAN, QINQ = b"\x08\0", b"\x86\xdd", b"\x81\0\0\5", b"\x88\xa8\0\6"


class Group:
    """Sockets of one SO_REUSEPORT group; what comes is read by the number of its socket."""

    def __init__(self, workers: int, program: bytes) -> None:
        self.sockets: list[socket.socket] = []
        port = 0
        for number in range(workers + 1):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setblocking(False)
            sock.bind(("127.0.0.1", port))
            port = sock.getsockname()[1]
            if not number:
                bpf.attach(sock, bpf.SO_ATTACH_REUSEPORT_CBPF, program)
            self.sockets.append(sock)
        self.address = ("127.0.0.1", port)
        # Outer source ports change from packet to packet: AWS promises nothing about them.
        self.senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(16)]

    def close(self) -> None:
        for sock in self.sockets + self.senders:
            sock.close()

    def where(self, datagram: bytes) -> int:
        random.choice(self.senders).sendto(datagram, self.address)
        for number, sock in enumerate(self.sockets):
            try:
                assert sock.recv(65_536) == datagram
            except BlockingIOError:
                continue
            return number
        raise AssertionError("dropped")


@pytest.fixture
def group() -> Iterator[type[Group]]:
    with ExitStack() as stack:

        class Kept(Group):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments)  # type: ignore[arg-type]
                stack.callback(self.close)

        yield Kept


def tcp(source: int, destination: int) -> bytes:
    return struct.pack("!HHIIHHHH", source, destination, 1, 2, 0x5010, 100, 0, 0)


def ipv4(a: str, b: str, inside: bytes, *, options: int = 0, fragment: int = 0, protocol: int = 6) -> bytes:
    size = 20 + options + len(inside)
    head = struct.pack("!BBHHHBBH", 0x45 + options // 4, 0, size, 7, fragment, 64, protocol, 0)
    return head + socket.inet_aton(a) + socket.inet_aton(b) + bytes(options) + inside


def ipv6(a: str, b: str, inside: bytes, *, following: int = 6) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(inside), following, 64)
    return head + socket.inet_pton(socket.AF_INET6, a) + socket.inet_pton(socket.AF_INET6, b) + inside


def ethernet(packet: bytes, *tags: bytes) -> bytes:
    kind = IPV6 if packet[0] >> 4 == 6 else IPV4
    return MAC + b"".join(tags) + kind + packet


def vxlan(frame: bytes, vni: int = 123, flags: int = 8) -> bytes:
    return struct.pack("!BxxxI", flags, vni << 8) + frame


def geneve(inside: bytes, kind: int, vni: int = 123, options: int = 0) -> bytes:
    return struct.pack("!BBHI", options // 4, 0, kind, vni << 8) + bytes(options) + inside


def pairs(count: int) -> Iterator[tuple[str, str, int, int]]:
    for n in range(count):
        yield f"10.0.{n % 3}.{n % 7}", f"10.1.0.{n % 5}", 1024 + n, (80, 443, 8080)[n % 3]


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("is_geneve", "wrap"),
    [
        (False, lambda packet: vxlan(ethernet(packet))),
        (False, lambda packet: vxlan(ethernet(packet, VLAN))),
        (False, lambda packet: vxlan(ethernet(packet, QINQ, VLAN))),
        (False, lambda packet: vxlan(ethernet(packet, QINQ, VLAN, VLAN))),
        (True, lambda packet: geneve(ethernet(packet), 0x6558)),
        (True, lambda packet: geneve(ethernet(packet, VLAN), 0x6558, options=32)),
        (True, lambda packet: geneve(packet, 0x86DD if packet[0] >> 4 == 6 else 0x0800, options=252)),
    ],
    ids=["VXLAN", "tag", "two tags", "three tags", "GENEVE", "GENEVE options, tag", "GENEVE, IP"],
)
def test_both_directions_of_a_connection_come_to_one_worker(
    group: type[Group], is_geneve: bool, wrap, workers: int
) -> None:
    one = group(workers, bpf.steering(workers, ALL, geneve=is_geneve))
    used = set()
    for n, (a, b, client, server) in enumerate(pairs(60)):
        if n % 2:
            there, back = ipv4(a, b, tcp(client, server)), ipv4(b, a, tcp(server, client), options=8)
        else:
            c, d = f"fd00::{a.replace('.', ':')}", f"fd01::{b.replace('.', ':')}"
            there, back = ipv6(c, d, tcp(client, server)), ipv6(d, c, tcp(server, client))
        where = {one.where(wrap(packet)) for packet in (there, back, there, back)}
        assert len(where) == 1
        used |= where
    assert used == set(range(workers))


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize(
    "flow",
    [
        lambda n: ("10.0.0.1", "10.1.0.1", 30000 + n, 8080),
        lambda n: ("10.0.0.1", "10.1.0.1", 32768 + 2 * n, 443),
        lambda n: (f"10.0.0.{n % 20}", f"10.1.0.{n % 4}", 30000 + n, 8080),
        lambda n: (f"10.0.0.{n}", "10.1.0.1", 40000, 80),
        lambda n: ("10.0.0.1", f"10.1.{n}.0", 40000, 80),
    ],
    ids=["ports in a row", "even ports", "several of each", "clients in a row", "subnets in a row"],
)
def test_connections_in_a_row_are_shared_out(group: type[Group], flow, workers: int) -> None:
    one = group(workers, bpf.steering(workers, ALL, geneve=False))
    shares = Counter(
        one.where(vxlan(ethernet(ipv4(a, b, tcp(client, server)))))
        for a, b, client, server in (flow(n) for n in range(200))
    )
    assert all(shares[n] > 200 / workers * 0.6 for n in range(workers)), shares


@given(st.binary(max_size=80), st.integers(1, 8))
def test_whatever_comes_has_a_socket(octets: bytes, workers: int) -> None:
    for is_geneve in (False, True):
        one = Group(workers, bpf.steering(workers, VniSelection([5, -6]), geneve=is_geneve))
        try:
            assert 0 <= one.where(octets) <= workers
        finally:
            one.close()


def test_what_has_no_ports_goes_by_its_addresses_and_what_is_not_ip_to_the_first(group: type[Group]) -> None:
    one = group(4, bpf.steering(4, ALL, geneve=False))
    for a, b, client, server in pairs(20):
        by_address = {
            one.where(vxlan(ethernet(packet)))
            for packet in (
                ipv4(a, b, tcp(client, server), fragment=0x2000),
                ipv4(b, a, b"later part of one", fragment=0x00B9),
                ipv4(a, b, b"an overlay's datagram", protocol=17),
            )
        }
        assert len(by_address) == 1
    assert one.where(vxlan(MAC + b"\x08\x06" + bytes(28))) == 0
    assert one.where(vxlan(b"", flags=0)) == 0
    assert one.where(b"") == 0


@pytest.mark.parametrize("is_geneve", [False, True])
@pytest.mark.parametrize("text", ["", "5", "5,6,-7", "-5", "-5,-9", "-5,5", "5,-5", "0", "16777215", "1,1"])
def test_the_kernel_selects_as_the_decoder_does(group: type[Group], text: str, is_geneve: bool) -> None:
    selection = VniSelection.parse(text)
    one = group(2, bpf.steering(2, selection, geneve=is_geneve))
    frame = ethernet(ipv4("10.0.0.1", "10.0.0.2", tcp(1, 2)))
    for vni in (1, 4, 5, 6, 7, 9, 255, 65_536, 16_777_215):
        datagram = geneve(frame, 0x6558, vni) if is_geneve else vxlan(frame, vni)
        assert (one.where(datagram) != 2) == selection.selects(vni), vni


def test_vni_0_and_headers_without_vni_are_the_decoders_to_judge(group: type[Group]) -> None:
    one = group(2, bpf.steering(2, VniSelection([5]), geneve=False))
    frame = ethernet(ipv4("10.0.0.1", "10.0.0.2", tcp(1, 2)))
    assert one.where(vxlan(frame, 0)) < 2
    assert one.where(vxlan(frame, 7, flags=0)) < 2
    assert one.where(vxlan(frame, 7, flags=0xFF)) == 2  # reserved bits change nothing


@pytest.mark.parametrize("count", [bpf.SELECTABLE, bpf.SELECTABLE + 1])
def test_the_longest_list_that_the_kernel_takes(group: type[Group], count: int) -> None:
    selection = VniSelection([3 * n for n in range(1, count + 1)])
    one = group(2, bpf.steering(2, selection, geneve=False))
    frame = ethernet(ipv4("10.0.0.1", "10.0.0.2", tcp(1, 2)))
    for vni in (3, 300, 3 * count):
        assert one.where(vxlan(frame, vni)) < 2
    refused = 2 if count <= bpf.SELECTABLE else 0  # beyond it the decoder alone selects
    assert all((one.where(vxlan(frame, vni)) == 2) == bool(refused) for vni in (1, 4, 3 * count + 1))


def test_a_jump_that_is_too_far_is_a_defect_and_not_another_jump() -> None:
    asm = bpf.Assembler()
    asm.jump(bpf.JEQ, 1, "far")
    for _ in range(300):
        asm.add(bpf.TAX)
    asm.label("far")
    asm.add(bpf.RET, 0)
    with pytest.raises(OverflowError):
        asm.program()
