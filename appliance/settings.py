"""The settings: environment variables, the predecessor's names first. The only reader of the environment.

Contract: ``load`` returns valid settings or raises ``SettingsError``, whose lines each name the variable,
its value and what it accepts. A ``SNIFFER_*`` name that nobody knows is an error: a misspelt limit must
not pass silently. An empty variable counts as not set, as for the predecessor. What the predecessor reads
and replay has no use for (``ELSEWHERE``) is accepted.
``table`` is the documentation: the README's settings section is generated from it (``make docs``).
"""

from __future__ import annotations

import difflib
import os
import re
import socket
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from appliance.message import ANNOTATIONS, MessageOptions
from appliance.model import NANOSECONDS
from appliance.packet.vni import VniSelection
from appliance.pipeline import PipelineOptions

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE = re.compile(r"(\d{1,15})\s*([kmg]?)i?b?", re.IGNORECASE | re.ASCII)
_DIGITS = re.compile(r"\d{1,15}", re.ASCII)
_PORT_MAX: Final = 65_535
_FAMILY: Final = "SNIFFER_"
_TRUE: Final = ("1", "t", "T", "true", "True", "TRUE")
_FALSE: Final = ("0", "f", "F", "false", "False", "FALSE")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}", re.ASCII)
_SECRETS: Final = frozenset({"USAGE_LOGGERS_URL"})  # may carry a password: never shown
_NEVER_READ: Final = {"USAGE_LOGGERS_DISABLED": "USAGE_LOGGERS_DISABLE"}  # what templates set in vain


