"""Every reason for which something may be lost or set aside, by name, and the tally.

Contract: a stage counts each thing it takes in and each thing it lets go, once, under a name of the
table below; an unknown name is a programming error (KeyError). The identities at the end hold
between any two calls into the pipeline, not only at the end: what is still held is counted too.

The table is the documentation: docs/ledger.md is generated from it (``make docs``).
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Entry(NamedTuple):
    unit: str
    lost: bool  # something that the user may have wanted did not come out
    meaning: str


TABLE: Final[dict[str, Entry]] = {
    # -- frames: source -> segments
    "frames": Entry("frames", False, "that came: read from the sources, or dropped before that"),
    "frame_kernel_dropped": Entry(
        "frames",
        True,
        "never read: no room in the kernel (receive buffer, capture ring), or a wrong UDP checksum",
    ),
    "frame_repeated": Entry("frames", False, "the same packet had come by another interface"),
    "frame_undrained": Entry(
        "frames", True, "left over, in us or in the kernel, when the time for the end was over"
    ),
    "frame_worker_lost": Entry("frames", True, "in the hands of a worker that died"),
    "segments": Entry("frames", False, "TCP segments handed to reassembly"),
    "frame_not_ip": Entry("frames", False, "neither IPv4 nor IPv6 inside (ARP, LLDP, ...)"),
    "frame_not_tcp": Entry("frames", False, "IP, but not TCP (UDP, ICMP, SCTP, ...)"),
    "frame_vni_not_selected": Entry("frames", False, "VNI excluded by SNIFFER_MIRROR_VNIS"),
    "frame_port_not_selected": Entry("frames", False, "no port of APP_PORTS"),
    "frame_link_unknown": Entry("frames", True, "link type that is not decoded"),
    "frame_tunnel_unsupported": Entry(
        "frames", True, "inside a tunnel that is not decoded (ESP, Ethernet in IP, L2TPv3, ...)"
    ),
    "frame_too_nested": Entry("frames", True, "more tunnels or tags inside each other than allowed"),
    "frame_cut": Entry("frames", True, "cut before the end of the TCP header"),
    "frame_malformed": Entry("frames", True, "header fields contradict each other"),
    "fragment_merged": Entry("frames", False, "IP fragments beyond the first of a whole datagram"),
    "fragment_held": Entry("frames", False, "IP fragments waiting for the others"),
    "fragment_duplicate": Entry("frames", False, "IP fragments whose octets were there already"),
    "fragment_expired": Entry("frames", True, "IP fragments whose others never came"),
    "fragment_evicted": Entry("frames", True, "IP fragments given up to stay within the limits"),
    "fragment_malformed": Entry("frames", True, "IP fragments that contradict each other"),
    # -- octets of segments: segments -> streams
    "segment_bytes": Entry("bytes", False, "TCP payload in segments, as captured"),
    "stream_bytes": Entry("bytes", False, "delivered to the decoders, in order, once"),
    "segment_held_bytes": Entry("bytes", False, "waiting for the octets before them"),
    "segment_duplicate_bytes": Entry("bytes", False, "retransmitted or overlapping: the first copy won"),
    "segment_late_bytes": Entry("bytes", True, "came after their place was given up or the end"),
    "segment_implausible_bytes": Entry("bytes", True, "far outside the connection's window"),
    "segment_evicted_bytes": Entry("bytes", True, "held by a connection that had to be given up"),
    "segment_worker_lost_bytes": Entry("bytes", True, "held by a worker that died"),
    # -- what the streams lack
    "gaps": Entry("gaps", True, "holes in a direction that were given up"),
    "gap_bytes": Entry("bytes", True, "octets in holes of known length"),
    "gap_acked_bytes": Entry("bytes", True, "of these, acknowledged by the peer: lost by the capture"),
    "gap_truncated_bytes": Entry("bytes", True, "of these, cut off captured packets (snap length, MTU)"),
    "midstream": Entry("directions", False, "directions joined after their beginning"),
    # -- connections
    "flows": Entry("connections", False, "connections seen"),
    "flow_open": Entry("connections", False, "connections not over yet"),
    "flow_fin": Entry("connections", False, "closed by both sides"),
    "flow_rst": Entry("connections", False, "reset"),
    "flow_idle": Entry("connections", False, "silent for longer than SNIFFER_FLOW_IDLE_SECONDS"),
    "flow_reused": Entry("connections", False, "replaced by a new connection with the same addresses"),
    "flow_evicted": Entry("connections", True, "given up to stay within SNIFFER_MAX_FLOWS"),
    "flow_worker_lost": Entry("connections", True, "followed by a worker that died"),
    "flow_shutdown": Entry("connections", False, "open when the capture ended"),
    # -- octets of streams: streams -> HTTP
    "http_head_bytes": Entry("bytes", False, "in heads of requests and responses"),
    "http_body_bytes": Entry("bytes", False, "in bodies, chunked coding removed"),
    "http_framing_bytes": Entry("bytes", False, "chunked coding, trailers and blank lines between messages"),
    "proxy_bytes": Entry("bytes", False, "PROXY protocol headers of load balancers"),
    "http_held_bytes": Entry("bytes", False, "of a head or chunk line that is not whole yet"),
    "http_unframed_bytes": Entry("bytes", True, "between a gap or damage and the next message boundary"),
    "http_cut_head_bytes": Entry("bytes", True, "of heads that a gap, an end or a limit left unusable"),
    "http_worker_lost_bytes": Entry("bytes", True, "of heads not whole yet, in a worker that died"),
    "tls_bytes": Entry("bytes", True, "of TLS connections: mirror behind TLS termination"),
    "ssh_bytes": Entry("bytes", False, "of SSH connections"),
    "http2_bytes": Entry("bytes", True, "of HTTP/2 connections"),
    "other_bytes": Entry("bytes", False, "of connections that speak something else"),
    "tunnel_bytes": Entry("bytes", False, "after CONNECT or 101 Switching Protocols"),
    "probe_held_bytes": Entry("bytes", False, "of connections not recognised yet"),
    # -- connections by what they speak
    "kind_http1": Entry("connections", False, "recognised as HTTP/1"),
    "kind_tls": Entry("connections", True, "recognised as TLS"),
    "kind_ssh": Entry("connections", False, "recognised as SSH"),
    "kind_http2": Entry("connections", True, "recognised as HTTP/2"),
    "kind_other": Entry("connections", False, "carry something else, or too little to tell"),
    # -- messages -> exchanges
    "requests": Entry("requests", False, "heads of requests decoded"),
    "responses": Entry("responses", False, "heads of final responses decoded"),
    "interim_responses": Entry("responses", False, "1xx responses before a final one"),
    "exchanges": Entry("exchanges", False, "API calls that came out"),
    "exchange_open": Entry("exchanges", False, "waiting for their response or its end"),
    "exchange_answered": Entry("exchanges", False, "with request and response"),
    "exchange_unanswered": Entry("exchanges", True, "request without response"),
    "exchange_orphan": Entry("exchanges", True, "response without request"),
    "exchange_incomplete": Entry("exchanges", True, "of all: octets of a body or head are missing"),
    "exchange_evicted": Entry("exchanges", True, "of all: given up unfinished to stay within the limits"),
    "exchange_worker_lost": Entry("exchanges", True, "not complete yet, in a worker that died"),
    "http_event_late": Entry("events", True, "for an exchange that had been given up"),
    # -- exchanges -> messages, where messages are made of them
    "calls": Entry("calls", False, "exchanges handed to the rules"),
    "messages": Entry("calls", False, "messages that came out"),
    "call_own_upload": Entry("calls", False, "our own uploads, seen by ourselves"),
    "call_rule_stopped": Entry("calls", False, "dropped by a stop rule"),
    "call_rule_sampled": Entry("calls", False, "dropped by the sample rule"),
    "call_rule_emptied": Entry("calls", False, "of which the rules left nothing"),
    "call_rule_timeout": Entry("calls", True, "dropped since a stop rule did not come to an end"),
    "message_written": Entry("calls", False, "messages written to the output"),
    "message_delivered": Entry("calls", False, "messages that a sink has accepted"),
    "message_rejected": Entry("calls", True, "messages that a sink has refused"),
    "message_withheld": Entry("calls", False, "messages not sent: skip_submission or USAGE_LOGGERS_DISABLE"),
    "message_queued": Entry("calls", False, "messages on their way to a sink"),
    "message_copied": Entry("calls", False, "copies for further sinks: each message is theirs, too"),
    "message_restored": Entry("calls", False, "messages that were in the spool when we began"),
    "message_spooled": Entry("calls", False, "messages on disk, waiting for their sink"),
    "message_handed_over": Entry(
        "calls", False, "messages on disk of a worker that died: restored by the next"
    ),
    "message_shed": Entry("calls", True, "messages for which there was no room, in queue or spool"),
    "message_worker_lost": Entry("calls", True, "messages queued in a worker that died"),
    "message_undelivered": Entry("calls", True, "messages that could not be sent before the end"),
    "message_unsure": Entry("calls", False, "sent again when no answer came: their sink may have them twice"),
    "lake_files": Entry("files", False, "written to the lake"),
    "lake_bytes": Entry("bytes", False, "of Parquet written to the lake"),
    "lake_merged_files": Entry("files", False, "of the lake, merged into larger ones"),
    "lake_shed_calls": Entry("calls", True, "deleted from the lake: too old, or for want of room"),
    "lake_shed_bytes": Entry("bytes", False, "of Parquet deleted with them"),
    "rule_timeouts": Entry("values", True, "removed since a rule did not come to an end in its time"),
    "body_kept_bytes": Entry("bytes", False, "of bodies, kept"),
    "body_over_limit_bytes": Entry("bytes", True, "of bodies, beyond USAGE_LOGGERS_BODY_LIMIT"),
    "body_over_memory_bytes": Entry("bytes", True, "of bodies, beyond SNIFFER_EXCHANGE_MEMORY"),
    "body_late_bytes": Entry("bytes", True, "of bodies whose exchange had been given up"),
}

IDENTITIES: Final[tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = (
    (
        ("frames",),
        (
            "segments",
            "frame_not_ip",
            "frame_not_tcp",
            "frame_vni_not_selected",
            "frame_port_not_selected",
            "frame_link_unknown",
            "frame_tunnel_unsupported",
            "frame_too_nested",
            "frame_cut",
            "frame_malformed",
            "fragment_merged",
            "fragment_held",
            "fragment_duplicate",
            "fragment_expired",
            "fragment_evicted",
            "fragment_malformed",
            "frame_kernel_dropped",
            "frame_repeated",
            "frame_undrained",
            "frame_worker_lost",
        ),
    ),
    (
        ("segment_bytes",),
        (
            "stream_bytes",
            "segment_held_bytes",
            "segment_duplicate_bytes",
            "segment_late_bytes",
            "segment_implausible_bytes",
            "segment_evicted_bytes",
            "segment_worker_lost_bytes",
        ),
    ),
    (
        ("flows",),
        (
            "flow_open",
            "flow_fin",
            "flow_rst",
            "flow_idle",
            "flow_reused",
            "flow_evicted",
            "flow_worker_lost",
            "flow_shutdown",
        ),
    ),
    (
        ("stream_bytes",),
        (
            "http_head_bytes",
            "http_body_bytes",
            "http_framing_bytes",
            "proxy_bytes",
            "http_held_bytes",
            "http_unframed_bytes",
            "http_cut_head_bytes",
            "http_worker_lost_bytes",
            "tls_bytes",
            "ssh_bytes",
            "http2_bytes",
            "other_bytes",
            "tunnel_bytes",
            "probe_held_bytes",
        ),
    ),
    (
        ("http_body_bytes",),
        ("body_kept_bytes", "body_over_limit_bytes", "body_over_memory_bytes", "body_late_bytes"),
    ),
    (("exchanges",), ("exchange_answered", "exchange_unanswered", "exchange_orphan")),
    (
        ("calls",),
        (
            "messages",
            "call_own_upload",
            "call_rule_stopped",
            "call_rule_sampled",
            "call_rule_emptied",
            "call_rule_timeout",
        ),
    ),
    (
        ("messages", "message_copied", "message_restored"),
        (
            "message_written",
            "message_delivered",
            "message_rejected",
            "message_withheld",
            "message_queued",
            "message_spooled",
            "message_handed_over",
            "message_shed",
            "message_worker_lost",
            "message_undelivered",
        ),
    ),
)


BY_SESSION: Final[tuple[str, ...]] = (
    "frames",
    "frame_vni_not_selected",
    "flows",
    "midstream",
    "gaps",
    "gap_bytes",
    "gap_acked_bytes",
    "gap_truncated_bytes",
    "exchanges",
    "exchange_answered",
    "exchange_unanswered",
    "exchange_orphan",
    "exchange_incomplete",
)
"""What is counted for each mirror session (VNI) too."""
BY_SINK: Final[tuple[str, ...]] = (
    "message_restored",
    "message_delivered",
    "message_rejected",
    "message_queued",
    "message_spooled",
    "message_handed_over",
    "message_shed",
    "message_worker_lost",
    "message_undelivered",
)
"""What is counted for each sink; their sums are the ledger's. Every message is every sink's."""
MAX_SESSIONS: Final = 1024  # rows; anybody can send any of 16 million VNIs, the others share one
OTHER_SESSIONS: Final = -1


class Ledger:
    """The tally of one pipeline. Not for use from several threads."""

    __slots__ = ("sessions", "sinks", "tally")

    def __init__(self) -> None:
        self.tally: dict[str, int] = dict.fromkeys(TABLE, 0)
        self.sinks: dict[str, dict[str, int]] = {}
        self.sessions: dict[int, dict[str, int]] = {}  # by VNI of the mirror session: what of it was there

    def count(self, name: str, n: int = 1, session: int | None = None) -> None:
        self.tally[name] += n
        if session is not None:
            self.at(session, name, n)

    def at(self, session: int, name: str, n: int = 1) -> None:
        """Of the whole, what belongs to one mirror session."""
        row = self.sessions.get(session)
        if row is None:
            if len(self.sessions) >= MAX_SESSIONS:
                session = OTHER_SESSIONS
            row = self.sessions.setdefault(session, dict.fromkeys(BY_SESSION, 0))
        row[name] += n

    def sink(self, name: str) -> dict[str, int]:
        """Its row, by BY_SINK; whoever counts in it counts in the tally as well."""
        return self.sinks.setdefault(name, dict.fromkeys(BY_SINK, 0))

    def unbalanced(self) -> list[str]:
        """The identities that do not hold, as text; empty when the ledger adds up."""
        faults = []
        for left, right in IDENTITIES:
            a = sum(self.tally[name] for name in left)
            b = sum(self.tally[name] for name in right)
            if a != b:
                faults.append(f"{' + '.join(left)} = {a}, but {' + '.join(right)} = {b}")
        sent = self.tally["messages"] - self.tally["message_written"] - self.tally["message_withheld"]
        for sink, row in self.sinks.items():
            a = sent + row["message_restored"]
            b = sum(row.values()) - row["message_restored"]
            if a != b:
                faults.append(f"{sink}: messages + message_restored = {a}, but what became of them = {b}")
        negative = [f"{name} = {n}" for name, n in self.tally.items() if n < 0]
        return faults + negative
