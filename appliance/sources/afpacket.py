"""Packets of this machine's interfaces: AF_PACKET sockets with a TPACKET_V3 ring (packet(7)).

Contract: a packet, whole, becomes one Frame with the kernel's time (ring.py). The supervisor opens one ring a
worker (``open_rings``) and keeps them, so that a worker that is started again has its share again and what
came in between; ``Devices`` follows the interfaces. The worker reads its ring (``RingSource``). CAP_NET_RAW
is needed to open the rings, and nothing afterwards.

Both directions of a connection come to one worker: the kernel's hash is of addresses and ports, the same
for both. IP fragments go by their addresses alone, all of a pair to one worker; VXLAN and GENEVE by their
outer ports, which differ for the two directions. Only one worker gets those right.

PACKET_FANOUT_FLAG_DEFRAG would put fragments together before that, but also those of interfaces that are
not captured, and each once for each interface that it crosses: what is left over fills the memory in which
the machine puts together its own (measured: half of its fragmented datagrams lost beside a bridge).

Bounds: ``buffer`` octets a worker in the kernel, taken at once; INDEXES interfaces that are named.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from appliance.packet.vni import VniSelection
from appliance.sources import bpf
from appliance.sources.base import Aside, CaptureError, CaptureOptions
from appliance.sources.interfaces import Pattern, interfaces
from appliance.sources.livefilter import INDEXES, live_filter, refuse_all
from appliance.sources.ring import BLOCK, Ring

BUFFER: Final = 64 << 20
LEAST_BUFFER: Final = 1 << 20
RETIRE_MS: Final = 20

_AF_PACKET: Final = 17
_SOL_PACKET: Final = 263
_ADD_MEMBERSHIP: Final = 1
_DROP_MEMBERSHIP: Final = 2
_RX_RING: Final = 5
_STATISTICS: Final = 6
_VERSION: Final = 10
_FANOUT: Final = 18
_PROMISCUOUS: Final = 1
_TPACKET_V3: Final = 2
_ETH_P_ALL: Final = 3
# PACKET_FANOUT_HASH is 0. The first one asks for an id that no group has: another appliance cannot join.
_UNIQUE_ID: Final = 0x2000 << 16

_FRAME_SIZE: Final = 2048  # has to divide a block; means nothing else in version 3
_REQUEST: Final = struct.Struct("=7I")  # struct tpacket_req3
_MEMBERSHIP: Final = struct.Struct("=iHH8x")  # struct packet_mreq
_LINK_ADDRESS: Final = struct.Struct("=H2si12x")  # struct sockaddr_ll
_STATISTIC: Final = struct.Struct("=4xI4x")  # tpacket_stats_v3: tp_drops


class DeviceError(CaptureError):
    """No such interface, or no leave to capture from it."""


@dataclass(frozen=True, slots=True)
class RingOptions:
    devices: str = ""  # as Pattern takes them
    ports: frozenset[int] | None = None
    promiscuous: bool = False
    filtered: bool = True  # by ports, in the kernel
    buffer: int = BUFFER

    def blocks(self) -> int:
        return max(self.buffer, LEAST_BUFFER) // BLOCK


def open_rings(options: RingOptions, workers: int) -> list[socket.socket]:
    """One for each worker, in their order; nothing comes in before there is a ``Devices``.

    That way no packet comes twice while the group has not all of its members yet.
    """
    rings: list[socket.socket] = []
    try:
        present = interfaces()
        unknown = Pattern(options.devices).unknown(present)
        if unknown:
            names = ", ".join(one.name for one in present)
            raise DeviceError(f"no interface is meant by {', '.join(map(repr, unknown))}; there are: {names}")
        group = _UNIQUE_ID
        for _ in range(workers):
            rings.append(_ring(options))
            if workers > 1:
                rings[-1].setsockopt(_SOL_PACKET, _FANOUT, group.to_bytes(4, sys.byteorder))
                group = rings[0].getsockopt(_SOL_PACKET, _FANOUT) & 0xFFFF
    except OSError as error:
        _close(rings)
        raise DeviceError(_refusal(error, options)) from None
    return rings


def _ring(options: RingOptions) -> socket.socket:
    """In this order: what is bound first takes in what nobody asked for."""
    sock = socket.socket(_AF_PACKET, socket.SOCK_RAW, 0)
    try:
        sock.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
        blocks = options.blocks()
        frames = blocks * (BLOCK // _FRAME_SIZE)
        request = _REQUEST.pack(BLOCK, blocks, _FRAME_SIZE, frames, RETIRE_MS, 0, 0)
        sock.setsockopt(_SOL_PACKET, _RX_RING, request)
        bpf.attach(sock, bpf.SO_ATTACH_FILTER, refuse_all())
        _bind(sock)
    except OSError:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket) -> None:
    """To all interfaces, for which ``socket.bind`` has no name."""
    address = _LINK_ADDRESS.pack(_AF_PACKET, _ETH_P_ALL.to_bytes(2), 0)
    if ctypes.CDLL(None, use_errno=True).bind(sock.fileno(), address, len(address)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _refusal(error: OSError, options: RingOptions) -> str:
    if isinstance(error, PermissionError):
        return (
            "capturing from interfaces needs the capability CAP_NET_RAW: run as root, or "
            f"setcap cap_net_raw+ep {os.path.realpath(sys.executable)}; in a container "
            "docker run --cap-add NET_RAW, in Kubernetes securityContext.capabilities.add: [NET_RAW]"
        )
    why = error.strerror or str(error)
    if error.errno == errno.ENOMEM:
        return f"the kernel has no {options.blocks() * BLOCK >> 20} MiB for each worker's packets: {why}"
    return f"the kernel refuses an AF_PACKET socket with a TPACKET_V3 ring: {why}"


def _not_followed(error: OSError) -> str:
    cure = "; the cure: sysctl -w net.core.optmem_max=131072" if error.errno == errno.ENOMEM else ""
    return f"the interfaces cannot be followed: {error.strerror or error}{cure}"


def _close(rings: Sequence[socket.socket]) -> None:
    for ring in rings:
        ring.close()


def lost(ring: socket.socket) -> int:
    """Packets for which there was no room since the last time; the kernel forgets them when they are read."""
    drops: int = _STATISTIC.unpack(ring.getsockopt(_SOL_PACKET, _STATISTICS, _STATISTIC.size))[0]
    return drops


class Devices:
    """The interfaces that the rings capture from; opens the rings. For the supervisor."""

    def __init__(self, options: RingOptions, rings: Sequence[socket.socket]) -> None:
        self._options = options
        self._pattern = Pattern(options.devices)
        self._rings = rings
        self._ports = options.ports
        self._chosen: dict[int, str] = {}
        self._stopped = False
        self.notes: list[str] = []  # what the user should know
        try:
            self._follow(self._now())
        except OSError as error:
            raise DeviceError(_not_followed(error)) from None

    @property
    def names(self) -> list[str]:
        return list(self._chosen.values())

    def refresh(self) -> list[str]:
        """What has changed since the last time, as lines for the log."""
        before, notes = self._chosen, self.notes
        if self._stopped:
            return []
        try:
            now = self._now()
            if now == before:
                return []
            self._follow(now)
        except OSError as error:
            return [_not_followed(error)]
        lines = [f"{name} vanished" for index, name in before.items() if now.get(index) != name]
        lines += [f"{name} appeared" for index, name in now.items() if before.get(index) != name]
        return lines + [note for note in self.notes if note not in notes]

    def select(self, ports: frozenset[int] | None) -> None:
        """From the next packet on. Raises OSError."""
        self._ports = ports
        self._follow(self._chosen)

    def stop(self) -> None:
        """Take nothing more; what is in the rings can still be read, the last of it after RETIRE_MS."""
        self._stopped = True
        self._admit(refuse_all())

    def _now(self) -> dict[int, str]:
        return self._pattern.choose(interfaces())

    def _follow(self, now: dict[int, str]) -> None:
        indexes = None if self._pattern.every else sorted(now)  # None: also what appears and goes in between
        self.notes = []
        if indexes is not None and len(indexes) > INDEXES:
            self.notes = [f"{len(indexes)} interfaces match; the {INDEXES} oldest are captured"]
            indexes = indexes[:INDEXES]
        if not self._stopped:
            self._admit(live_filter(indexes, self._ports if self._options.filtered else None))
        if self._options.promiscuous:
            for index in self._chosen.keys() - now.keys():
                self._member(_DROP_MEMBERSHIP, index)
            for index in now.keys() - self._chosen.keys():
                self._member(_ADD_MEMBERSHIP, index)
        self._chosen = now

    def _member(self, change: int, index: int) -> None:
        with suppress(OSError):  # it is gone, and its membership with it
            self._rings[0].setsockopt(_SOL_PACKET, change, _MEMBERSHIP.pack(index, _PROMISCUOUS, 0))

    def _admit(self, program: bytes) -> None:
        for ring in self._rings:
            bpf.attach(ring, bpf.SO_ATTACH_FILTER, program)


class RingSource:
    """A worker's ring, for the worker."""

    def __init__(self, sock: socket.socket, options: RingOptions) -> None:
        self._socket = sock
        self._memory = mmap.mmap(sock.fileno(), options.blocks() * BLOCK)
        self._ring = Ring(self._memory, several=Pattern(options.devices).several)
        self._drops = 0
        self.held = 0  # the ring itself knows how far it was read
        self.read = self._ring.read

    @property
    def duplicates(self) -> int:
        return self._ring.duplicates

    def attend(self, hold: Callable[[int], None]) -> None:
        self._ring.hold = hold

    def stop(self) -> None:
        bpf.attach(self._socket, bpf.SO_ATTACH_FILTER, refuse_all())

    def fileno(self) -> int:
        return self._socket.fileno()

    def filenos(self) -> list[int]:
        return [self.fileno()]

    def drops(self) -> int:
        """Packets for which there was no room, so far."""
        self._drops += lost(self._socket)
        return self._drops

    def close(self) -> None:
        """Of this process; the supervisor's stays."""
        self._memory.close()
        self._socket.close()


