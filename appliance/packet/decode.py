"""The walk from a frame's link layer to its TCP segment.

In: frames as captured. Out: a Segment for each frame, or for each set of IP fragments, that carries
TCP; every other frame is counted in the ledger under exactly one reason.

The common chains, Ethernet/IPv4/TCP and the same inside VXLAN and inside Ethernet/IPv4/UDP/VXLAN, IPv4
without options, are read with one ``struct`` call each (design decision D2). Whatever is not exactly that
takes the walk: a table says for each number that a header may name who reads what follows. A new
header is a function and a row. Both ways give the same segments (tests hold them against each other).

Bounds: MAX_LAYERS headers a frame; fragments as FragmentLimits. A frame is selected by its mirror
session's VNI (the outermost other than 0; a tunnel inside the mirrored traffic does not matter); one that is
not is counted so whatever else is in it. Frames without VNI are not filtered by it. Ports are
looked at last.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, Final

from appliance.model import LINK_ETHERNET, LINK_VXLAN, Segment
from appliance.packet import ip, link, transport, tunnel
from appliance.packet.cursor import (
    FRAGMENT,
    FRAGMENT_HELD,
    LINK_UNKNOWN,
    PORT_NOT_SELECTED,
    PROTOCOL,
    REASONS,
    TCP,
    TOO_NESTED,
    UDP_PORT,
    UNREGISTERED,
    VNI_NOT_SELECTED,
    Cursor,
    Step,
)
from appliance.packet.fragments import DEFAULT_LIMITS, FragmentBuffer, FragmentLimits
from appliance.packet.vni import VniSelection

if TYPE_CHECKING:
    from appliance.ledger import Ledger
    from appliance.model import Frame

MAX_LAYERS: Final = 16  # headers in a frame, TCP's included; Suricata's decoder stops at 16 as well

_STEPS: Final[dict[int, Step]] = {**link.STEPS, **ip.STEPS, **tunnel.STEPS, **transport.STEPS}

# From the EtherType (offset 12) on: EtherType, version, header length and traffic class as one number,
# total length, fragment field, addresses and ports; TCP's numbers, data offset, flags.
_PLAIN: Final = struct.Struct("!IH2xH4x12sIIBB").unpack_from
# The same twice, the first time with UDP's destination port, VXLAN's flags and VNI in place of TCP.
_VXLAN: Final = struct.Struct("!IH2xH14xH4xB3x3s13xIH2xHxB2x12sIIBB").unpack_from
# As it comes to a mirror target: without the outer headers.
_MIRROR: Final = struct.Struct("!B3x3s13xIH2xHxB2x12sIIBB").unpack_from
_UNPACK_FROM: Final = 12
_OUTER_PROTOCOL: Final = 23
_TCP: Final = 6
_UDP: Final = 17
_IPV4_WITHOUT_OPTIONS: Final = 0x080045  # EtherType, version 4, header length 5
_FRAGMENTED: Final = 0x3FFF  # more fragments, or an offset
_VALID_VNI: Final = 0x08
_LEAST_DATA_OFFSET: Final = 0x50  # 5 words, in the upper half of the octet
_OUTER_IP: Final = 14
_PLAIN_TCP: Final = 34
_PLAIN_OCTETS: Final = 54
_INNER_IP: Final = 64
_VXLAN_TCP: Final = 84
_VXLAN_OCTETS: Final = 104

_MIRROR_IP: Final = 22
_MIRROR_TCP: Final = 42
_MIRROR_OCTETS: Final = 62

_IPV4_PORTS: Final = 8  # where the ports begin in a route
_IPV6_PORTS: Final = 32


class PacketDecoder:
    """Frames in, segments out. ``vnis`` None: all; ``ports`` None: all."""

    __slots__ = ("_cursor", "_fragments", "_ledger", "_ports", "_steps", "_vnis", "_vxlan_ports")

    def __init__(
        self,
        ledger: Ledger,
        vnis: VniSelection | None = None,
        ports: frozenset[int] | None = None,
        limits: FragmentLimits = DEFAULT_LIMITS,
        vxlan_ports: frozenset[int] = tunnel.VXLAN_PORTS,
    ) -> None:
        self._ledger = ledger
        self.select(vnis, ports)
        self._vxlan_ports = vxlan_ports
        self._fragments = FragmentBuffer(ledger, limits)
        self._cursor = Cursor()
        self._steps = dict(_STEPS)
        self._steps[FRAGMENT] = self._fragment
        for port in vxlan_ports:
            self._steps[UDP_PORT + port] = tunnel.vxlan

    def feed(self, frames: list[Frame]) -> list[Segment]:
        """Decode a batch. Never raises, whatever the frames hold."""
        segments: list[Segment] = []
        sessions: list[bytes] = []
        received = bool(frames) and frames[0].link == LINK_VXLAN  # a source has one kind at a time
        if received:
            self._received(frames, segments, sessions)
        else:
            self._captured(frames, segments, sessions)
        self._ledger.count("frames", len(frames))
        for session, n in Counter(sessions).items():
            self._ledger.at(int.from_bytes(session), "frames", n)
        self._ledger.count("segments", len(segments))
        return segments

    def _received(self, frames: list[Frame], segments: list[Segment], sessions: list[bytes]) -> None:
        """Frames of a mirror target."""
        ports, verdicts, default = self._ports, self._vnis.verdicts, self._vnis.default
        for frame in frames:
            data = frame.data
            limit = len(data)
            if limit >= _MIRROR_OCTETS and frame.link == LINK_VXLAN:  # common case
                marks, vni, kind, length, fragment, protocol, route, seq, ack, words, flags = _MIRROR(data)
                end = _MIRROR_IP + length
                start = _MIRROR_TCP + (words >> 4 << 2)
                if (
                    kind >> 8 == _IPV4_WITHOUT_OPTIONS
                    and protocol == _TCP
                    and not fragment & _FRAGMENTED
                    and marks & _VALID_VNI != 0
                    and words >= _LEAST_DATA_OFFSET
                    and verdicts.get(vni, default)
                ):
                    if end < limit:  # noqa: PLR1730
                        limit = end
                    if start <= limit and (ports is None or route[8:10] in ports or route[10:12] in ports):
                        payload = data[start:limit]
                        segments.append(Segment(route + vni, frame.ts, seq, ack, flags, payload, end - limit))
                        sessions.append(vni)
                        continue
            self._rare(frame, segments, sessions)

    def _captured(self, frames: list[Frame], segments: list[Segment], sessions: list[bytes]) -> None:
        """Frames of files and interfaces."""
        vxlan_ports, ports = self._vxlan_ports, self._ports
        verdicts, default = self._vnis.verdicts, self._vnis.default
        every_vni = default and not verdicts
        for frame in frames:
            data = frame.data
            limit = len(data)  # ``if`` instead of ``min()`` below: 60 ns less, twice
            common = False
            vni = b""
            if limit >= _PLAIN_OCTETS and data[_OUTER_PROTOCOL] == _TCP:  # common case
                kind, length, fragment, route, seq, ack, words, flags = _PLAIN(data, _UNPACK_FROM)
                end = _OUTER_IP + length
                start = _PLAIN_TCP + (words >> 4 << 2)
                common = kind >> 8 == _IPV4_WITHOUT_OPTIONS and not fragment & _FRAGMENTED
            elif limit >= _VXLAN_OCTETS and data[_OUTER_PROTOCOL] == _UDP:  # common case
                (
                    kind, outer, fragment, port, marks, vni,
                    inner, length, fragments, protocol, route, seq, ack, words, flags,
                ) = _VXLAN(data, _UNPACK_FROM)  # fmt: skip
                if _OUTER_IP + outer < limit:  # noqa: PLR1730
                    limit = _OUTER_IP + outer
                end = _INNER_IP + length
                start = _VXLAN_TCP + (words >> 4 << 2)
                common = (
                    kind >> 8 == inner >> 8 == _IPV4_WITHOUT_OPTIONS
                    and not (fragment | fragments) & _FRAGMENTED
                    and protocol == _TCP
                    and port in vxlan_ports
                    and marks & _VALID_VNI != 0
                    and (every_vni or verdicts.get(vni, default))
                )
                route += vni
            if common and words >= _LEAST_DATA_OFFSET and frame.link == LINK_ETHERNET:
                if end < limit:  # noqa: PLR1730
                    limit = end
                if start <= limit and (ports is None or route[8:10] in ports or route[10:12] in ports):
                    segments.append(Segment(route, frame.ts, seq, ack, flags, data[start:limit], end - limit))
                    if vni:
                        sessions.append(vni)
                    continue
            self._rare(frame, segments, sessions)

    def _rare(self, frame: Frame, segments: list[Segment], sessions: list[bytes]) -> None:
        segment = self.walk(frame)
        if segment is not None:
            segments.append(segment)
        session = self._cursor.outer or self._cursor.vni
        if session:
            sessions.append(session)

    def walk(self, frame: Frame) -> Segment | None:
        """Decode one frame header by header; None if it is no segment, its reason is counted."""
        cursor = self._cursor
        cursor.start(frame.data, frame.wire_length, frame.ts)
        steps = self._steps
        code = link.LINKS.get(frame.link, LINK_UNKNOWN)
        for _ in range(MAX_LAYERS):
            step = steps.get(code)
            if step is None:
                break
            code = step(cursor)
        else:
            code = TOO_NESTED
        if code == FRAGMENT_HELD:
            return None  # counted where it is held
        if cursor.vni and not self._selects(cursor):
            code = VNI_NOT_SELECTED
            self._ledger.at(int.from_bytes(cursor.outer or cursor.vni), "frame_vni_not_selected")
        elif code == TCP:
            segment = transport.tcp(cursor)
            if isinstance(segment, Segment):
                if self._ports is None or _has_port(segment.route, self._ports):
                    return segment
                code = PORT_NOT_SELECTED
            else:
                code = segment
        self._ledger.count(REASONS[code if code < 0 else UNREGISTERED[code >> 16]])
        return None

    def _fragment(self, cursor: Cursor) -> int:
        """The step for FRAGMENT. Judged before it is held, where no other VNI can follow."""
        final = cursor.outer or (cursor.vni and PROTOCOL + cursor.piece.protocol == TCP)
        if final and not self._selects(cursor):
            return VNI_NOT_SELECTED
        return self._fragments.add(cursor)

    def _selects(self, cursor: Cursor) -> bool:
        return self._vnis.verdicts.get(cursor.outer or cursor.vni, self._vnis.default)

    def select(self, vnis: VniSelection | None, ports: frozenset[int] | None) -> None:
        """From the next frame on. Connections that are followed stay so until they are silent."""
        self._vnis = vnis or VniSelection([])
        self._ports = None if ports is None else frozenset([port.to_bytes(2) for port in ports])

    def tick(self, now: int) -> None:
        """Give up fragments that are too old at ``now`` (ns)."""
        self._fragments.tick(now)

    def close(self) -> None:
        """The capture is over; fragments still held are counted as expired."""
        self._fragments.close()


def _has_port(route: bytes, ports: frozenset[bytes]) -> bool:
    at = _IPV4_PORTS if len(route) < _IPV6_PORTS else _IPV6_PORTS
    return route[at : at + 2] in ports or route[at + 2 : at + 4] in ports
