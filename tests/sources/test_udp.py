"""A mirror target's sockets: what comes is read whole with its time, what is lost or refused is counted."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from appliance.model import LINK_GENEVE, LINK_VXLAN, NANOSECONDS, Frame
from appliance.packet.vni import VniSelection
from appliance.sources import udp
from appliance.sources.base import CaptureError, CaptureOptions
from appliance.sources.udp import BATCH, MirrorTarget, UdpSource
from tests.sources.test_bpf import ethernet, geneve, ipv4, tcp, vxlan

Open = Callable[..., MirrorTarget]
FRAME = ethernet(ipv4("10.0.0.1", "10.0.0.2", tcp(1000, 80)))


def free_port() -> int:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def opened() -> Iterator[Open]:
    with ExitStack() as stack:

        def build(
            workers: int = 1, vnis: str = "", buffer: int = 1 << 20, **more: int | None
        ) -> MirrorTarget:
            ports: dict[str, int | None] = {"vxlan_port": free_port(), "geneve_port": None} | more
            options = CaptureOptions(
                workers,
                VniSelection.parse(vnis) if vnis else None,
                receive_buffer=buffer,
                **ports,  # type: ignore[arg-type]
            )
            target = MirrorTarget(options)
            stack.callback(target.close)
            return target

        yield build


def port(target: MirrorTarget, group: int = 0) -> int:
    return int(target._groups[group][1][0].getsockname()[1])


def send(target: MirrorTarget, *datagrams: bytes, host: str = "127.0.0.1", group: int = 0) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        for datagram in datagrams:
            sock.sendto(datagram, (host, port(target, group)))


def drain(source: UdpSource) -> list[Frame]:
    out = []
    while frames := source.read():
        out += frames
    assert source.held == 0
    return out


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams_of_every_length_come_whole_and_in_order(opened: Open, host: str) -> None:
    target = opened(buffer=4 << 20)
    most = 65_507 if host == "127.0.0.1" else 65_527
    sent = [os.urandom(n) for n in (0, 1, 8, 1_526, 9_001, most)]
    send(target, *(vxlan(octets) for octets in sent[:-1]), sent[-1], host=host)
    found = drain(target.source(0))
    assert [frame.data for frame in found] == [*(vxlan(octets) for octets in sent[:-1]), sent[-1]]
    assert all(frame.wire_length == len(frame.data) and frame.link == LINK_VXLAN for frame in found)


def test_time_is_the_kernels_and_not_that_of_reading(opened: Open) -> None:
    target = opened()
    before = time.time_ns()
    send(target, vxlan(FRAME))
    after = time.time_ns()
    time.sleep(0.05)
    (frame,) = drain(target.source(0))
    assert before - NANOSECONDS // 100 <= frame.ts <= after + NANOSECONDS // 100


def test_without_the_kernels_time_the_clock_is_asked(opened: Open) -> None:
    target = opened()
    sock = target._groups[0][1][0]
    sock.setsockopt(socket.SOL_SOCKET, udp._SO_TIMESTAMPNS, 0)
    send(target, vxlan(FRAME))
    time.sleep(0.01)
    receiver = udp.Receiver(lambda: 42)
    assert [frame.ts for frame in receiver.receive(sock.fileno(), LINK_VXLAN)] == [42]


def test_geneve_has_a_port_of_its_own_and_may_be_off(opened: Open) -> None:
    target = opened(geneve_port=free_port())
    send(target, vxlan(FRAME))
    send(target, geneve(FRAME, 0x6558), group=1)
    assert {frame.link for frame in drain(target.source(0))} == {LINK_VXLAN, LINK_GENEVE}
    assert len(opened(geneve_port=None)._groups) == 1


def test_what_the_kernel_has_is_taken_before_the_next_batch_is_given(opened: Open) -> None:
    target = opened(buffer=8 << 20)
    send(target, *[vxlan(FRAME)] * 300)
    source = target.source(0)
    assert len(source.read()) == BATCH
    assert source.held == 300 - BATCH
    assert len(drain(source)) == 300 - BATCH


def test_the_backlog_has_a_limit_and_the_kernel_keeps_the_rest(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "BACKLOG", 10_000)
    target = opened(buffer=8 << 20)
    send(target, *[vxlan(FRAME)] * 500)
    source = target.source(0)
    source.read()
    assert source.held <= BATCH
    assert 128 + source.held + len(drain(source)) >= 500


def test_what_has_no_room_is_counted_to_the_datagram(opened: Open) -> None:
    target = opened(buffer=8192)
    send(target, *[vxlan(FRAME + bytes(900))] * 200)
    read = len(drain(target.source(0)))
    aside = target.aside()
    assert (aside.dropped + read, aside.refused) == (200, 0)
    assert aside.dropped > 100
    assert target.aside().dropped == 0


def test_what_is_not_selected_is_counted_to_the_datagram_and_a_sample_tells_its_vni(opened: Open) -> None:
    target = opened(workers=2, vnis="5", buffer=8 << 20)
    send(target, *[vxlan(FRAME, 5)] * 10, *[vxlan(FRAME, 456)] * 700)
    assert sum(len(drain(target.source(n))) for n in range(2)) == 10
    total = 0
    seen: dict[int, int] = {}
    for _ in range(5):  # no more than a sample at a time
        aside = target.aside()
        total += aside.refused
        assert aside.dropped == 0
        seen |= aside.sample
    assert total == 700
    assert set(seen) == {456}


def test_the_sample_has_a_bound_however_many_vnis_come(opened: Open) -> None:
    target = opened(vnis="5")
    send(target, *[vxlan(FRAME, vni) for vni in range(10, 2000)])
    assert len(target.aside().sample) <= udp.SAMPLED


def test_another_selection_holds_from_the_next_datagram_on(opened: Open) -> None:
    target = opened(vnis="5")
    source = target.source(0)
    send(target, vxlan(FRAME, 5), vxlan(FRAME, 6))
    assert len(drain(source)) == 1
    target.select(VniSelection([6]), None)
    send(target, vxlan(FRAME, 5), vxlan(FRAME, 6))
    (frame,) = drain(source)
    assert frame.data[4:7] == (6).to_bytes(3)
    target.select(None, None)
    send(target, vxlan(FRAME, 5), vxlan(FRAME, 6))
    assert len(drain(source)) == 2


def test_after_the_stop_what_has_come_can_be_read_and_nothing_comes(opened: Open) -> None:
    target = opened()
    send(target, vxlan(FRAME))
    target.stop()
    send(target, vxlan(FRAME), vxlan(FRAME))
    assert len(drain(target.source(0))) == 1


def test_a_second_appliance_on_the_port_is_refused_and_takes_no_share(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "PATIENCE", 0.1)
    target = opened()
    with pytest.raises(
        CaptureError, match=f"UDP port {port(target)} cannot be opened: something else has it"
    ):
        opened(vxlan_port=port(target))


def test_a_kernel_without_the_program_gets_one_worker_and_says_so(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOPROTOOPT, "not there")

    monkeypatch.setattr("appliance.sources.bpf.attach", refuse)
    target = opened(workers=4, vnis="5")
    assert target.workers == 1
    assert "one worker" in target.notes[0]
    send(target, vxlan(FRAME, 5), vxlan(FRAME, 6))
    assert len(drain(target.source(0))) == 2  # the decoder selects


def test_a_small_receive_buffer_is_said_with_its_cure(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "_SO_RCVBUFFORCE", socket.SO_RCVBUF)  # as without CAP_NET_ADMIN
    most = int(Path("/proc/sys/net/core/rmem_max").read_text())
    target = opened(buffer=most + 4096)
    (note,) = target.notes
    assert note.startswith(f"the receive buffer is {most >> 10} KiB, not {(most + 4096) >> 10};")
    assert note.endswith(f"sysctl -w net.core.rmem_max={most + 4096}")


def test_a_broken_socket_is_an_error() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        udp.Receiver(time.time_ns).receive(-1, LINK_VXLAN)


def test_headers_of_the_system_call_are_as_long_as_the_kernels() -> None:
    """struct mmsghdr on 64-bit Linux: 64 octets; a timespec's control message: 32."""
    assert udp._HEADER.size == struct.calcsize("@" + udp._HEADER_READ) == 64
    assert struct.calcsize("@" + udp._STAMP_READ) == udp._CONTROL


