"""Live capture: rings from handmade octets, and the kernel's with veth pairs in network namespaces."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from appliance.model import LINK_ETHERNET, LINK_RAW, NANOSECONDS, Frame
from appliance.sources import afpacket
from appliance.sources.afpacket import DeviceError, Devices, RingOptions, RingSource, open_rings
from appliance.sources.interfaces import Interface, Pattern, interfaces
from appliance.sources.repeats import REMEMBERED, WINDOW, Repeats, identity
from appliance.sources.ring import BLOCK, READ_FRAMES, READ_OCTETS, Ring
from tests.sources.network import Namespace, checksum, ethernet, ipv4, ipv6, until

ETHER, LOOPBACK, TUN = 1, 772, 65_534
SMALL = 1 << 20
ROOM = 32 << 20  # while a test sends and does not read, each RETIRE_MS takes a block
T0 = 1_700_000_000 * NANOSECONDS


# --- rings from handmade octets -----------------------------------------------------------------------------


def entry(
    data: bytes, *, ts: int = T0, wire: int | None = None, kind: int = ETHER, index: int = 2, mac: int = 82
) -> tuple[bytes, int]:
    """What the kernel writes for a packet, and its length."""
    network = mac + (14 if kind in {ETHER, LOOPBACK} else 0)
    length = len(data) if wire is None else wire
    head = struct.pack("=4x4I4x2H20x", *divmod(ts, NANOSECONDS), len(data), length, mac, network)
    head += struct.pack("=HHiHBB8x", 17, 0, index, kind, 0, 6)
    return head.ljust(mac, b"\0") + data, mac + len(data)


def fill(
    memory: mmap.mmap, block: int, entries: Sequence[tuple[bytes, int]], *, number: int, status: int = 1
):
    at = first = 48
    base = block * BLOCK
    for i, (octets, length) in enumerate(entries):
        step = (length + 15) // 16 * 16
        memory[base + at : base + at + length] = octets
        memory[base + at : base + at + 4] = struct.pack("=I", step if i + 1 < len(entries) else 0)
        at += step
    memory[base : base + 32] = struct.pack("=II4IQ", 1, 0, status, len(entries), first, at, number)


def blank(blocks: int = 4) -> mmap.mmap:
    return mmap.mmap(-1, blocks * BLOCK)


def plain(frames: list[Frame]) -> list[tuple[int, bytes, int, int]]:
    return [(frame.ts, frame.data, frame.wire_length, frame.link) for frame in frames]


def test_ethernet_and_loopback_come_with_their_link_layer_all_else_without() -> None:
    memory = blank()
    packet = ipv4(b"x")
    framed = ethernet(packet)
    entries = [
        entry(framed, ts=T0 + 123_456_789),
        entry(framed, kind=LOOPBACK, wire=1000),
        entry(packet, kind=TUN, mac=96),
    ]
    fill(memory, 0, entries, number=1)
    assert plain(Ring(memory, several=False).read()) == [
        (T0 + 123_456_789, framed, len(framed), LINK_ETHERNET),
        (T0, framed, 1000, LINK_ETHERNET),
        (T0, packet, len(packet), LINK_RAW),
    ]


def test_a_link_layer_that_is_not_ethernet_is_taken_off() -> None:
    memory = blank()
    octets, length = entry(b"\xaa" * 20 + ipv4(b"x"), kind=32, wire=500)  # InfiniBand
    octets = octets[:26] + struct.pack("=H", 82 + 20) + octets[28:]
    fill(memory, 0, [(octets, length)], number=1)
    assert plain(Ring(memory, several=False).read()) == [(T0, ipv4(b"x"), 480, LINK_RAW)]


def test_blocks_are_given_back_in_a_circle() -> None:
    memory = blank(2)
    ring = Ring(memory, several=False)
    for turn in range(5):
        assert ring.read() == []
        fill(memory, turn % 2, [entry(bytes([turn]) * 60)], number=turn + 1)
        assert [frame.data for frame in ring.read()] == [bytes([turn]) * 60]
        assert memory[turn % 2 * BLOCK + 8 : turn % 2 * BLOCK + 12] == bytes(4)


def test_a_block_without_packets_is_given_back() -> None:
    memory = blank()
    fill(memory, 0, [], number=1)
    fill(memory, 1, [entry(b"x" * 60)], number=2)
    assert len(Ring(memory, several=False).read()) == 1


def test_a_batch_has_a_limit_and_the_next_worker_goes_on_behind_it() -> None:
    memory = blank()
    fill(memory, 0, [entry(struct.pack("!H58x", i)) for i in range(300)], number=1)
    first = Ring(memory, several=False).read()
    second = Ring(memory, several=False).read()  # another worker: the first one ended with its batch
    assert len(first) == len(second) == READ_FRAMES
    rest = Ring(memory, several=False)
    found = first + second + rest.read()
    assert [frame.data[:2] for frame in found] == [struct.pack("!H", i) for i in range(300)]
    assert rest.read() == []


def test_what_is_in_hand_is_told_before_the_kernel_has_it_back() -> None:
    memory = blank()
    fill(memory, 0, [entry(struct.pack("!H58x", i)) for i in range(200)], number=1)
    ring = Ring(memory, several=False)
    told: list[tuple[int, int]] = []
    ring.hold = lambda frames: told.append((frames, ring.left()))
    assert ring.left() == 200
    ring.read()
    ring.read()
    assert told == [(READ_FRAMES, 200), (200 - READ_FRAMES, 200 - READ_FRAMES)]
    assert ring.left() == 0


def test_a_batch_has_a_limit_of_octets() -> None:
    memory = blank()
    fill(memory, 0, [entry(b"x" * 60_000) for _ in range(4)], number=1)
    fill(memory, 1, [entry(b"y" * (BLOCK - 200))], number=2)
    fill(memory, 2, [entry(b"z" * 50)], number=3)
    ring = Ring(memory, several=False)
    sizes = [[len(frame.data) for frame in ring.read()] for _ in range(4)]
    assert sizes == [[60_000] * 4, [BLOCK - 200], [50], []]
    assert READ_OCTETS >= BLOCK - 200


@pytest.mark.parametrize(
    ("states", "begin"),  # number and status of each block
    [
        ([(1, 0), (0, 0), (0, 0)], 0),  # a new ring
        ([(1, 0), (2, 0), (0, 0)], 1),  # the first one was read
        ([(4, 1), (5, 0), (3, 1)], 2),  # two wait, and the kernel fills the third
        ([(7, 1), (8, 1), (6, 1)], 2),  # full
        ([(4, 0), (5, 0), (3, 0)], 1),  # all read
    ],
)
def test_a_worker_begins_with_the_oldest_block_that_waits(states: list[tuple[int, int]], begin: int) -> None:
    memory = blank(len(states))
    for block, (number, status) in enumerate(states):
        fill(memory, block, [entry(bytes([block]) * 60)], number=number, status=status)
    ring = Ring(memory, several=False)
    memory[begin * BLOCK + 8] = 1
    assert ring.read()[0].data == bytes([begin]) * 60


def test_repeats_are_left_out_where_several_interfaces_are_captured() -> None:
    packet = ipv4(b"x", ttl=64)
    routed = ipv4(b"x", ttl=63)
    assert packet[8:12] != routed[8:12]
    entries = [
        entry(ethernet(packet), index=2),
        entry(ethernet(packet), index=3),
        entry(b"\xff" * 12 + ethernet(routed)[12:], index=4),
        entry(routed, index=5, kind=TUN),
        entry(ethernet(b"\0" * 40, 0x88B5), index=2),
        entry(ethernet(b"\0" * 40, 0x88B5), index=3),
    ]
    memory = blank()
    fill(memory, 0, entries, number=1)
    ring = Ring(memory, several=True)
    assert len(ring.read()) == 3
    assert ring.duplicates == 3
    fill(memory, 1, entries, number=2)
    alone = Ring(memory, several=False)
    assert len(alone.read()) == 6
    assert alone.duplicates == 0


def test_more_repeats_than_a_batch_do_not_look_like_the_end() -> None:
    memory = blank()
    packet = entry(ethernet(ipv4(b"x")))
    copies = [entry(ethernet(ipv4(b"x")), index=3 + i) for i in range(2 * READ_FRAMES)]
    fill(memory, 0, [packet, *copies, entry(ethernet(ipv4(b"y")))], number=1)
    ring = Ring(memory, several=True)
    assert len(ring.read()) == 1
    assert len(ring.read()) == 1
    assert ring.duplicates == 2 * READ_FRAMES


# --- repeats ------------------------------------------------------------------------------------------------


def test_seen_again_on_the_same_interface_is_a_retransmission_and_begins_anew() -> None:
    seen = Repeats()
    steps = [(1, False), (2, True), (3, True), (1, False), (2, True), (2, False), (1, True)]
    assert [seen.again(7, index, T0) for index, _ in steps] == [again for _, again in steps]


@pytest.mark.parametrize(("after", "again"), [(WINDOW, True), (WINDOW + 1, False), (-1000, True)])
def test_a_repeat_comes_within_a_second(after: int, again: bool) -> None:
    seen = Repeats()
    assert not seen.again(7, 1, T0)
    assert seen.again(7, 2, T0 + after) is again


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    seen = Repeats()
    keys = [*range(1, 3 * REMEMBERED + 1)]
    for key in keys:
        assert not seen.again(key, 1, T0)
    assert REMEMBERED // 2 <= len(seen._old) + len(seen._young) <= REMEMBERED
    assert all(seen.again(key, 2, T0) for key in keys[-REMEMBERED // 2 :])
    assert not any(seen.again(key, 3, T0) for key in keys[:100])
    assert len(seen._old) + len(seen._young) <= REMEMBERED


@pytest.mark.parametrize(
    "other",
    [
        ipv4(b"x", source=1),
        ipv4(b"x", target=1),
        ipv4(b"x", ident=2),
        ipv4(b"x", seq=2),
        ipv4(b"x", addresses=("10.0.0.1", "10.0.0.3")),
        ipv4(b"x", fragment=0x2000),
        ipv4(b"xx"),
        ipv4(b"y"),
        ipv4(b"x", options=b"\1" * 4),
        ipv4(b"x", number=17),
        ipv6(b"x"),
        b"\x45\x08" + ipv4(b"x")[2:],
    ],
)
def test_packets_that_differ_are_no_repeats(other: bytes) -> None:
    assert identity(ipv4(b"x"), 0) != identity(other, 0)
    assert identity(ipv6(b"x"), 0) != identity(other, 0) or other == ipv6(b"x")


@pytest.mark.parametrize("options", [b"", b"\1" * 40])
def test_all_of_the_tcp_header_counts_also_behind_options(options: bytes) -> None:
    packet = ipv4(options=options)
    at = 20 + len(options)
    for octet in range(at, at + 20):
        changed = packet[:octet] + bytes([packet[octet] ^ 1]) + packet[octet + 1 :]
        assert identity(packet, 0) != identity(changed, 0)


def test_only_what_a_router_changes_is_left_out() -> None:
    assert identity(ipv4(b"x", ttl=64), 0) == identity(ipv4(b"x", ttl=1), 0)
    assert identity(ipv6(b"x", hops=64), 0) == identity(ipv6(b"x", hops=1), 0)
    assert identity(ethernet(ipv4(b"x")), 14) == identity(ipv4(b"x"), 0)


@pytest.mark.parametrize(
    ("data", "known"), [(b"", False), (b"\x45", True), (b"\x65", True), (b"\0" * 60, False)]
)
def test_what_is_hardly_a_packet_is_no_repeat_of_another(data: bytes, known: bool) -> None:
    assert (identity(data, 0) != 0) is known
    assert identity(data, 14) == 0


# --- names --------------------------------------------------------------------------------------------------

PRESENT = [
    Interface(1, "lo", True, {socket.inet_aton("127.0.0.1"), socket.inet_pton(10, "::1")}),
    Interface(2, "eth0", True, {socket.inet_aton("10.0.0.7"), socket.inet_pton(10, "fe80::1")}),
    Interface(3, "eth1", False, {socket.inet_pton(10, "fe80::1")}),
    Interface(9, "docker0", True, set()),
]


@pytest.mark.parametrize(
    ("text", "indexes", "several"),
    [
        ("", [1, 2, 9], True),
        ("any", [1, 2, 9], True),
        ("eth0,any", [1, 2, 9], True),
        ("0.0.0.0", [1, 2, 9], True),  # noqa: S104  # nothing is bound
        ("eth0", [2], False),
        ("eth0,", [2], False),
        ("eth1", [3], False),
        (" eth1 , lo ", [1, 3], True),
        ("eth*", [2, 3], True),
        ("d*,lo", [1, 9], True),
        ("*", [1, 2, 3, 9], True),
        ("10.0.0.7", [2], True),
        ("fe80::1", [2, 3], True),
        ("localhost", [1], True),
        ("::1,docker0", [1, 9], True),
    ],
)
def test_names(text: str, indexes: list[int], several: bool) -> None:
    pattern = Pattern(text)
    assert list(pattern.choose(PRESENT)) == indexes
    assert pattern.unknown(PRESENT) == []
    assert pattern.several is several


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("eth7", ["eth7"]),
        ("eth", ["eth"]),
        ("wl*", ["wl*"]),
        ("10.0.0.8", ["10.0.0.8"]),
        ("eth0,eth7,lo", ["eth7"]),
        ("10.0.0.7x", ["10.0.0.7x"]),
    ],
)
def test_unknown_names(text: str, unknown: list[str]) -> None:
    assert Pattern(text).unknown(PRESENT) == unknown


def test_an_unknown_name_is_an_error_that_lists_the_existing_ones() -> None:
    if not hasattr(socket, "AF_NETLINK"):
        pytest.skip("no Linux: the interfaces cannot be read")
    with pytest.raises(DeviceError, match=r"^no interface is meant by 'no such', 'x\*'; there are: .*lo"):
        open_rings(RingOptions("no such,x*"), 1)


def test_the_ring_has_whole_blocks_and_never_too_few() -> None:
    assert RingOptions(buffer=0).blocks() == SMALL // BLOCK
    assert RingOptions(buffer=3 * SMALL + 5).blocks() == 3 * SMALL // BLOCK
    assert RingOptions().buffer == 64 << 20


# --- the kernel ---------------------------------------------------------------------------------------------


@pytest.fixture
def network() -> Iterator[Namespace]:
    """``near`` and ``far`` are the two ends of a cable."""
    made = Namespace()
    made.ip(
        "link set lo up",
        "link add near type veth peer name far",
        "link set near up",
        "link set far up",
    )
    yield made
    made.close()


class Live:
    """The supervisor's part and all workers of a capture, in one process."""

    def __init__(self, network: Namespace, options: RingOptions, workers: int) -> None:
        self._network = network
        with network.inside():
            self.rings = open_rings(options, workers)
            self.devices = Devices(options, self.rings)
        self.options = options
        self.sources = [RingSource(ring.dup(), options) for ring in self.rings]

    def refresh(self) -> list[str]:
        with self._network.inside():
            return self.devices.refresh()

    def read(self, count: int) -> list[Frame]:
        """Of the first worker: at least so many, or what came in all patience."""
        return self.shares(count)[0]

    def shares(self, count: int) -> list[list[Frame]]:
        found: list[list[Frame]] = [[] for _ in self.sources]

        def enough() -> bool:
            for share, source in zip(found, self.sources, strict=True):
                share.extend(everything(source))
            return sum(map(len, found)) >= count

        until(enough, self.sources[0].fileno() if len(self.sources) == 1 else None)
        return found

    def close(self) -> None:
        for source in self.sources:
            source.close()
        for ring in self.rings:
            ring.close()