class Live:
    """All rings, for the supervisor (base.Capture). Raises DeviceError."""

    def __init__(self, options: CaptureOptions) -> None:
        self._options = RingOptions(
            options.devices, options.ports, options.promiscuous, options.filtered, options.ring or BUFFER
        )
        self.workers = options.workers
        self._rings = open_rings(self._options, self.workers)
        self._devices = Devices(self._options, self._rings)
        self.notes = self._devices.notes
        self.title = f"interfaces: {', '.join(self._devices.names) or 'none is up yet'}"

    def keep(self, worker: int) -> None:
        _close(self._rings[:worker] + self._rings[worker + 1 :])

    def source(self, worker: int) -> RingSource:
        return RingSource(self._rings[worker], self._options)

    def select(self, _: VniSelection | None, ports: frozenset[int] | None) -> None:
        self._devices.select(ports)

    def aside(self) -> Aside:
        return Aside(dropped=sum(lost(ring) for ring in self._rings))

    def refresh(self) -> list[str]:
        return self._devices.refresh()

    def stop(self) -> None:
        self._devices.stop()

    def leftover(self) -> int:
        time.sleep(2 * RETIRE_MS / 1000)  # until the kernel has given the last block, too
        blocks = self._options.blocks() * BLOCK
        left = 0
        for ring in self._rings:
            with mmap.mmap(ring.fileno(), blocks) as memory:
                left += Ring(memory, several=False).left()
        return left

    def close(self) -> None:
        _close(self._rings)


def build(options: CaptureOptions) -> Live:
    return Live(options)
