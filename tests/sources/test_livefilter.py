"""The kernel's filter of live capture: what passes, by our own interpreter and by the kernel's."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import NamedTuple

import pytest

from appliance.sources import bpf
from appliance.sources import livefilter as live
from appliance.sources.livefilter import live_filter, refuse_all
from tests.sources.network import Namespace, ethernet, ipv4, ipv6, until

ETHER, LOOPBACK, NONE = live.ARPHRD_ETHER, live.ARPHRD_LOOPBACK, live.ARPHRD_NONE
WHOLE = 0xFFFFFFFF
PORTS = frozenset({80, 8080})


class Packet(NamedTuple):
    data: bytes
    interface: int = 7
    link_type: int = ETHER
    packet_type: int = 0
    protocol: int | None = None  # None: as the Ethernet header has it

    def known(self) -> dict[int, int]:
        """What the kernel knows beside the octets."""
        protocol = int.from_bytes(self.data[12:14]) if self.protocol is None else self.protocol
        return {
            live.PROTOCOL: protocol,
            live.PACKET_TYPE: self.packet_type,
            live.INDEX: self.interface,
            live.LINK_TYPE: self.link_type,
        }


def run(program: bytes, packet: Packet) -> int:
    """Classic BPF, as far as the program goes; a load beyond the end is 0, as in the kernel."""
    a = x = at = 0
    memory = [0] * 16
    known = packet.known()
    wide = {bpf.LD_WORD: 4, bpf.LD_HALF_X: 2, bpf.LD_BYTE_X: 1}
    while True:
        k: int
        code, then, otherwise, k = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code in wide:
            if code == bpf.LD_WORD and k in known:
                a = known[k]
                continue
            start = k + (x if code != bpf.LD_WORD else 0)
            octets = packet.data[start : start + wide[code]]
            if len(octets) < wide[code]:
                return 0
            a = int.from_bytes(octets)
        elif code in {bpf.JEQ, bpf.JGE, bpf.JSET, live.JGE_X}:
            met = {bpf.JEQ: a == k, bpf.JGE: a >= k, bpf.JSET: bool(a & k), live.JGE_X: a >= x}[code]
            at += then if met else otherwise
        elif code == bpf.JUMP:
            at += k
        elif code == bpf.RET:
            return k
        elif code == bpf.ST:
            memory[k] = a
        elif code in {bpf.TAX, bpf.LDX_IMM}:
            x = a if code == bpf.TAX else k
        else:
            a = {
                live.LD_LENGTH: len(packet.data),
                bpf.LD_IMM: k,
                bpf.LD_MEM: memory[k % 16],
                bpf.ADD_X: a + x,
                live.SUB: a - k,
                bpf.AND: a & k,
                bpf.LSH: a << (k % 32),
                bpf.RSH: a >> (k % 32),
            }[code] & 0xFFFFFFFF


def first_fragment(packet: bytes) -> bytes:
    return packet[:6] + b"\x20\x00" + packet[8:]


# With the ports 80 and 8080. What cannot be judged passes.
CASES: dict[str, tuple[bytes, bool]] = {
    "to the port": (ethernet(ipv4(target=80)), True),
    "from the port": (ethernet(ipv4(source=8080, target=40_000)), True),
    "other ports": (ethernet(ipv4(source=81, target=40_000)), False),
    "IPv4 options": (ethernet(ipv4(target=80, options=b"\1" * 40)), True),
    "IPv4 options, other ports": (ethernet(ipv4(target=443, options=b"\1" * 40)), False),
    "IPv4 options that look like the port": (ethernet(ipv4(target=443, options=b"\0\x50" * 4)), False),
    "IPv6": (ethernet(ipv6(target=8080)), True),
    "IPv6, from the port": (ethernet(ipv6(source=80, target=9)), True),
    "IPv6, other ports": (ethernet(ipv6(target=443)), False),
    "IPv6 extension header": (ethernet(ipv6(target=443, number=0)), True),
    "IPv6 fragment": (ethernet(ipv6(target=443, number=44)), True),
    "ICMPv6": (ethernet(ipv6(number=58)), False),
    "first fragment": (ethernet(first_fragment(ipv4(target=80))), True),
    "first fragment, other ports": (ethernet(first_fragment(ipv4(target=443))), False),
    "later fragment": (ethernet(ipv4(target=443, fragment=100)), True),
    "last fragment of UDP": (ethernet(ipv4(number=17, target=53, fragment=1)), True),
    "ICMP": (ethernet(ipv4(number=1)), False),
    "UDP": (ethernet(ipv4(number=17, target=80)), False),
    "VXLAN": (ethernet(ipv4(number=17, target=4789)), True),
    "VXLAN of old": (ethernet(ipv4(number=17, target=8472)), True),
    "VXLAN over IPv6": (ethernet(ipv6(number=17, target=4789)), True),
    "GENEVE": (ethernet(ipv4(number=17, target=6081)), True),
    "GRE": (ethernet(ipv4(number=47)), True),
    "IP in IP": (ethernet(ipv4(number=4)), True),
    "802.1Q tag": (ethernet(ipv4(target=443), None, 0x8100), True),
    "802.1ad and 802.1Q tags": (ethernet(ipv4(target=443), None, 0x88A8, 0x8100), True),
    "not IP": (ethernet(b"\0" * 46, 0x88B5), True),
    "IPv4 by name only": (ethernet(b"\0" * 46, 0x0800), True),
    "IPv6 by name only": (ethernet(ipv4(target=443), 0x86DD), True),
    "IPv4 that ends in its header": (ethernet(ipv4(target=443)[:18]), True),
    "IPv4 that ends in its ports": (ethernet(ipv4(target=443)[:22]), True),
    "IPv4 that ends behind its ports": (ethernet(ipv4(target=443)[:24]), False),
    "IPv4 options that go beyond the end": (ethernet(b"\x4f" + ipv4(target=443)[1:40]), True),
    "IPv6 that ends in its ports": (ethernet(ipv6(target=443)[:43]), True),
}


@pytest.mark.parametrize("what", CASES)
def test_ports(what: str) -> None:
    data, passes = CASES[what]
    assert run(live_filter(None, PORTS), Packet(data)) == (WHOLE if passes else 0)
    assert run(live_filter([7], PORTS), Packet(data)) == (WHOLE if passes else 0)
    assert run(live_filter([6, 8], PORTS), Packet(data)) == 0
    assert run(live_filter(None, None), Packet(data)) == WHOLE


@pytest.mark.parametrize(
    ("link_type", "before", "judged"),
    [(ETHER, 14, True), (LOOPBACK, 14, True), (NONE, 0, True), (512, 0, False), (778, 14, False)],
)
def test_link_layers(link_type: int, before: int, judged: bool) -> None:
    for packet, protocol in ((ipv4, 0x0800), (ipv6, 0x86DD)):
        for port, passes in ((80, True), (443, not judged)):
            data = bytes(before) + packet(target=port)
            found = run(live_filter(None, PORTS), Packet(data, 7, link_type, 0, protocol))
            assert found == (WHOLE if passes else 0)


@pytest.mark.parametrize("ports", [None, PORTS])
def test_loopback_packets_pass_once(ports: frozenset[int] | None) -> None:
    program = live_filter(None, ports)
    data = ethernet(ipv4(target=80))
    assert run(program, Packet(data, 1, LOOPBACK, live.PACKET_OUTGOING)) == 0
    assert run(program, Packet(data, 1, LOOPBACK)) == WHOLE
    assert run(program, Packet(data, 2, ETHER, live.PACKET_OUTGOING)) == WHOLE


@pytest.mark.parametrize("count", [0, 1, 16, 17, 33, live.INDEXES])
def test_every_interface_that_is_named_and_no_other(count: int) -> None:
    indexes = [3 * i + 2 for i in range(count)]
    program = live_filter(indexes, None)
    data = ethernet(ipv4())
    for index in range(3 * count + 5):
        assert run(program, Packet(data, index)) == (WHOLE if index in indexes else 0)


@pytest.mark.parametrize("count", [0, 1, 16, 17, live.PORTS])
def test_every_port_that_is_named_and_no_other(count: int) -> None:
    ports = frozenset(655 * i + 1 for i in range(count))
    program = live_filter(None, ports)
    for port in (*ports, 0, 2, 700, 65_535):
        passes = WHOLE if port in ports else 0
        assert run(program, Packet(ethernet(ipv4(source=3, target=port)))) == passes
        assert run(program, Packet(ethernet(ipv6(source=port, target=3)))) == passes


def test_more_ports_than_fit_are_left_to_user_space() -> None:
    program = live_filter([7], frozenset(range(1, live.PORTS + 2)))
    assert program == live_filter([7], None)


def test_nothing_passes_where_nothing_is_captured() -> None:
    assert run(refuse_all(), Packet(ethernet(ipv4()))) == 0


@pytest.fixture
def network():
    made = Namespace()
    made.ip(
        "link set lo up",
        "link add near type veth peer name far",
        "link set near up",
        "link set far up",
    )
    yield made
    made.close()


def test_the_kernel_agrees(network: Namespace) -> None:
    """What the interpreter says of each case is what comes through a veth pair."""
    with network.inside():
        inside, outside = (socket.socket(17, socket.SOCK_RAW, 0) for _ in range(2))
    with inside, outside:
        bpf.attach(outside, bpf.SO_ATTACH_FILTER, live_filter([network.index("far")], PORTS))
        outside.bind(("far", 3))
        outside.setblocking(False)
        inside.bind(("near", 0))
        for data, _ in CASES.values():
            inside.send(data)
        last = ethernet(ipv4(b"the last", target=80))
        inside.send(last)
        found: list[bytes] = []

        def ended() -> bool:
            while not found or found[-1] != last:
                try:
                    found.append(outside.recv(1 << 16))
                except BlockingIOError:
                    return False
            return True

        assert until(ended, outside.fileno())
        # The kernel takes a tag out; the packet behind it is judged then.
        tagged = {"802.1Q tag", "802.1ad and 802.1Q tags"}
        expected = [data for what, (data, passes) in CASES.items() if passes and what not in tagged]
        assert [data for data in found[:-1] if data in expected] == expected
        refused = [what for what, (data, passes) in CASES.items() if not passes and data in found]
        assert refused == []


def test_the_longest_program_fits_beside_the_one_before_on_older_kernels(network: Namespace) -> None:
    program = live_filter(range(1000, 1000 + live.INDEXES), frozenset(range(100, 100 + live.PORTS)))
    assert len(program) // 8 <= 4096
    with network.inside():
        sock = socket.socket(17, socket.SOCK_RAW, 0)
        limit = Path("/proc/sys/net/core/optmem_max")
        try:
            limit.write_text("20480")
        except OSError as error:
            pytest.skip(f"optmem_max is not of the namespace in this kernel, NOT tested: {error}")
    with sock:
        for _ in range(3):
            bpf.attach(sock, bpf.SO_ATTACH_FILTER, program)