@contextmanager
def live(network: Namespace, devices: str = "far", workers: int = 1, **options) -> Iterator[Live]:
    with closing(Live(network, RingOptions(devices, **{"buffer": ROOM, **options}), workers)) as made:
        yield made


@contextmanager
def sender(network: Namespace, name: str = "near") -> Iterator[socket.socket]:
    with network.inside():
        sock = socket.socket(17, socket.SOCK_RAW, 0)
    with sock:
        sock.bind((name, 0))
        yield sock


def everything(source: RingSource) -> list[Frame]:
    """What is there now."""
    found = []
    while batch := source.read():
        found += batch
    return found


def payloads(frames: list[Frame], at: int = 54) -> list[bytes]:
    return [frame.data[at:] for frame in frames]


END = ethernet(ipv4(b"end"))


def test_packets_come_whole_with_the_kernels_time(network: Namespace) -> None:
    before = time.time_ns()
    sent = [ethernet(ipv4(b"x" * n)) for n in (0, 1, 1000, 1460)]
    with live(network) as capture, sender(network) as wire:
        for data in sent:
            wire.send(data)
        found = capture.read(len(sent))
        assert [(frame.data, frame.wire_length, frame.link) for frame in found] == [
            (data, len(data), LINK_ETHERNET) for data in sent
        ]
        assert before <= found[0].ts <= found[-1].ts <= time.time_ns()
        assert capture.sources[0].drops() == 0


