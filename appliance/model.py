"""The values that travel between the stages, and nothing else.

    Frame -> Segment -> StreamEvent -> HttpEvent -> HttpExchange

Contract: no behaviour beyond reading oneself; no value refers back to the stage that made it.
What exists once a packet is a plain slotted class, since a frozen dataclass costs 4-6 times as
much to create; what exists once a connection or once a capture is a frozen one.

Time is an integer: nanoseconds since the Unix epoch. Lengths are octets.
"""

from __future__ import annotations

import enum
import hashlib
import ipaddress
from dataclasses import dataclass
from typing import Final, NamedTuple

NANOSECONDS: Final = 1_000_000_000

# Link types by their registered number (https://www.tcpdump.org/linktypes.html).
LINK_NULL: Final = 0
LINK_ETHERNET: Final = 1
LINK_RAW: Final = 101
LINK_LOOP: Final = 108
LINK_SLL: Final = 113
LINK_IPV4: Final = 228
LINK_IPV6: Final = 229
LINK_SLL2: Final = 276
# Numbers of ours, beyond the registered ones: payload of a datagram to a mirror target.
LINK_VXLAN: Final = 0x1_0000  # a VXLAN header first (RFC 7348 §5)
LINK_GENEVE: Final = 0x1_0001  # a GENEVE header first (RFC 8926 §3.4)

# TCP flags (RFC 9293 §3.1).
FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10


class Frame:
    """One captured frame as a source read it."""

    __slots__ = ("data", "link", "ts", "wire_length")

    def __init__(self, ts: int, data: bytes, wire_length: int, link: int) -> None:
        self.ts = ts
        self.data = data
        self.wire_length = wire_length  # octets on the wire; more than len(data) where the capture cut
        self.link = link  # LINK_*


class Segment:
    """One TCP segment out of its tunnels.

    ``route`` is the directed flow key as octets: source address, destination address, source port,
    destination port and, inside a tunnel that has one, the innermost 24-bit VNI; behind it the mirror
    session's, where that is another. Its length tells the rest: 12, 15 or 18 octets with IPv4, 36, 39 or
    42 with IPv6.

    The segment covers ``len(payload) + missing`` sequence numbers after SYN: the last ``missing``
    octets were on the wire and are not in the capture.
    """

    __slots__ = ("ack", "flags", "missing", "payload", "route", "seq", "ts")

    def __init__(  # noqa: PLR0913  # a record
        self, route: bytes, ts: int, seq: int, ack: int, flags: int, payload: bytes, missing: int
    ) -> None:
        self.route = route
        self.ts = ts
        self.seq = seq
        self.ack = ack  # meaningless unless flags has ACK
        self.flags = flags
        self.payload = payload
        self.missing = missing


class Endpoint(NamedTuple):
    address: bytes  # 4 or 16 octets
    port: int

    def text(self) -> str:
        return str(ipaddress.ip_address(self.address))


class FlowKey(NamedTuple):
    """An undirected connection: ``a`` is the side whose segment was seen first."""

    vni: int | None  # of the innermost tunnel that has one
    a: Endpoint
    b: Endpoint
    outer: int | None = None  # of the mirror session, where the tunnel ``vni`` is inside of it


_IPV6_ROUTE: Final = 36  # octets at least; see Segment


def reverse_route(route: bytes) -> bytes:
    """The same connection seen from the other side."""
    n = 4 if len(route) < _IPV6_ROUTE else 16
    return (
        route[n : 2 * n]
        + route[:n]
        + route[2 * n + 2 : 2 * n + 4]
        + route[2 * n : 2 * n + 2]
        + route[2 * n + 4 :]
    )


def flow_key(route: bytes) -> FlowKey:
    """Read a route; ``a`` is its source."""
    n = 4 if len(route) < _IPV6_ROUTE else 16
    port = 2 * n
    vni = route[port + 4 : port + 7]
    outer = route[port + 7 :]
    return FlowKey(
        int.from_bytes(vni) if vni else None,
        Endpoint(route[:n], int.from_bytes(route[port : port + 2])),
        Endpoint(route[n:port], int.from_bytes(route[port + 2 : port + 4])),
        int.from_bytes(outer) if outer else None,
    )


class Flow:
    """The identity of one connection; compared by being the same object."""

    __slots__ = ("key", "serial", "session")

    def __init__(self, key: FlowKey, serial: int) -> None:
        self.key = key
        self.session = key.vni if key.outer is None else key.outer  # the VNI that the mirror session gave
        self.serial = serial  # counts up in the order in which connections were first seen


class EndReason(enum.Enum):
    """Why a direction of a connection is over."""

    FIN = "fin"
    RST = "rst"
    IDLE = "idle"
    REUSED = "reused"  # a new connection has the same addresses and ports
    EVICTED = "evicted"  # to stay within the limits
    SHUTDOWN = "shutdown"  # the capture is over


class Data:
    """Octets of one direction, in order, never empty."""

    __slots__ = ("acked", "flow", "offset", "payload", "side", "ts")

    def __init__(  # noqa: PLR0913  # a record
        self, flow: Flow, side: int, ts: int, payload: bytes, offset: int, acked: int
    ) -> None:
        self.flow = flow
        self.side = side  # 0: sent by flow.key.a, 1: by flow.key.b
        self.ts = ts
        self.payload = payload
        self.offset = offset  # position of payload[0] in this direction; holes count
        self.acked = acked  # how much of the other direction its sender had; -1: not known


