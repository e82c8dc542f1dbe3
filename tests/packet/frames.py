"""What the tests of packet/ share: frames made with scapy or read from captures, and how they are decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw
from scapy.utils import RawPcapReader

from appliance.ledger import Ledger
from appliance.model import Frame, Segment
from appliance.packet.decode import PacketDecoder

CAPTURES = Path(__file__).resolve().parents[2].parent / "shared" / "captures"


# With addresses: scapy would look for missing ones on the network.
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


class Seen(NamedTuple):
    """A Segment as a value."""

    route: bytes
    ts: int
    seq: int
    ack: int
    flags: int
    payload: bytes
    missing: int


class Outcome(NamedTuple):
    segments: list[Seen]
    reasons: dict[str, int]  # why the other frames are none


def _seen(segments: list[Segment]) -> list[Seen]:
    return [Seen(s.route, s.ts, s.seq, s.ack, s.flags, s.payload, s.missing) for s in segments]


def _reasons(ledger: Ledger) -> dict[str, int]:
    return {k: n for k, n in ledger.tally.items() if n and k not in {"frames", "segments"}}


def decode(frames: list[Frame], **options: Any) -> Outcome:
    """Both ways through the decoder; they have to agree, and the ledger has to add up."""
    ledger = Ledger()
    fast = _seen(PacketDecoder(ledger, **options).feed(frames))
    assert ledger.unbalanced() == []
    assert ledger.tally["frames"] == len(frames)

    by_walk = Ledger()
    decoder = PacketDecoder(by_walk, **options)
    walked = _seen([s for s in map(decoder.walk, frames) if s is not None])
    assert fast == walked
    assert _reasons(ledger) == _reasons(by_walk)
    return Outcome(fast, _reasons(ledger))


def make(
    packet: Packet | bytes, *, link: int = 1, ts: int = 1, cut: int = 0, wire: int | None = None
) -> Frame:
    """The packet as captured; ``cut`` octets of its end are not."""
    data = bytes(packet)
    return Frame(ts, data[: len(data) - cut], len(data) if wire is None else wire, link)


def templates() -> list[Frame]:
    """One frame of each kind, to be damaged by property tests."""
    tcp = TCP(sport=40000, dport=80, seq=0xFFFFFF00, ack=7, flags="PA") / Raw(b"GET / HTTP/1.1\r\n\r\n")
    inner = IP(src="10.0.0.1", dst="10.0.0.2") / tcp
    inner6 = IPv6(src="fd00::1", dst="fd00::2") / tcp
    outer = ETHER / IP(src="192.0.2.1", dst="192.0.2.2")
    packets = [
        ETHER / inner,
        ETHER / inner6,
        ETHER / Dot1Q(vlan=7) / inner,
        ETHER / IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrDestOpt() / tcp,
        outer / UDP(dport=4789) / VXLAN(vni=77, flags=8) / ETHER / inner,
        outer / UDP(dport=8472) / VXLAN(vni=78, flags=8) / ETHER / inner6,
        outer / UDP(dport=6081) / GENEVE(vni=5, proto=0x0800) / inner,
        outer
        / UDP(dport=6081)
        / GENEVE(proto=0x0800)
        / outer[IP]
        / UDP(dport=4789)
        / VXLAN(flags=8)
        / ETHER
        / inner,
        outer / GRE(key_present=1, key=3) / inner,
        outer / inner,
        *fragment(ETHER / inner / Raw(b"x" * 100), 24),
    ]
    return [make(packet) for packet in packets] + [make(inner, link=101), make(inner6, link=229)]


def read(path: Path) -> list[Frame]:
    frames = []
    with RawPcapReader(str(path)) as reader:
        for data, metadata in reader:
            meta: Any = metadata  # of two types, by the file's format
            if path.suffix == ".pcapng":
                ts = ((meta.tshigh << 32) | meta.tslow) * 1_000_000_000 // meta.tsresol
                frames.append(Frame(ts, data, meta.wirelen or len(data), meta.linktype))
            else:
                ts = meta.sec * 1_000_000_000 + meta.usec * (1 if reader.nano else 1000)
                frames.append(Frame(ts, data, meta.wirelen, reader.linktype))
    return frames