def test_nothing_comes_from_interfaces_and_ports_that_are_not_wanted(network: Namespace) -> None:
    network.ip("link add other type veth peer name end", "link set other up", "link set end up")
    with (
        live(network, "far", ports=frozenset({80})) as capture,
        sender(network) as wire,
        sender(network, "other") as elsewhere,
    ):
        elsewhere.send(ethernet(ipv4(b"elsewhere")))
        wire.send(ethernet(ipv4(b"no", target=443)))
        wire.send(ethernet(ipv6(b"six")))
        wire.send(END)
        assert payloads(capture.read(2)) == [ethernet(ipv6(b"six"))[54:], b"end"]


def test_without_filter_all_ports_come(network: Namespace) -> None:
    with live(network, ports=frozenset({80}), filtered=False) as capture, sender(network) as wire:
        wire.send(ethernet(ipv4(b"other", target=443)))
        assert payloads(capture.read(1)) == [b"other"]


def test_ports_can_be_selected_anew(network: Namespace) -> None:
    with live(network, ports=frozenset({80})) as capture, sender(network) as wire:
        wire.send(ethernet(ipv4(b"before", target=443)))
        capture.devices.select(frozenset({443}))
        wire.send(ethernet(ipv4(b"after", target=443)))
        assert payloads(capture.read(1)) == [b"after"]