def test_what_is_in_hand_is_told_before_frames_are_made_of_it(opened: Open) -> None:
    """A worker may be killed between any two instructions."""
    target = opened(buffer=8 << 20)
    send(target, *[vxlan(FRAME)] * 300)
    source = target.source(0)
    told: list[int] = []
    source.attend(told.append)
    source.read()
    assert told == [128, 256, 300]
    assert source.held == 300 - BATCH
    send(target, vxlan(FRAME))
    source.read()
    assert told[3:] == [300 - BATCH + 1]


def test_what_nobody_reads_any_more_is_counted(opened: Open) -> None:
    target = opened(workers=2, vnis="5", buffer=8 << 20)
    frames = [ethernet(ipv4("10.0.0.1", "10.0.0.2", tcp(n, 80))) for n in range(1000, 1100)]
    send(target, *[vxlan(frame, 5) for frame in frames], *[vxlan(FRAME, 6)] * 7)
    target.stop()
    assert target.leftover() == 100
    assert target.leftover() == 0


def test_a_worker_keeps_its_own_sockets_only(opened: Open) -> None:
    target = opened(workers=3)
    target.keep(1)
    (group,) = [group for _, group in target._groups]
    assert [sock.fileno() >= 0 for sock in group] == [False, True, False, False, False]
    source = target.source(1)
    source.stop()
    source.close()
    target.close()


