"""The network interfaces of this machine, and which of them a setting names.

Contract: ``interfaces()`` asks the kernel once (RTM_GETLINK and RTM_GETADDR, rtnetlink(7)): index, name,
whether it is up and all addresses as one answer, for the network namespace of the caller whatever is
mounted at /sys. It needs no capability. ``Pattern`` says which of them are meant.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

_NETLINK_ROUTE: Final = 0
_GET_LINK: Final = 18
_GET_ADDRESS: Final = 22
_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR: Final = 2
_DONE: Final = 3
_MESSAGE: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, which of them changed
_ADDRESS: Final = struct.Struct("=BBBBi")  # struct ifaddrmsg: family, prefix, flags, scope, index
_ATTRIBUTE: Final = struct.Struct("=HH")
_NAME: Final = 3  # IFLA_IFNAME
_OURS: Final = 2  # IFA_LOCAL
_OURS_OR_THEIRS: Final = 1  # IFA_ADDRESS: the other end's on a point-to-point link, where IFA_LOCAL is given
_UP: Final = 1  # IFF_UP
_ANSWER: Final = 1 << 17  # octets; the kernel fills 32 KiB at most

EVERY: Final = frozenset({"", "any", "0.0.0.0", "::", "[::]"})  # noqa: S104  # what is captured, not bound
_LOCALHOST: Final = "127.0.0.1"


@dataclass(slots=True)
class Interface:
    index: int
    name: str
    up: bool
    addresses: set[bytes] = field(default_factory=set)  # 4 or 16 octets each


def interfaces() -> list[Interface]:
    """In the order of their indexes. Raises OSError."""
    known: dict[int, Interface] = {}
    for head, attributes in _dump(_GET_LINK, _LINK):
        index, flags = head[2:4]
        name = attributes.get(_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
        known[index] = Interface(index, name, bool(flags & _UP))
    for head, attributes in _dump(_GET_ADDRESS, _ADDRESS):
        address = attributes.get(_OURS, attributes.get(_OURS_OR_THEIRS))
        if address and head[4] in known:
            known[head[4]].addresses.add(address)
    return [known[index] for index in sorted(known)]


def _dump(kind: int, layout: struct.Struct) -> Iterator[tuple[tuple[int, ...], dict[int, bytes]]]:
    request = _MESSAGE.pack(_MESSAGE.size + layout.size, kind, _DUMP, 1, 0) + bytes(layout.size)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as sock:
        sock.sendto(request, (0, 0))
        while True:
            answer = sock.recv(_ANSWER)
            at = 0
            while at + _MESSAGE.size <= len(answer):
                length, said, _, _, _ = _MESSAGE.unpack_from(answer, at)
                if said == _DONE:
                    return
                if said == _ERROR:
                    number = -struct.unpack_from("=i", answer, at + _MESSAGE.size)[0]
                    raise OSError(number, os.strerror(number))
                body = at + _MESSAGE.size
                yield layout.unpack_from(answer, body), _attributes(answer[body + layout.size : at + length])
                at += max(_aligned(length), _MESSAGE.size)


def _attributes(octets: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(octets):
        length, kind = _ATTRIBUTE.unpack_from(octets, at)
        found[kind] = octets[at + _ATTRIBUTE.size : at + length]
        at += max(_aligned(length), _ATTRIBUTE.size)
    return found


def _aligned(length: int) -> int:
    return length + 3 & ~3


class Pattern:
    """Names by comma: an interface, ``prefix*``, an address, ``localhost``; one of EVERY: all that are up."""

    __slots__ = ("_addresses", "_items", "every", "several")

    def __init__(self, text: str) -> None:
        items = [item.strip() for item in text.split(",")]
        self._items = [item for item in items if item] or [""]  # "eth0," names one
        self._addresses = {item: _address(item) for item in self._items}
        self.every = not EVERY.isdisjoint(self._items)
        only = self._items[0] if len(self._items) == 1 else "*"
        # More than one interface may be meant: two can have the same address.
        self.several = self.every or only.endswith("*") or bool(self._addresses[only])

    def choose(self, present: Sequence[Interface]) -> dict[int, str]:
        """Names by index. What is named counts whether it is up or not: it may be soon."""
        if self.every:
            return {one.index: one.name for one in present if one.up}
        return {one.index: one.name for one in present if any(self._means(item, one) for item in self._items)}

    def unknown(self, present: Sequence[Interface]) -> list[str]:
        """The items that mean no interface."""
        if self.every:
            return []
        return [item for item in self._items if not any(self._means(item, one) for one in present)]

    def _means(self, item: str, one: Interface) -> bool:
        if item.endswith("*"):
            return one.name.startswith(item[:-1])
        return item == one.name or self._addresses[item] in one.addresses


def _address(item: str) -> bytes:
    """Its octets; none where it is no address."""
    try:
        return ipaddress.ip_address(_LOCALHOST if item == "localhost" else item).packed
    except ValueError:
        return b""