class SettingsError(Exception):
    """Settings that cannot be used; one line for each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def _ports(value: object) -> object:
    if not isinstance(value, str):
        return value
    ports = set()
    for item in value.split(","):
        text = item.strip()
        if not (_DIGITS.fullmatch(text) and 0 < int(text) <= _PORT_MAX):
            raise ValueError("not a port")  # not the text itself: it need not be UTF-8
        ports.add(int(text))
    return frozenset(ports)


def _vnis(value: object) -> object:
    return VniSelection.parse(value) if isinstance(value, str) else value


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("not a size")  # not the text itself: it need not be UTF-8
    return int(match[1]) * _UNITS[match[2].lower()]


def _name(value: object) -> object:
    if isinstance(value, str) and not value.isprintable():  # nor octets that are not UTF-8
        raise ValueError("not a name")
    return value


def _flag(value: object) -> object:
    """As Go reads a boolean; the predecessor takes anything else for false, and sends."""
    if not isinstance(value, str):
        return value
    if value not in {*_TRUE, *_FALSE}:
        raise ValueError("neither true nor false")
    return value in _TRUE


def _annotations(value: object) -> object:
    if not isinstance(value, str):
        return value
    names = frozenset(name.strip() for name in value.split(",")) - {"", "none"}
    if not names <= {*ANNOTATIONS}:
        raise ValueError("not an annotation")
    return names


def _field_name(value: object) -> object:
    if isinstance(value, str) and value and not _TOKEN.fullmatch(value):
        raise ValueError("not the name of a header field")
    return value.lower() if isinstance(value, str) else value


def _rules(value: object) -> object:
    if isinstance(value, str):
        value.encode()  # UnicodeEncodeError, a ValueError: octets that are not UTF-8
    return value


@dataclass(frozen=True, slots=True)
class Doc:
    """What the table says of a variable, beside what its field says: default and range."""

    accepts: str  # {range} stands for the field's
    meaning: str
    example: str
    default: str = ""  # where the field's own says nothing to people


_OCTETS: Final = "{range}, in octets or with a unit: 4194304, 4096k, 4mb"
_SECONDS: Final = "{range} seconds"
Ports = Annotated[frozenset[int] | None, NoDecode, BeforeValidator(_ports)]
Vnis = Annotated[VniSelection | None, NoDecode, BeforeValidator(_vnis)]
Size = Annotated[int, NoDecode, BeforeValidator(_size)]


class Settings(BaseSettings):
    """One field a variable; the alias is its name."""

    model_config = SettingsConfigDict(
        extra="ignore", case_sensitive=True, frozen=True, env_ignore_empty=True, arbitrary_types_allowed=True
    )

    app_ports: Annotated[
        Ports,
        Doc(
            "a comma list of TCP ports, 1 to 65535",
            "Only connections with one of these ports. Without it HTTP is recognised on any port.",
            "80,8080",
            "`APP_PORT`, else any port",
        ),
    ] = Field(default=None, alias="APP_PORTS")
    app_port: Annotated[
        Ports,
        Doc(
            "a comma list of TCP ports, 1 to 65535", "The old name; counts where APP_PORTS is not set.", "80"
        ),
    ] = Field(default=None, alias="APP_PORT")
    mirror_vnis: Annotated[
        Vnis,
        Doc(
            "VNIs separated by commas or blanks; a negative one is excluded",
            "Which VXLAN and GENEVE network identifiers to keep; the first entry that fits decides, and any "
            "exclusion makes the rest selected.",
            "123,456",
            "all",
        ),
    ] = Field(default=None, alias="SNIFFER_MIRROR_VNIS")
    url: Annotated[
        str,
        BeforeValidator(_name),
        Doc(
            "an http or https URL",
            "The Resurface database. `http` needs the rule `allow_http_url`.",
            "http://localhost:7701/message",
            "none",
        ),
    ] = Field(default="", alias="USAGE_LOGGERS_URL")
    rules: Annotated[
        str,
        BeforeValidator(_rules),
        Doc(
            "rules, with `\\n` between them, or `file:///path` (docs/rules.md)",
            "What may leave, applied before anything is written or sent.",
            "include debug\\nskip_compression",
            "`include strict`",
        ),
    ] = Field(default="", alias="USAGE_LOGGERS_RULES")
    disable: Annotated[
        bool,
        NoDecode,
        BeforeValidator(_flag),
        Doc("true or false", "Run, and send nothing.", "true", "false"),
    ] = Field(default=False, alias="USAGE_LOGGERS_DISABLE")
    bundle_size: Annotated[
        Size,
        Doc(_OCTETS, "Octets of messages, before compression, that make an upload.", "1mb"),
        Field(ge=1024, le=1 << 30),
    ] = Field(default=5 << 20, alias="USAGE_LOGGERS_BUNDLE_SIZE")
    bundle_queue: Annotated[
        int,
        Doc("{range} uploads", "Uploads that may wait for the database.", "16"),
        Field(ge=1, le=100_000),
    ] = Field(default=128, alias="USAGE_LOGGERS_BUNDLE_QUEUE_SIZE")
    realip_header: Annotated[
        str,
        BeforeValidator(_field_name),
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
        BeforeValidator(_annotations),
        Doc(
            "a comma list of " + ", ".join(f"`{name}`" for name in ANNOTATIONS) + ", or `none`",
            "What is added to each call as `custom_field:*`, before the rules.",
            "flaws,vni,client",
            "`flaws`",
        ),
    ] = Field(default=frozenset({"flaws"}), alias="SNIFFER_ANNOTATE")
    body_limit: Annotated[
        Size,
        Doc(
            _OCTETS, "Octets kept of each body, also after decoding; the rest is counted and flagged.", "4mb"
        ),
        Field(ge=0, le=1 << 40),
    ] = Field(default=1 << 20, alias="USAGE_LOGGERS_BODY_LIMIT")
    flow_idle_seconds: Annotated[
        int,
        Doc(_SECONDS, "A connection silent for longer is over.", "350"),
        Field(ge=1, le=86_400),
    ] = Field(default=600, alias="SNIFFER_FLOW_IDLE_SECONDS")
    max_flows: Annotated[
        int,
        Doc(
            "{range} connections",
            "Connections followed at a time; the one silent the longest goes first.",
            "250000",
        ),
        Field(ge=1, le=10_000_000),
    ] = Field(default=100_000, alias="SNIFFER_MAX_FLOWS")
    stream_buffer: Annotated[
        Size,
        Doc(_OCTETS, "Octets that one direction of a connection may hold behind a hole.", "16mb"),
        Field(ge=1024, le=1 << 40),
    ] = Field(default=4 << 20, alias="SNIFFER_STREAM_BUFFER")
    stream_memory: Annotated[
        Size,
        Doc(_OCTETS, "Octets that all connections together may hold behind holes.", "1gb"),
        Field(ge=1024, le=1 << 40),
    ] = Field(default=256 << 20, alias="SNIFFER_STREAM_MEMORY")
    gap_wait_seconds: Annotated[
        int,
        Doc(_SECONDS, "How long a hole is waited for that nobody has acknowledged.", "3"),
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
        Doc(_OCTETS, "Octets kept of all calls that are not complete yet.", "1gb"),
        Field(ge=1024, le=1 << 40),
    ] = Field(default=256 << 20, alias="SNIFFER_EXCHANGE_MEMORY")
    dyno: Annotated[
        str,
        BeforeValidator(_name),
        Doc("a name in UTF-8", "The `host` of messages.", "sniffer-1", "the machine's name"),
    ] = Field(default="", alias="DYNO")

    def pipeline(self) -> PipelineOptions:
        return PipelineOptions(
            vnis=self.mirror_vnis,
            ports=self.app_ports or self.app_port,
            body_limit=self.body_limit,
            flow_idle=self.flow_idle_seconds * NANOSECONDS,
            max_flows=self.max_flows,
            stream_buffer=self.stream_buffer,
            stream_memory=self.stream_memory,
            gap_wait=self.gap_wait_seconds * NANOSECONDS,
            reorder_segments=self.reorder_segments,
            exchange_memory=self.exchange_memory,
        )

    def warnings(self) -> list[str]:
        """What the user must not take for granted."""
        return [
            f"{name}: nothing reads it; did you mean {meant}?"
            for name, meant in _NEVER_READ.items()
            if name in os.environ
        ]

    def messages(self) -> MessageOptions:
        return MessageOptions(self.body_limit, self.realip_header, self.annotate)

    def host(self) -> str:
        """Name of the machine that runs us (spec §1.2)."""
        return self.dyno or socket.gethostname() or "unknown"


ELSEWHERE: Final = (  # what the predecessor reads and replay has no use for (spec §2.4, §4.2)
    "NET_DEVICE",
    "VPC_MIRROR_DEVICE",
    "K8S_INPUT",
    "SNIFFER_ENGINE",
    "SNIFFER_MIRROR_VXLANPORT",
    "SNIFFER_PCAP_BUFFER_SIZE",
    "SNIFFER_PROMISC_ENABLED",
    "SNIFFER_RF_MONITOR_ENABLED",
    "SNIFFER_NOFILTER",
    "SNIFFER_DEBUG_ENABLED",
    "SNIFFER_DEBUG_VERBOSITY",
    "SNIFFER_DEBUG_EXPORT",
    "SNIFFER_DEBUG_DEAL_ID",
    "SNIFFER_DEBUG_HTTP_ENDPOINT",
    "USAGE_LOGGERS_MESSAGE_QUEUE_SIZE",
)


class Row(NamedTuple):
    name: str
    default: str
    meaning: str
    accepts: str
    example: str


def table() -> list[Row]:
    """Every variable, in the order of the README."""
    rows = []
    for field in Settings.model_fields.values():
        doc = next(item for item in field.metadata if isinstance(item, Doc))
        default = doc.default or ("-" if field.default is None else _amount(field.default, doc))
        accepts = doc.accepts.format(range=_range(field.metadata, doc))
        rows.append(Row(str(field.alias), default, doc.meaning, accepts, doc.example))
    return rows


def _range(metadata: list[object], doc: Doc) -> str:
    """``ge`` and ``le`` of the field's constraints."""
    ends = [getattr(item, name) for name in ("ge", "le") for item in metadata if hasattr(item, name)]
    return " to ".join(_amount(end, doc) for end in ends)


