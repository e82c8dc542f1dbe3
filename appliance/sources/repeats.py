"""The same packet on several interfaces: a bridge and its ports, a VLAN and what carries it.

Contract: a packet that has been seen on *other* interfaces within WINDOW is a repeat; one that comes on an
interface which has had it is new, a retransmission, and begins anew. Two packets are the same if their
octets from the network layer on are, but for what a router changes: IPv4's TTL and header checksum, IPv6's
hop limit.

Bounds: REMEMBERED packets, the older half of which is forgotten as one: to take the oldest entry out of one
dictionary is to search for it behind the places of all that went before.
"""

from __future__ import annotations

from typing import Final

from appliance.model import NANOSECONDS

WINDOW: Final = NANOSECONDS
REMEMBERED: Final = 16_384
IDENTITY: Final = 128  # octets from the network layer on that are compared

_IPV4: Final = 4
_IPV6: Final = 6


def identity(data: bytes, network: int) -> int:
    """What tells a packet from all others, 0 if it is not IP.

    Instead of all octets, which would cost 40 µs for a super-frame, a hash of the first 128 without IPv4's
    TTL, protocol and checksum. They hold the length, IP id, addresses, ports, seq, ack, flags, checksum and
    TCP's time stamps, also behind options and inside VXLAN. A packet in which only what follows is another
    would be a segment of the same place in the same stream with the same checksum.
    """
    version = data[network] >> 4 if len(data) > network else 0
    if version == _IPV4:
        return hash(data[network : network + 8] + data[network + 12 : network + IDENTITY])
    if version == _IPV6:
        return hash(data[network : network + 7] + data[network + 8 : network + IDENTITY])
    return 0


class Repeats:
    __slots__ = ("_old", "_young")

    def __init__(self) -> None:
        self._old: dict[int, tuple[int, ...]] = {}
        self._young: dict[int, tuple[int, ...]] = {}  # time of the first, then its interfaces

    def again(self, packet: int, index: int, ts: int) -> bool:
        """``packet``: as ``identity`` says. Times may go back: processors do not agree on them."""
        if not packet:
            return False
        young = self._young
        if len(young) >= REMEMBERED // 2:
            self._old, self._young = young, {}
            young = self._young
        seen = young.get(packet) or self._old.get(packet)
        if seen and abs(ts - seen[0]) <= WINDOW and index not in seen[1:]:
            young[packet] = (*seen, index)
            return True
        young[packet] = (ts, index)
        return False