def test_nothing_comes_before_the_devices_are_followed_nor_after_stop(network: Namespace) -> None:
    options = RingOptions("far", buffer=SMALL)
    with network.inside():
        rings = open_rings(options, 1)
    with rings[0], sender(network) as wire:
        wire.send(ethernet(ipv4(b"early")))
        with network.inside():
            devices = Devices(options, rings)
        wire.send(ethernet(ipv4(b"in time")))
        devices.stop()
        devices.select(None)
        assert devices.refresh() == []
        wire.send(ethernet(ipv4(b"late")))
        with closing(RingSource(rings[0].dup(), options)) as source:
            found: list[Frame] = []

            def anything() -> bool:
                found.extend(everything(source))
                return bool(found)

            assert until(anything, source.fileno())
            assert payloads(found) == [b"in time"]


def test_loopback_packets_come_once(network: Namespace) -> None:
    with network.inside():
        pair = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    with pair[0], pair[1], live(network, "localhost") as capture:
        assert capture.devices.names == ["lo"]
        pair[0].bind(("127.0.0.1", 0))
        for text in (b"one", b"two", b"end"):
            pair[1].sendto(text, pair[0].getsockname())
        found = capture.read(3)
        assert payloads(found, 42) == [b"one", b"two", b"end"]
        assert {frame.link for frame in found} == {LINK_ETHERNET}
        assert capture.sources[0].duplicates == 0


