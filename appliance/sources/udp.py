"""A traffic-mirror target: VXLAN (RFC 7348) and GENEVE (RFC 8926) datagrams from UDP sockets.

Contract: a datagram's payload, up to 65,535 octets, becomes one Frame with the kernel's time of its arrival.
No capability is needed. IPv6 and IPv4 come through one socket where the kernel has IPv6.

One SO_REUSEPORT group a port: a socket for each worker, in their order, and two more, which never have a
reader of their own. bpf.py's program gives each connection to one worker and what is not selected to these:
VNIs that are known by now to the last one, so that a loud one hides no quiet one. So a worker's socket drops
only for want of room (SO_MEMINFO counts that for each), and the drops and reads of the other two are exactly
what was refused; what these still hold is the sample that tells the VNIs.
Where the kernel refuses the program, there is one worker, and the decoder alone selects.

Bounds: ``receive_buffer`` octets a worker in the kernel; BACKLOG octets in the process, so that a small
kernel buffer needs to last for one batch only; SAMPLE datagrams looked at a second; SAMPLED VNIs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from appliance.model import LINK_GENEVE, LINK_VXLAN, NANOSECONDS, Frame
from appliance.packet.vni import VniSelection
from appliance.sources import bpf
from appliance.sources.base import Aside, CaptureError, CaptureOptions, nobody

BATCH: Final = 128  # datagrams a system call, and frames a turn of the pipeline
DATAGRAM: Final = 65_536  # one more than the largest: nothing is ever cut here
BACKLOG: Final = 32 << 20
OVERHEAD: Final = 256  # octets charged for each frame: the record, and what bytes cost beyond their octets
PATIENCE: Final = 2.0  # seconds
ASIDE: Final = 2  # sockets of what is not selected: of VNIs that are known by now, and of the others
SAMPLE: Final = 256
SAMPLED: Final = 256

_SO_DETACH_FILTER: Final = 27
_SO_TIMESTAMPNS: Final = 35
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=32xI")  # the ninth word: SK_MEMINFO_DROPS (linux/sock_diag.h)
_KERNEL_DOUBLES: Final = 2  # SO_RCVBUF answers with twice what was asked for (socket(7))
_LARGEST: Final = 0x3FFFFFFF  # octets that a kernel can be asked for: INT_MAX / 2
_REFUSE_ALL: Final = struct.pack("=HBBI", bpf.RET, 0, 0, 0)

# struct mmsghdr and a control message with a timespec, on 64-bit Linux (recvmmsg(2), cmsg(3)).
_HEADER: Final = struct.Struct("@QI4xQQQQI4xI4x")
_HEADER_READ: Final = "40xQ8xI4x"  # length of the control messages, length of the datagram
_VECTOR: Final = struct.Struct("@QQ")
_CONTROL: Final = 64  # octets of room for each
_STAMP: Final = 32  # octets that a timespec's control message takes
_STAMP_READ: Final = "16xqq32x"


class Receiver:
    """recvmmsg(2), which the standard library has not.

    Measured per datagram of 1,000 octets: ``recv_into`` and a copy 1.8 µs without the kernel's time;
    ``recvmsg`` with it 3.4; this 1.6 with it.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self.took: Callable[[int], None] = nobody  # told how many came, before they are made frames
        self._octets = bytearray(DATAGRAM * BATCH)
        self._stamps = bytearray(_CONTROL * BATCH)
        octets, stamps = _address(self._octets), _address(self._stamps)
        self._vectors = bytearray().join(_VECTOR.pack(octets + i * DATAGRAM, DATAGRAM) for i in range(BATCH))
        vectors = _address(self._vectors)
        self._fresh = b"".join(
            _HEADER.pack(0, 0, vectors + i * _VECTOR.size, 1, stamps + i * _CONTROL, _CONTROL, 0, 0)
            for i in range(BATCH)
        )
        self._headers = bytearray(self._fresh)
        self._at = _address(self._headers)
        self._view = memoryview(self._octets)
        self._read_headers = struct.Struct("@" + _HEADER_READ * BATCH).unpack_from
        self._read_stamps = struct.Struct("@" + _STAMP_READ * BATCH).unpack_from
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._recvmmsg.argtypes = (
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_void_p,
        )

    def receive(self, fileno: int, link: int) -> list[Frame]:
        """What is there, up to BATCH datagrams. Raises OSError where the socket is broken."""
        self._headers[:] = self._fresh
        count = self._recvmmsg(fileno, self._at, BATCH, socket.MSG_DONTWAIT, None)
        if count < 0:
            number = ctypes.get_errno()
            if number in {errno.EAGAIN, errno.EINTR}:
                return []
            raise OSError(number, os.strerror(number))
        self.took(count)
        headers, stamps = self._read_headers(self._headers), self._read_stamps(self._stamps)
        view = self._view
        out = []
        for i in range(count):
            length = headers[2 * i + 1]
            data = bytes(view[i * DATAGRAM : i * DATAGRAM + length])
            if headers[2 * i] == _STAMP:  # common case
                ts = stamps[2 * i] * NANOSECONDS + stamps[2 * i + 1]
            else:
                ts = self._clock()
            out.append(Frame(ts, data, length, link))
        return out


