"""TCP conversations for tests, and what a capture may do to them without changing what was said."""

from __future__ import annotations

import random
import socket
import struct
from dataclasses import dataclass, field
from itertools import pairwise

from appliance.model import ACK, FIN, PSH, RST, SYN, Segment, reverse_route

MASK = 0xFFFFFFFF
MS = 1_000_000
T0 = 1_700_000_000_000_000_000


@dataclass
class Conversation:
    """Both ends behave: every message is acknowledged, what is sent acknowledges what was received."""

    client: tuple[str, int] = ("10.0.0.1", 40000)
    server: tuple[str, int] = ("10.0.0.2", 80)
    isn: tuple[int, int] = (0xFFFFFF00, 5000)
    vni: int | None = None
    now: int = T0
    out: list[Segment] = field(default_factory=list)

    def __post_init__(self) -> None:
        family = socket.AF_INET6 if ":" in self.client[0] else socket.AF_INET
        ends = [(socket.inet_pton(family, address), port) for address, port in (self.client, self.server)]
        route = ends[0][0] + ends[1][0] + ends[0][1].to_bytes(2) + ends[1][1].to_bytes(2)
        route += b"" if self.vni is None else self.vni.to_bytes(3)
        self.routes = (route, reverse_route(route))
        self.next = list(self.isn)

    def segment(self, side: int, payload: bytes = b"", flags: int = ACK) -> None:
        """Send from ``side`` (0: client) and go on."""
        self.now += MS
        ack = self.next[1 - side] & MASK if flags & ACK else 0
        seq = self.next[side] & MASK
        self.out.append(Segment(self.routes[side], self.now, seq, ack, flags, payload, 0))
        self.next[side] += len(payload) + bool(flags & SYN) + bool(flags & FIN)

    def handshake(self) -> Conversation:
        self.segment(0, flags=SYN)
        self.segment(1, flags=SYN | ACK)
        self.segment(0)
        return self

    def say(self, side: int, octets: bytes, mss: int = 1448) -> Conversation:
        """Data segments, then the other side's acknowledgment."""
        for at in range(0, len(octets), mss):
            self.segment(side, octets[at : at + mss], ACK | PSH)
        self.segment(1 - side)
        return self

    def ask(self, octets: bytes, mss: int = 1448) -> Conversation:
        return self.say(0, octets, mss)

    def answer(self, octets: bytes, mss: int = 1448) -> Conversation:
        return self.say(1, octets, mss)

    def close(self, first: int = 0) -> Conversation:
        self.segment(first, flags=FIN | ACK)
        self.segment(1 - first, flags=FIN | ACK)
        self.segment(first)
        return self

    def reset(self, side: int) -> Conversation:
        self.segment(side, flags=RST | ACK)
        return self


def split(segments: list[Segment], dice: random.Random) -> list[Segment]:
    """The same octets in other segments."""
    out = []
    for seg in segments:
        size = len(seg.payload)
        if size < 2 or seg.missing:
            out.append(seg)
            continue
        cuts = sorted({0, size, *(dice.randrange(1, size) for _ in range(dice.randrange(3)))})
        for start, stop in pairwise(cuts):
            flags = seg.flags
            if stop < size:
                flags &= ~(FIN | PSH)
            if start:
                flags &= ~SYN
            seq = seg.seq + start + (1 if start and seg.flags & SYN else 0)
            part = seg.payload[start:stop]
            out.append(Segment(seg.route, seg.ts, seq & MASK, seg.ack, flags, part, 0))
    return out


def duplicate(segments: list[Segment], dice: random.Random, share: float = 0.3) -> list[Segment]:
    """Some segments twice, the copy a few places later."""
    keyed = [(float(n), seg) for n, seg in enumerate(segments)]
    keyed += [(n + dice.uniform(0.1, 6), seg) for n, seg in enumerate(segments) if dice.random() < share]
    return [seg for _, seg in sorted(keyed, key=lambda item: item[0])]


def shuffle_within(segments: list[Segment], window: int, dice: random.Random) -> list[Segment]:
    """Each displaced by at most ``window`` places; the times stay with the packets."""
    keyed = [(n + dice.uniform(0, window), n, seg) for n, seg in enumerate(segments)]
    return [seg for _, _, seg in sorted(keyed, key=lambda item: item[:2])]


def drop(segments: list[Segment], lost: set[int]) -> list[Segment]:
    return [seg for n, seg in enumerate(segments) if n not in lost]


def capture(segments: list[Segment]) -> bytes:
    """A pcap file of them: raw IPv4, nanoseconds."""
    out = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 1 << 18, 101)]
    for seg in segments:
        source, target, ports = seg.route[:4], seg.route[4:8], seg.route[8:12]
        packet = ports + struct.pack("!IIBBHHH", seg.seq, seg.ack, 0x50, seg.flags, 65535, 0, 0) + seg.payload
        size = 20 + len(packet)
        packet = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0, 64, 6, 0) + source + target + packet
        out.append(struct.pack("<IIII", *divmod(seg.ts, 1_000_000_000), size, size) + packet)
    return b"".join(out)