def test_a_packet_on_several_interfaces_comes_once(network: Namespace) -> None:
    """In at a bridge's port, on the bridge, out at another port, and in at the other end of that cable."""
    network.ip(
        "link add bridge type bridge",
        "link set far master bridge",
        "link add out type veth peer name end",
        "link set out master bridge",
        "link set bridge up",
        "link set out up",
        "link set end up",
    )
    with live(network, "far,bridge,out,end") as capture, sender(network) as wire:

        def passes() -> bool:  # the bridge learns that its ports are up
            wire.send(ethernet(ipv4(b"warm")))
            capture.read(1)
            return capture.sources[0].duplicates >= 3

        assert until(passes)
        before = capture.sources[0].duplicates
        for number in range(50):
            wire.send(ethernet(ipv4(b"%d" % number, ident=number)))
        found = [text for text in payloads(capture.read(50)) if text != b"warm"]
        assert found == [b"%d" % number for number in range(50)]
        assert until(lambda: not capture.sources[0].read() and capture.sources[0].duplicates >= before + 100)


def test_any_captures_interfaces_that_appear_and_says_so(network: Namespace) -> None:
    with live(network, "any") as capture:
        assert sorted(capture.devices.names) == ["far", "lo", "near"]
        assert capture.refresh() == []
        network.ip("link add new type veth peer name newer", "link set new up", "link set newer up")
        with sender(network, "new") as wire:
            wire.send(ethernet(ipv4(b"before the refresh")))
            assert payloads(capture.read(1)) == [b"before the refresh"]
        assert sorted(capture.refresh()) == ["new appeared", "newer appeared"]
        network.ip("link del new")
        assert sorted(capture.refresh()) == ["new vanished", "newer vanished"]
        network.ip("link set near down")
        assert capture.refresh() == ["near vanished"]