def _address(memory: bytearray) -> int:
    return ctypes.addressof((ctypes.c_char * len(memory)).from_buffer(memory))


class UdpSource:
    """A worker's sockets. What the kernel has is taken before the next batch is given."""

    def __init__(self, sockets: Sequence[tuple[socket.socket, int]], receiver: Receiver) -> None:
        self._sockets = [sock for sock, _ in sockets]
        self._parts = [(sock.fileno(), link) for sock, link in sockets]
        self._receiver = receiver
        self._backlog: deque[list[Frame]] = deque()
        self._octets = 0
        self.held = 0
        self.duplicates = 0

    def attend(self, hold: Callable[[int], None]) -> None:
        self._receiver.took = lambda count: hold(self.held + count)

    def filenos(self) -> list[int]:
        return [fileno for fileno, _ in self._parts]

    def read(self) -> list[Frame]:
        for fileno, link in self._parts:
            while self._octets < BACKLOG:
                frames = self._receiver.receive(fileno, link)
                if frames:
                    self._backlog.append(frames)
                    self._octets += _cost(frames)
                    self.held += len(frames)
                if len(frames) < BATCH:
                    break
        if not self._backlog:
            return []
        out = self._backlog.popleft()
        self._octets -= _cost(out)
        self.held -= len(out)
        return out

    def stop(self) -> None:
        for sock in self._sockets:
            _refuse(sock)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def _cost(frames: list[Frame]) -> int:
    return sum([frame.wire_length for frame in frames]) + OVERHEAD * len(frames)


