"""Network namespaces for tests that need a kernel: made in this process, gone with their last socket."""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.sources.interfaces import _GET_LINK, _LINK, _dump

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_LIBC = ctypes.CDLL(None, use_errno=True)
_CARRIER = 0x10001  # IFF_UP | IFF_LOWER_UP
_STATE = 16  # IFLA_OPERSTATE
_SENDS = {0, 6}  # unknown (lo, tun), up
PATIENCE = 10.0  # seconds at most that a test waits for what should come


class Namespace:
    """A network namespace without interfaces but ``lo``, and without IPv6, which talks by itself."""

    def __init__(self) -> None:
        if shutil.which("ip") is None:
            pytest.skip("the kernel's part of live capture is NOT tested: there is no ip command (iproute2)")
        with _returning() as leave:
            if not leave():
                pytest.skip(
                    "the kernel's part of live capture is NOT tested: no network namespace can be made "
                    f"({os.strerror(ctypes.get_errno())}); run as root"
                )
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            for what in ("all", "default"):
                switch = Path(f"/proc/sys/net/ipv6/conf/{what}/disable_ipv6")
                if switch.exists():
                    switch.write_text("1")

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextmanager
    def inside(self) -> Iterator[None]:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _enter(self.fd)
        try:
            yield
        finally:
            _enter(home)
            os.close(home)

    def ip(self, *lines: str) -> None:
        """``ip -batch``, and until interfaces that are up also send: before that they drop without a word."""
        self._batch(*lines)
        assert until(self._settled)
        self._batch("link set lo up")  # waits for the lock under which the last one was made to send

    def _settled(self) -> bool:
        with self.inside():
            links = [(head[3], more[_STATE][0]) for head, more in _dump(_GET_LINK, _LINK)]
        return all(state in _SENDS for flags, state in links if flags & _CARRIER == _CARRIER)

    def _batch(self, *lines: str) -> None:
        with self.inside():
            done = subprocess.run(
                ["/usr/bin/env", "ip", "-batch", "-"],
                input="\n".join(lines),
                text=True,
                capture_output=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr

    def index(self, name: str) -> int:
        with self.inside():
            return socket.if_nametoindex(name)

    def close(self) -> None:
        os.close(self.fd)


@contextmanager
def _returning() -> Iterator[Callable[[], bool]]:
    """Back to this namespace; gives what leaves it for a new one."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    left = False

    def leave() -> bool:
        nonlocal left
        left = not _LIBC.unshare(_NEW_NETWORK)
        return left

    try:
        yield leave
    finally:
        if left:
            _enter(home)
        os.close(home)


def _enter(fd: int) -> None:
    if _LIBC.setns(fd, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


def until(met: Callable[[], bool], fileno: int | None = None) -> bool:
    """Whether it is met, at last."""
    deadline = time.monotonic() + PATIENCE
    while not met():
        if time.monotonic() > deadline:
            return False
        select.select([] if fileno is None else [fileno], [], [], 0.01)
    return True


def ipv4(
    payload: bytes = b"",
    *,
    source: int = 40_000,
    target: int = 80,
    number: int = 6,
    options: bytes = b"",
    fragment: int = 0,
    ident: int = 1,
    ttl: int = 64,
    addresses: tuple[str, str] = ("10.0.0.1", "10.0.0.2"),
    seq: int = 1,
) -> bytes:
    """An IPv4 packet; UDP if ``number`` says so, else ports and the rest of a TCP header."""
    if number == 17:
        inner = struct.pack("!HHHH", source, target, 8 + len(payload), 0) + payload
    else:
        inner = struct.pack("!HHIIBBHHH", source, target, seq, 0, 0x50, 0x18, 8192, 0, 0) + payload
    length = 20 + len(options) + len(inner)
    first = 0x45 + len(options) // 4
    head = struct.pack("!BBHHHBBH", first, 0, length, ident, fragment, ttl, number, 0)
    head += b"".join(map(socket.inet_aton, addresses)) + options
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + inner


def ipv6(
    payload: bytes = b"", *, source: int = 40_000, target: int = 80, number: int = 6, hops: int = 64
) -> bytes:
    inner = struct.pack("!HHIIBBHHH", source, target, 1, 0, 0x50, 0x18, 8192, 0, 0) + payload
    ends = b"".join(socket.inet_pton(socket.AF_INET6, a) for a in ("fd00::1", "fd00::2"))
    return struct.pack("!IHBB", 6 << 28, len(inner), number, hops) + ends + inner


def ethernet(packet: bytes, kind: int | None = None, *tags: int) -> bytes:
    """Between two addresses that nobody has; ``tags`` are EtherTypes of VLAN tags."""
    if kind is None:
        kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    head = b"\2\0\0\0\0\x0b\2\0\0\0\0\x0a"
    return head + b"".join(struct.pack("!HH", tag, 5) for tag in tags) + kind.to_bytes(2) + packet


def checksum(head: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(head) // 2}H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