def test_a_prefix_takes_in_what_appears_later(network: Namespace) -> None:
    with live(network, "fa*") as capture:
        network.ip("link add new type veth peer name fast", "link set new up", "link set fast up")
        with sender(network, "new") as wire, sender(network) as old:
            wire.send(ethernet(ipv4(b"too early")))
            assert capture.refresh() == ["fast appeared"]
            wire.send(ethernet(ipv4(b"new")))
            old.send(ethernet(ipv4(b"old")))
            assert sorted(payloads(capture.read(2))) == [b"new", b"old"]


def test_an_interface_that_goes_and_comes_under_its_name_is_followed(network: Namespace) -> None:
    with live(network, "far", promiscuous=True) as capture:
        network.ip("link del near")
        assert capture.refresh() == ["far vanished"]
        network.ip("link add near type veth peer name far", "link set near up", "link set far up")
        assert capture.refresh() == ["far appeared"]
        with sender(network) as wire:
            wire.send(END)
            assert payloads(capture.read(1)) == [b"end"]


def test_an_address_names_its_interface(network: Namespace) -> None:
    network.ip("addr add 10.9.8.7/24 dev far", "addr add 10.9.8.8/24 dev far")
    for address in ("10.9.8.7", "10.9.8.8"):
        with live(network, address) as capture:
            assert capture.devices.names == ["far"]


def test_the_other_ends_address_names_nothing(network: Namespace) -> None:
    network.ip("addr add 10.9.8.7 peer 10.9.8.1 dev far")
    with network.inside():
        present = interfaces()
    assert Pattern("10.9.8.1").unknown(present) == ["10.9.8.1"]
    assert list(Pattern("10.9.8.7").choose(present).values()) == ["far"]


def test_more_interfaces_than_fit_into_a_netlink_answer(network: Namespace) -> None:
    network.ip(*(f"link add a{i} type veth peer name b{i}" for i in range(50)))
    with network.inside():
        names = {one.name for one in interfaces()}
        assert names == {name for _, name in socket.if_nameindex()}
    assert len(names) >= 103