def _amount(number: int | str, doc: Doc) -> str:
    """Octets in the largest unit that leaves no rest."""
    if not isinstance(number, int) or not number or doc.accepts != _OCTETS:
        return str(number)
    power = next(n for n in (4, 3, 2, 1, 0) if number % (1 << 10 * n) == 0)
    return f"{number >> 10 * power}{('', ' KiB', ' MiB', ' GiB', ' TiB')[power]}"


def load() -> Settings:
    """From the environment. Raises SettingsError."""
    known = {row.name: row for row in table()}
    lines = [
        _unknown(name, [*known, *ELSEWHERE])
        for name in sorted(os.environ)
        if name.startswith(_FAMILY) and name not in known and name not in ELSEWHERE
    ]
    try:
        settings = Settings()
    except ValidationError as error:
        names = {str(fault["loc"][0]) for fault in error.errors()}
        lines += [f"{name}={_shown(name)}: accepts {known[name].accepts}" for name in sorted(names)]
        raise SettingsError(lines) from None
    if lines:
        raise SettingsError(lines)
    return settings


def _shown(name: str) -> str:
    return "***" if name in _SECRETS else repr(os.environ.get(name, ""))


def _unknown(name: str, known: list[str]) -> str:
    ours = {one.removeprefix(_FAMILY): one for one in known if one.startswith(_FAMILY)}
    near = difflib.get_close_matches(name.removeprefix(_FAMILY), ours, 1)
    return f"{name}: no such variable" + (f"; did you mean {ours[near[0]]}?" if near else "")