class Gap:
    """Octets of one direction that will never come. Final."""

    __slots__ = ("flow", "length", "offset", "side", "truncated", "ts")

    def __init__(  # noqa: PLR0913  # a record
        self, flow: Flow, side: int, ts: int, length: int | None, offset: int, truncated: bool
    ) -> None:
        self.flow = flow
        self.side = side
        self.ts = ts
        self.length = length  # None: joined in the middle, the beginning is unknown
        self.offset = offset
        self.truncated = truncated  # the packet was captured, its end was cut


class End:
    """The last event of a direction; exactly one."""

    __slots__ = ("flow", "reason", "side", "ts")

    def __init__(self, flow: Flow, side: int, ts: int, reason: EndReason) -> None:
        self.flow = flow
        self.side = side
        self.ts = ts
        self.reason = reason


StreamEvent = Data | Gap | End

REQUEST: Final = 0
RESPONSE: Final = 1

Field = tuple[bytes, bytes]
"""A header field: name as sent, value without the blanks before it; use Head.texts for showing it."""


class Head:
    """The head of a request or of a response, as on the wire.

    ``start`` is (method, target, version) or (version, status, reason).
    """

    __slots__ = ("fields", "flaws", "size", "start")

    def __init__(
        self, start: tuple[bytes, bytes, bytes], fields: list[Field], flaws: list[str], size: int
    ) -> None:
        self.start = start
        self.fields = fields
        self.flaws = flaws
        self.size = size  # octets on the wire, blank line included

    def get(self, lower: bytes) -> bytes | None:
        """The first value of a field, by its lower-case name."""
        return next((value.rstrip(b" \t") for name, value in self.fields if name.lower() == lower), None)

    def texts(self) -> list[tuple[str, str]]:
        """The fields as text: UTF-8 with replacement, no blanks around a value (RFC 9112 §5.1)."""
        return [
            (name.decode("utf-8", "replace"), value.rstrip(b" \t").decode("utf-8", "replace"))
            for name, value in self.fields
        ]


class Request:
    """A request's head. ``stream`` names the exchange within its flow."""

    __slots__ = ("flow", "head", "side", "stream", "ts")

    def __init__(self, flow: Flow, stream: int, ts: int, head: Head, side: int) -> None:
        self.flow = flow
        self.stream = stream
        self.ts = ts  # of its first octet
        self.head = head
        self.side = side  # the direction that carries requests


class Response:
    """A response's head. ``stream`` is its request's, or a new one where there is none."""

    __slots__ = ("flow", "head", "interim", "side", "status", "stream", "ts")

    def __init__(  # noqa: PLR0913  # a record
        self,
        flow: Flow,
        stream: int,
        ts: int,
        head: Head,
        side: int,
        status: int,
        interim: bool,
    ) -> None:
        self.flow = flow
        self.stream = stream
        self.ts = ts
        self.head = head
        self.side = side  # the direction that carries responses
        self.status = status
        self.interim = interim  # 1xx other than 101: the final response is still to come


class Body:
    """Octets of a message's content, after removing chunked coding."""

    __slots__ = ("data", "flow", "kind", "stream")

    def __init__(self, flow: Flow, stream: int, kind: int, data: bytes) -> None:
        self.flow = flow
        self.stream = stream
        self.kind = kind  # REQUEST or RESPONSE
        self.data = data


class Missing:
    """Octets of a message's content that lack right here."""

    __slots__ = ("flow", "kind", "stream")

    def __init__(self, flow: Flow, stream: int, kind: int) -> None:
        self.flow = flow
        self.stream = stream
        self.kind = kind  # REQUEST or RESPONSE


class EndOfMessage:
    """A message is over. On the response side without a Response: the request stays unanswered."""

    __slots__ = ("complete", "flaws", "flow", "kind", "stream", "ts")

    def __init__(  # noqa: PLR0913  # a record
        self, flow: Flow, stream: int, kind: int, ts: int, complete: bool, flaws: list[str]
    ) -> None:
        self.flow = flow
        self.stream = stream
        self.kind = kind
        self.ts = ts
        self.complete = complete
        self.flaws = flaws


HttpEvent = Request | Response | Body | Missing | EndOfMessage


class Content:
    """A message's body: what was kept of it, and what is known of the rest."""

    __slots__ = ("complete", "digest", "hole", "kept", "length", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.kept = 0  # octets in parts
        self.length = 0  # octets captured, kept or not
        self.hole = -1  # octets before the first that lack inside; -1: none lack there
        self.complete = False
        self.digest: hashlib._Hash | None = None  # of everything, once a part was not kept

    def data(self) -> bytes:
        if len(self.parts) > 1:
            self.parts = [b"".join(self.parts)]
        return self.parts[0] if self.parts else b""

    def sha256(self) -> str | None:
        """Of all captured octets, also of those not kept; None for an empty body."""
        if not self.length:
            return None
        return (self.digest or hashlib.sha256(self.data())).hexdigest()


class HttpMessage:
    """A request or a response with its body."""

    __slots__ = ("content", "head", "status", "ts")

    def __init__(self, head: Head, ts: int, status: int) -> None:
        self.head = head
        self.ts = ts
        self.status = status  # 0 in a request
        self.content = Content()


@dataclass(slots=True)
class HttpExchange:
    """One API call: a request, its response, either may be missing, and why (docs/flaws.md)."""

    flow: Flow
    client: int  # 0: the client is flow.key.a, 1: flow.key.b
    request: HttpMessage | None
    response: HttpMessage | None
    interim: list[int]
    flaws: list[str]


Message = list[tuple[str, str]]
"""An API call in Resurface's vocabulary: (key, value) pairs, keys in lower case (message.py)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Finished lines on their way to a sink."""

    payload: bytes  # each line ends with LF
    count: int  # lines
    oldest: int  # when the first of them was added