def test_more_interfaces_than_a_filter_takes(network: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(afpacket, "INDEXES", 1)
    with live(network, "near,far") as capture:
        assert capture.devices.notes == ["2 interfaces match; the 1 oldest are captured"]


def test_promiscuous_mode_ends_with_the_capture(network: Namespace) -> None:
    def promiscuity(name: str) -> int:
        with network.inside():
            command = [shutil.which("ip") or "ip", "-d", "-j", "link", "show", name]
            return int(json.loads(subprocess.check_output(command))[0]["promiscuity"])

    with live(network, "far", promiscuous=True):
        assert promiscuity("far") == 1
        assert promiscuity("near") == 0
    assert until(lambda: promiscuity("far") == 0)
    with live(network, "far"):
        assert promiscuity("far") == 0


def test_tun_packets_come_without_link_layer(network: Namespace) -> None:
    with network.inside():
        tun = os.open("/dev/net/tun", os.O_RDWR) if Path("/dev/net/tun").exists() else -1
        if tun < 0:
            pytest.skip("no /dev/net/tun: interfaces without a link layer are NOT tested with the kernel")
        import fcntl  # noqa: PLC0415  # not on every system

        fcntl.ioctl(
            tun, 0x400454CA, struct.pack("16sH22x", b"tunnel", 0x1001)
        )  # TUNSETIFF: IFF_TUN | IFF_NO_PI
    with os.fdopen(tun, "wb", buffering=0) as inside:
        network.ip("link set tunnel up")
        with live(network, "tunnel", ports=frozenset({80})) as capture:
            inside.write(ipv4(b"no", target=443))
            inside.write(ipv4(b"yes"))
            inside.write(ipv6(b"six"))
            found = capture.read(2)
            assert [(frame.data, frame.link) for frame in found] == [
                (ipv4(b"yes"), LINK_RAW),
                (ipv6(b"six"), LINK_RAW),
            ]


@contextmanager
def connected(near: Namespace, far: Namespace) -> Iterator[None]:
    near.ip("link add one type veth peer name two")
    near.ip(f"link set two netns {far.path}", "addr add 10.1.1.1/24 dev one", "link set one up")
    far.ip("addr add 10.1.1.2/24 dev two", "link set two up", "link set lo up")
    yield


@pytest.fixture
def other() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


def transfer(near: Namespace, far: Namespace, octets: int, connections: int = 1) -> None:
    """Over TCP."""
    with ExitStack() as stack:
        with far.inside():
            server = stack.enter_context(socket.create_server(("10.1.1.2", 80)))
        for _ in range(connections):
            with near.inside():
                client = stack.enter_context(socket.create_connection(("10.1.1.2", 80), 10))
            peer = stack.enter_context(server.accept()[0])
            thread = threading.Thread(target=client.sendall, args=(bytes(octets),))
            thread.start()
            left = octets
            while left:
                left -= len(peer.recv(1 << 20))
            thread.join()
            peer.sendall(b"done")


def tcp(frames: list[Frame]) -> list[tuple[int, int]]:
    """The ports of those that are no ARP."""
    return [struct.unpack_from("!HH", f.data, 34) for f in frames if f.data[12:14] == b"\x08\0"]


def test_super_frames_of_64_kib_come_whole(network: Namespace, other: Namespace) -> None:
    with connected(network, other), live(network, "one", ports=frozenset({80})) as capture:
        transfer(network, other, 4 << 20)
        found = capture.read(60)
        longest = max(len(frame.data) for frame in found)
        assert longest > 60_000, "the kernel made no super-frames"
        assert all(len(frame.data) == frame.wire_length for frame in found)
        assert capture.sources[0].drops() == 0


def test_both_directions_of_a_connection_come_to_one_worker(network: Namespace, other: Namespace) -> None:
    with connected(network, other), live(network, "one", 3, ports=frozenset({80})) as capture:
        transfer(network, other, 100, 40)
        shares: list[set[tuple[int, int]]] = [set(), set(), set()]

        def whole() -> bool:
            for share, source in zip(shares, capture.sources, strict=True):
                share.update(tcp(everything(source)))
            return sum(map(len, shares)) >= 2 * 40

        assert until(whole)
        assert len(set.union(*shares)) == sum(map(len, shares)) == 2 * 40
        assert all(shares), "one worker got nothing of 40 connections"
        for share in shares:
            assert {ports[::-1] for ports in share} == share


def test_fragments_go_by_their_addresses_to_one_worker(network: Namespace) -> None:
    with live(network, "far", 2) as capture, sender(network) as wire:
        for number in range(40):
            pair = (f"10.0.0.{number % 20}", "10.0.1.1")
            whole = ipv4(bytes(64), source=1000 + number, ident=number + 1, addresses=pair)
            for part in fragments(whole):
                wire.send(ethernet(part))
        shares = capture.shares(80)
        pairs = [{frame.data[26:34] for frame in share} for share in shares]
        assert all(pairs)
        assert not pairs[0] & pairs[1]
        assert sum(map(len, shares)) == 80


def test_the_machines_own_fragments_are_left_alone(network: Namespace) -> None:
    """What only passes by does not fill the memory in which the machine puts fragments together."""
    with live(network, "far", 2), sender(network) as wire:
        for number in range(50):
            wire.send(ethernet(fragments(ipv4(bytes(64), ident=number + 1))[0]))
        with network.inside():
            counts = Path("/proc/thread-self/net/sockstat").read_text()
        assert "FRAG: inuse 0 memory 0" in counts


def fragments(packet: bytes) -> tuple[bytes, bytes]:
    out = []
    for field, part in ((0x2000, packet[20:60]), (5, packet[60:])):
        head = packet[:2] + struct.pack("!H", 20 + len(part)) + packet[4:6] + field.to_bytes(2) + packet[8:10]
        head += b"\0\0" + packet[12:20]
        out.append(head[:10] + checksum(head).to_bytes(2) + head[12:] + part)
    return out[0], out[1]


def test_two_captures_on_one_machine_do_not_share(network: Namespace) -> None:
    with live(network, "far", 2) as one, live(network, "far", 2) as two, sender(network) as wire:
        for number in range(30):
            wire.send(ethernet(ipv4(source=1000 + number)))
        for capture in (one, two):
            assert sum(map(len, capture.shares(30))) == 30


def test_a_worker_that_is_started_again_has_its_share_again(network: Namespace) -> None:
    """Forked, as the supervisor does; the first one reads one batch and ends without a word."""
    with live(network, "far", 2) as capture, sender(network) as wire:
        for source in capture.sources:
            source.close()

        def worker(ring: socket.socket) -> set[int]:
            out, into = os.pipe()
            child = os.fork()
            if not child:
                source = RingSource(ring, capture.options)
                ports: set[int] = set()
                until(lambda: bool(take(source, ports)), source.fileno())
                os.write(into, b"".join(port.to_bytes(2) for port in ports))
                os._exit(0)
            os.close(into)
            with os.fdopen(out, "rb") as pipe:
                text = pipe.read()
            os.waitpid(child, 0)
            return {*struct.unpack(f"!{len(text) // 2}H", text)}

        sent = {*range(1000, 1300)}
        for port in sent:
            wire.send(ethernet(ipv4(source=port)))
        found = [worker(ring) for ring in capture.rings]
        assert all(found)
        assert not found[0] & found[1]
        assert found[0] | found[1] < sent  # batches have a limit
        later = {*range(2000, 2020)}
        for port in later:
            wire.send(ethernet(ipv4(source=port)))
        with ExitStack() as stack:
            again = [
                stack.enter_context(closing(RingSource(ring.dup(), capture.options)))
                for ring in capture.rings
            ]

            def whole() -> bool:
                for source, share in zip(again, found, strict=True):
                    take(source, share)
                return len(found[0] | found[1]) >= len(sent | later)

            assert until(whole)
        assert found[0] | found[1] == sent | later
        assert not found[0] & found[1]


def take(source: RingSource, into: set[int]) -> list[Frame]:
    batch = source.read()
    ports = {struct.unpack_from("!H", frame.data, 34)[0] for frame in batch}
    assert not ports & into, "a packet came twice"
    into |= ports
    return batch


def test_what_finds_no_room_is_counted(network: Namespace) -> None:
    with live(network, buffer=SMALL) as capture, sender(network) as wire:
        count = 1200
        data = ethernet(ipv4(b"x" * 1400))
        for _ in range(count):
            wire.send(data)
        found = capture.read(500)
        drops = capture.sources[0].drops()
        assert drops > 0
        assert len(found) + drops == count
        assert capture.sources[0].drops() == drops  # the kernel forgets, we do not
        wire.send(END)  # and it goes on
        assert payloads(capture.read(1)) == [b"end"]


def test_no_descriptor_is_left_behind(network: Namespace) -> None:
    def count() -> int:
        return len([*Path("/proc/self/fd").iterdir()])

    before = count()
    with live(network, "any", 2, promiscuous=True) as capture:
        capture.refresh()
    assert count() == before


# --- capabilities -------------------------------------------------------------------------------------------

_TRY = """
import sys
from appliance.sources.afpacket import DeviceError, Devices, RingOptions, RingSource, open_rings
options = RingOptions("any", promiscuous=True, buffer=1 << 20)
try:
    rings = open_rings(options, 2)
except DeviceError as error:
    sys.exit(str(error))
Devices(options, rings).refresh()
print(RingSource(rings[0], options).read())
"""


@pytest.mark.parametrize("capable", [True, False])
def test_one_capability_is_enough_and_needed(network: Namespace, root: Path, capable: bool) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid():
        pytest.skip("no setpriv, or not root: what an unprivileged user can capture is NOT tested")
    command = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"]
    if capable:
        command += ["--inh-caps=+net_raw", "--ambient-caps=+net_raw", "--bounding-set=-all,+net_raw"]
    with network.inside():
        done = subprocess.run(
            [*command, sys.executable, "-c", _TRY],
            env={"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            text=True,
            capture_output=True,
            check=False,
        )
    if capable:
        assert (done.stdout, done.stderr) == ("[]\n", "")
        return
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    for word in ("CAP_NET_RAW", "setcap cap_net_raw+ep /", "docker run --cap-add NET_RAW", "securityContext"):
        assert word in done.stderr


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (12, "the kernel has no 1 MiB for each worker's packets: Cannot allocate memory"),
        (92, "refuses an AF_PACKET socket with a TPACKET_V3 ring: Protocol not available"),
    ],
)
def test_what_the_kernel_refuses_is_an_error_with_its_reason(
    network: Namespace, monkeypatch: pytest.MonkeyPatch, number: int, text: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(afpacket, "_bind", refuse)
    with network.inside(), pytest.raises(DeviceError, match=text):
        open_rings(RingOptions("far", buffer=SMALL), 2)
