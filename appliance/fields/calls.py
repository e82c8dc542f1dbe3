"""What a call has, and how much of connections and calls is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from appliance import values
from appliance.fields.kinds import Fields, Size
from appliance.message import ANNOTATIONS
from appliance.variables import OCTETS, SECONDS, Doc


class CallFields(Fields):
    realip_header: Annotated[
        str,
        BeforeValidator(values.field_name),
        Doc(
            "the name of a header field",
            "Adds the client's address to each call as this request header, behind what was sent.",
            "X-Real-IP",
            "none",
        ),
    ] = Field(default="", alias="SNIFFER_REALIP_HEADER")
    annotate: Annotated[
        frozenset[str],
        NoDecode,
        BeforeValidator(values.custom_fields),
        Doc(
            "a comma list of " + ", ".join(f"`{name}`" for name in ANNOTATIONS) + ", or `none`",
            "What is added to each call as `custom_field:*`, before the rules.",
            "flaws,vni,client",
            "`flaws`",
        ),
    ] = Field(default=frozenset({"flaws"}), alias="SNIFFER_ANNOTATE")
    body_limit: Annotated[
        Size,
        Doc(OCTETS, "Octets kept of each body, also after decoding; the rest is counted and flagged.", "4mb"),
        Field(ge=0, le=1 << 40),
    ] = Field(default=1 << 20, alias="USAGE_LOGGERS_BODY_LIMIT")
    flow_idle_seconds: Annotated[
        int,
        Doc(SECONDS, "A connection silent for longer is over.", "350"),
        Field(ge=1, le=86_400),
    ] = Field(default=600, alias="SNIFFER_FLOW_IDLE_SECONDS")
    max_flows: Annotated[
        int,
        Doc(
            "{range} connections",
            "Connections that a worker follows at a time; the one silent the longest goes first.",
            "250000",
        ),
        Field(ge=1, le=10_000_000),
    ] = Field(default=100_000, alias="SNIFFER_MAX_FLOWS")
    stream_buffer: Annotated[
        Size,
        Doc(OCTETS, "Octets that one direction of a connection may hold behind a hole.", "16mb"),
        Field(ge=1024, le=1 << 40),
    ] = Field(default=4 << 20, alias="SNIFFER_STREAM_BUFFER")
    stream_memory: Annotated[
        Size,
        Doc(OCTETS, "Octets that all connections of a worker may hold behind holes.", "1gb"),
        Field(ge=1024, le=1 << 40),
    ] = Field(default=256 << 20, alias="SNIFFER_STREAM_MEMORY")
    gap_wait_seconds: Annotated[
        int,
        Doc(SECONDS, "How long a hole is waited for that nobody has acknowledged.", "3"),
        Field(ge=1, le=3600),
    ] = Field(default=10, alias="SNIFFER_GAP_WAIT_SECONDS")
    reorder_segments: Annotated[
        int,
        Doc(
            "{range} segments",
            "How many further segments of a connection the capture may "
            "have put before an octet that the peer has acknowledged; 0 gives it up at once.",
            "0",
        ),
        Field(ge=0, le=100_000),
    ] = Field(default=32, alias="SNIFFER_REORDER_SEGMENTS")
    exchange_memory: Annotated[
        Size,
        Doc(OCTETS, "Octets that a worker keeps of calls that are not complete yet.", "1gb"),
        Field(ge=1024, le=1 << 40),
    ] = Field(default=256 << 20, alias="SNIFFER_EXCHANGE_MEMORY")
    dyno: Annotated[
        str,
        BeforeValidator(values.name),
        Doc("a name in UTF-8", "The `host` of messages.", "sniffer-1", "the machine's name"),
    ] = Field(default="", alias="DYNO")