class MirrorTarget:
    """All sockets, for the supervisor (base.Capture). Raises CaptureError."""

    def __init__(self, options: CaptureOptions) -> None:
        ports = ("VXLAN", options.vxlan_port), ("GENEVE", options.geneve_port)
        listed = [f"{name} on UDP {port}" for name, port in ports if port is not None]
        self.title = f"mirror target: {', '.join(listed)}"
        self.notes: list[str] = []
        self.workers = options.workers
        self._selection = options.vnis or VniSelection([])
        self._strangers: set[int] = set()  # VNIs that are not selected, and known
        self._groups: list[tuple[int, list[socket.socket]]] = []
        for port, link in ((options.vxlan_port, LINK_VXLAN), (options.geneve_port, LINK_GENEVE)):
            if port is not None:
                self._groups.append((link, self._open(port, link, options)))
        self._seen: dict[socket.socket, int] = {}
        for sock in [sock for _, group in self._groups for sock in group]:
            with suppress(OSError):  # the kernel took none
                sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)  # now that each has its place
            self._seen[sock] = _drops(sock)  # what came before the start is nobody's

    def keep(self, worker: int) -> None:
        for _, group in self._groups:
            for other in group[:worker] + group[worker + 1 :]:
                other.close()

    def source(self, worker: int) -> UdpSource:
        sockets = [(group[worker], link) for link, group in self._groups]
        return UdpSource(sockets, Receiver(time.time_ns))

    def select(self, vnis: VniSelection | None, _: frozenset[int] | None) -> None:
        self._selection, self._strangers = vnis or VniSelection([]), set()
        self._steer_all()

    def _steer_all(self) -> None:
        for link, group in self._groups:
            self._steer(group[0], link)

    def aside(self) -> Aside:
        out = Aside()
        known = len(self._strangers)
        for _, group in self._groups:
            for sock in group[: self.workers]:
                out.dropped += self._dropped(sock)
            for stranger in group[self.workers :]:
                held = _sample(stranger, out.sample)
                out.refused += held + self._dropped(stranger)
        room = bpf.room_for_strangers(self._selection)
        self._strangers |= set(sorted(out.sample.keys() - self._strangers)[: room - known])
        if len(self._strangers) > known:
            self._steer_all()
        return out

    def refresh(self) -> list[str]:
        return []

    def stop(self) -> None:
        """Nothing comes into the sockets from now on; what is in them stays."""
        for _, group in self._groups:
            for sock in group:
                _refuse(sock)

    def leftover(self) -> int:
        return sum(_count(sock) for _, group in self._groups for sock in group[: self.workers])

    def close(self) -> None:
        for _, group in self._groups:
            for sock in group:
                sock.close()

    def _open(self, port: int, link: int, options: CaptureOptions) -> list[socket.socket]:
        family = _family()
        try:
            _claim(family, port)
            group = [_socket(family, port, shared=True)]
            if not self._steer(group[0], link):
                self.workers = 1
                self.notes.append(
                    f"the kernel takes no program for UDP {port}: one worker, no filter for VNIs"
                )
                return self._sized(group, options)
            group += [_socket(family, port, shared=True) for _ in range(self.workers - 1 + ASIDE)]
        except OSError as error:
            raise CaptureError(_refusal(port, error)) from None
        for sock in group[-ASIDE:]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least that the kernel gives
        self._sized(group[:-ASIDE], options)
        return group

    def _steer(self, sock: socket.socket, link: int) -> bool:
        program = bpf.steering(
            self.workers, self._selection, geneve=link == LINK_GENEVE, strangers=self._strangers
        )
        try:
            bpf.attach(sock, bpf.SO_ATTACH_REUSEPORT_CBPF, program)
        except OSError:
            return False
        return True

    def _sized(self, group: list[socket.socket], options: CaptureOptions) -> list[socket.socket]:
        for sock in group:
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, options.receive_buffer)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.receive_buffer)
        given = group[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _KERNEL_DOUBLES
        if given < min(options.receive_buffer, _LARGEST):
            note = (
                f"the receive buffer is {given >> 10} KiB, not {options.receive_buffer >> 10}; "
                f"the cure: sysctl -w net.core.rmem_max={options.receive_buffer}"
            )
            if note not in self.notes:
                self.notes.append(note)
        return group

    def _dropped(self, sock: socket.socket) -> int:
        """Datagrams dropped at the socket since the last time; the kernel counts in 32 bits."""
        now = _drops(sock)
        new = (now - self._seen[sock]) & 0xFFFFFFFF
        self._seen[sock] = now
        return new


def _refuse(sock: socket.socket) -> None:
    with suppress(OSError):  # a kernel without such programs: what comes is read until the time is over
        bpf.attach(sock, bpf.SO_ATTACH_FILTER, _REFUSE_ALL)


def _drops(sock: socket.socket) -> int:
    drops: int = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[0]
    return drops


def _family() -> socket.AddressFamily:
    with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        probe.bind(("::", 0))
        return socket.AF_INET6
    return socket.AF_INET


def _claim(family: socket.AddressFamily, port: int) -> None:
    """Nobody else has the port: with SO_REUSEPORT they would take a share. OSError: somebody has.

    Workers whose supervisor was killed keep it until they have read what there is: that is waited for.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with _socket(family, port, shared=False):
                return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= until:
                raise
        time.sleep(PATIENCE / 20)


def _socket(family: socket.AddressFamily, port: int, *, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _refuse(sock)  # until the program knows all the places
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setblocking(False)
        sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104  # a mirror target
    except OSError:
        sock.close()
        raise
    return sock


def _sample(sock: socket.socket, seen: dict[int, int]) -> int:
    """Read what the socket of the refused holds; how many there were."""
    for held in range(SAMPLE):
        try:
            head = sock.recv(8)  # the rest is not wanted
        except OSError:
            return held
        vni = int.from_bytes(head[4:7])
        if vni in seen or len(seen) < SAMPLED:
            seen[vni] = seen.get(vni, 0) + 1
    return SAMPLE


def _count(sock: socket.socket) -> int:
    """Read all that the socket holds; nothing comes in any more."""
    held = 0
    with suppress(OSError):
        while True:
            sock.recv(1)
            held += 1
    return held


_WHY: Final[dict[int, str]] = {
    errno.EADDRINUSE: "something else has it: another appliance, or a VXLAN interface of this machine "
    "(ss -lunp; ip -d link show type vxlan)",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
}


def _refusal(port: int, error: OSError) -> str:
    return f"UDP port {port} cannot be opened: {_WHY.get(error.errno or 0, error.strerror or str(error))}"


def build(options: CaptureOptions) -> MirrorTarget:
    return MirrorTarget(options)