def test_a_port_that_is_given_back_in_time_is_taken(opened: Open) -> None:
    """Workers whose supervisor was killed have it until they have read what there is."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.bind(("::", 0))
        number = int(other.getsockname()[1])
        threading.Timer(0.2, other.close).start()
        assert port(opened(vxlan_port=number)) == number


def test_nothing_comes_in_before_every_worker_has_its_place(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a connection under way would begin at one worker and go on at another."""
    steer = MirrorTarget._steer

    def early(self: MirrorTarget, sock: socket.socket, link: int) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            for _ in range(9):
                one.sendto(vxlan(FRAME), ("127.0.0.1", sock.getsockname()[1]))
        return steer(self, sock, link)

    monkeypatch.setattr(MirrorTarget, "_steer", early)
    target = opened(workers=2)
    assert [drain(target.source(n)) for n in range(2)] == [[], []]
    assert target.aside().dropped == 0, "before the start nothing is anybody's loss"
    send(target, vxlan(FRAME))
    assert sum(len(drain(target.source(n))) for n in range(2)) == 1


def test_a_loud_vni_that_is_not_selected_hides_no_quiet_one(opened: Open) -> None:
    target = opened(workers=2, vnis="5", buffer=8 << 20)
    seen: dict[int, int] = {}
    refused = 0
    for _ in range(4):
        send(
            target, *[vxlan(FRAME, 456)] * 500, vxlan(FRAME, 789), *[vxlan(FRAME, 456)] * 500, vxlan(FRAME, 5)
        )
        aside = target.aside()
        refused += aside.refused
        seen |= aside.sample
    assert refused == 4 * 1001
    assert set(seen) == {456, 789}
    target.select(VniSelection([456]), None)
    for n in range(2):
        drain(target.source(n))
    send(target, vxlan(FRAME, 456), vxlan(FRAME, 789), vxlan(FRAME, 5))
    assert sum(len(drain(target.source(n))) for n in range(2)) == 1
    assert set(target.aside().sample) == {5, 789}
