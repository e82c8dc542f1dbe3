"""The settings: environment variables, the predecessor's names first. The only reader of the environment.

Contract: ``load`` returns valid settings or raises ``SettingsError``, whose lines each name the variable,
its value and what it accepts. A ``SNIFFER_*`` name that nobody knows is an error: a misspelt limit must
not pass silently. An empty variable counts as not set, as for the predecessor. What the predecessor reads
and replay has no use for (``ELSEWHERE``) is accepted.
``table`` is the documentation: the README's settings section is generated from it (``make docs``).
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from appliance import values
from appliance.message import ANNOTATIONS, MessageOptions
from appliance.model import NANOSECONDS
from appliance.packet.vni import VniSelection
from appliance.pipeline import PipelineOptions
from appliance.variables import FAMILY, OCTETS, SECONDS, Doc, Row, rows, unknown

_GENEVE: Final = "SNIFFER_MIRROR_GENEVEPORT"  # the only one that means something when it is empty
LIST_LIMIT: Final = 1 << 20  # octets of a file with VNIs or ports
_SEPARATOR: Final = re.compile(r"[,\s]+")
_SECRETS: Final = frozenset({"USAGE_LOGGERS_URL", "SNIFFER_LAKE_URL"})  # may carry a password: never shown
_NEVER_READ: Final = {"USAGE_LOGGERS_DISABLED": "USAGE_LOGGERS_DISABLE"}  # what templates set in vain


class SettingsError(Exception):
    """Settings that cannot be used; one line for each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


Ports = Annotated[str, BeforeValidator(values.ports)]
Vnis = Annotated[str, BeforeValidator(values.vnis)]
Switch = Annotated[bool, NoDecode, BeforeValidator(values.flag)]
Size = Annotated[int, NoDecode, BeforeValidator(values.size)]


class Settings(BaseSettings):
    """One field a variable; the alias is its name."""

    model_config = SettingsConfigDict(
        extra="ignore", case_sensitive=True, frozen=True, env_ignore_empty=True, arbitrary_types_allowed=True
    )

    app_ports: Annotated[
        Ports,
        Doc(
            "a comma list of TCP ports, 1 to 65535, or `file:///path`, which is followed",
            "Only connections with one of these ports. Without it HTTP is recognised on any port.",
            "80,8080",
            "`APP_PORT`, else any port",
        ),
    ] = Field(default="", alias="APP_PORTS")
    app_port: Annotated[
        Ports,
        Doc(
            "a comma list of TCP ports, 1 to 65535",
            "The old name; counts where APP_PORTS is not set.",
            "80",
            "-",
        ),
    ] = Field(default="", alias="APP_PORT")
    engine: Annotated[
        str,
        BeforeValidator(values.engine),
        Doc(
            "`vxlan` or `mirror`; `live` (also `libpcap`, `af_packet`, `raw_socket`)",
            "Where `run` captures: as a traffic-mirror target, or from this machine's interfaces.",
            "vxlan",
        ),
    ] = Field(default="live", alias="SNIFFER_ENGINE")
    vxlan_port: Annotated[
        int,
        NoDecode,
        BeforeValidator(values.port),
        Doc("a UDP port, 1 to 65535", "Where VXLAN comes in.", "14789"),
    ] = Field(default=4789, alias="SNIFFER_MIRROR_VXLANPORT")
    geneve_port: Annotated[
        int | None,
        NoDecode,
        BeforeValidator(values.optional_port),
        Doc("a UDP port, 1 to 65535; `off` or empty", "Where GENEVE comes in.", "off"),
    ] = Field(default=6081, alias="SNIFFER_MIRROR_GENEVEPORT")
    net_device: Annotated[
        str,
        BeforeValidator(values.name),
        Doc(
            "interfaces by comma: names, `prefix*`, addresses, `localhost`, `any`",
            "What `live` captures from.",
            "eth0,docker*",
            "`VPC_MIRROR_DEVICE`, else every interface that is up",
        ),
    ] = Field(default="", alias="NET_DEVICE")
    vpc_mirror_device: Annotated[
        str,
        BeforeValidator(values.name),
        Doc("as NET_DEVICE", "The old name; counts where NET_DEVICE is not set.", "eth0", "-"),
    ] = Field(default="", alias="VPC_MIRROR_DEVICE")
    promiscuous: Annotated[
        Switch,
        Doc("true or false", "`live` takes what is not for this machine, too.", "true", "false"),
    ] = Field(default=False, alias="SNIFFER_PROMISC_ENABLED")
    unfiltered: Annotated[
        Switch,
        Doc(
            "true or false",
            "`live` without a filter in the kernel for APP_PORTS, which then count in the process.",
            "true",
            "false",
        ),
    ] = Field(default=False, alias="SNIFFER_NOFILTER")
    ring: Annotated[
        Size,
        Doc(OCTETS, "Octets that the kernel may hold for each worker of `live`; 0 is the default.", "256mb"),
        Field(ge=0, le=1 << 30),
    ] = Field(default=64 << 20, alias="SNIFFER_PCAP_BUFFER_SIZE")
    workers: Annotated[
        int,
        Doc("{range} processes", "Processes that share the traffic, by connection.", "2", "cores"),
        Field(ge=0, le=256),
    ] = Field(default=0, alias="SNIFFER_WORKERS")
    drain_seconds: Annotated[
        int,
        Doc(SECONDS, "How long `run` may take, when it is told to stop, to send what it has.", "60"),
        Field(ge=0, le=3600),
    ] = Field(default=20, alias="SNIFFER_DRAIN_SECONDS")
    receive_buffer: Annotated[
        Size,
        Doc(OCTETS, "Octets that the kernel may hold for each worker of a mirror target.", "256mb"),
        Field(ge=4096, le=1 << 30),
    ] = Field(default=64 << 20, alias="SNIFFER_RECEIVE_BUFFER")
    sinks: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(values.sinks),
        Doc(
            "a comma list of `resurface`, `lake`, `stdout`",
            "Where `run` sends calls: each call to each of them.",
            "resurface,lake",
            "`resurface` where USAGE_LOGGERS_URL is set, else `lake`",
        ),
    ] = Field(default=(), alias="SNIFFER_SINKS")
    lake_url: Annotated[
        str,
        BeforeValidator(values.place),
        Doc(
            "a folder, or `s3://bucket/prefix`",
            "Where the sink `lake` writes Parquet files (docs/lake.md).",
            "s3://calls/production",
        ),
    ] = Field(default="./lake", alias="SNIFFER_LAKE_URL")
    lake_max: Annotated[
        Size,
        Doc(
            OCTETS,
            "Octets of a lake in a folder; beyond it the oldest hours are deleted.",
            "500gb",
            "as the disk allows",
        ),
        Field(ge=0, le=1 << 50),
    ] = Field(default=0, alias="SNIFFER_LAKE_MAX")
    lake_days: Annotated[
        int,
        Doc("{range} days", "Calls in a folder that are older are deleted.", "30", "for ever"),
        Field(ge=0, le=36_500),
    ] = Field(default=0, alias="SNIFFER_LAKE_DAYS")
    lake_reserve: Annotated[
        Size,
        Doc(
            OCTETS,
            "Octets of the disk that a lake in a folder leaves free, at most a 20th of the disk.",
            "10gb",
        ),
        Field(ge=0, le=1 << 50),
    ] = Field(default=1 << 30, alias="SNIFFER_LAKE_RESERVE")
    lake_seconds: Annotated[
        int,
        Doc(
            SECONDS,
            "How long a call waits at most for others to share its file: fewer and larger files, seen later.",
            "600",
        ),
        Field(ge=1, le=900),
    ] = Field(default=60, alias="SNIFFER_LAKE_SECONDS")
    mirror_vnis: Annotated[
        Vnis,
        Doc(
            "VNIs separated by commas or blanks, a negative one excludes; or `file:///path` (followed)",
            "Which mirror sessions to keep, by VXLAN or GENEVE network identifier; the first entry that fits "
            "decides, and any exclusion makes the rest selected.",
            "123,456",
            "all",
        ),
    ] = Field(default="", alias="SNIFFER_MIRROR_VNIS")
    url: Annotated[
        str,
        BeforeValidator(values.name),
        Doc(
            "an http or https URL",
            "The Resurface database. `http` needs the rule `allow_http_url`.",
            "http://localhost:7701/message",
            "none",
        ),
    ] = Field(default="", alias="USAGE_LOGGERS_URL")
    rules: Annotated[
        str,
        BeforeValidator(values.rules),
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
        BeforeValidator(values.flag),
        Doc("true or false", "Run, and send nothing.", "true", "false"),
    ] = Field(default=False, alias="USAGE_LOGGERS_DISABLE")
    bundle_size: Annotated[
        Size,
        Doc(OCTETS, "Octets of messages, before compression, that make an upload.", "1mb"),
        Field(ge=1, le=1 << 30),
    ] = Field(default=5 << 20, alias="USAGE_LOGGERS_BUNDLE_SIZE")
    bundle_queue: Annotated[
        int,
        Doc(
            "{range} uploads",
            "Bundles that may wait in a worker for a sink, and 256 MiB of them at most.",
            "16",
        ),
        Field(ge=1, le=100_000),
    ] = Field(default=128, alias="USAGE_LOGGERS_BUNDLE_QUEUE_SIZE")
    certificates: Annotated[
        str,
        BeforeValidator(values.name),
        Doc(
            "a file of certificates in PEM form",
            "The authorities by which an https database is verified, instead of the system's.",
            "/etc/ssl/own-ca.pem",
            "the system's",
        ),
    ] = Field(default="", alias="SSL_CERT_FILE")
    spool_dir: Annotated[
        str,
        BeforeValidator(values.name),
        Doc(
            "a folder",
            "Where calls wait, after the rules, that a sink does not take now; else they are shed.",
            "/var/spool/appliance",
            "none",
        ),
    ] = Field(default="", alias="SNIFFER_SPOOL_DIR")
    spool_max: Annotated[
        Size,
        Doc(
            OCTETS,
            "Octets of the spool, of all workers and sinks together; beyond it the oldest calls are shed.",
            "10gb",
        ),
        Field(ge=1 << 20, le=1 << 44),
    ] = Field(default=1 << 30, alias="SNIFFER_SPOOL_MAX")
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

    def pipeline(self) -> PipelineOptions:
        """With what is selected now. Raises SettingsError."""
        vnis, ports = self.selected()
        return replace(
            self.limits(),
            vnis=VniSelection.parse(vnis) if vnis else None,
            ports=values.ports_of(ports) if ports else None,
        )

    def limits(self) -> PipelineOptions:
        return PipelineOptions(
            body_limit=self.body_limit,
            flow_idle=self.flow_idle_seconds * NANOSECONDS,
            max_flows=self.max_flows,
            stream_buffer=self.stream_buffer,
            stream_memory=self.stream_memory,
            gap_wait=self.gap_wait_seconds * NANOSECONDS,
            reorder_segments=self.reorder_segments,
            exchange_memory=self.exchange_memory,
        )

    def selected(self) -> tuple[str, str]:
        """VNIs and ports as the variables or their files have them now. Raises SettingsError."""
        out = []
        for name, value, check, accepts in (
            ("SNIFFER_MIRROR_VNIS", self.mirror_vnis, VniSelection.parse, "VNIs, -16777215 to 16777215"),
            ("APP_PORTS", self.app_ports or self.app_port, values.ports_of, "TCP ports, 1 to 65535"),
        ):
            text = _text(name, value)
            if value and not text:
                none = "; 0 selects none" if name == "SNIFFER_MIRROR_VNIS" else ""
                raise SettingsError([f"{name}={value}: is empty, which would select everything{none}"])
            try:
                if text:
                    check(text)
            except ValueError:
                raise SettingsError([f"{name}={value}: holds other than {accepts}"]) from None
            out.append(text)
        return out[0], out[1]

    def followed(self) -> list[str]:
        """The files whose change is to take effect."""
        texts = (self.mirror_vnis, self.app_ports or self.app_port)
        return [text.removeprefix(values.FILE) for text in texts if text.startswith(values.FILE)]

    def devices(self) -> str:
        return self.net_device or self.vpc_mirror_device

    def sink_names(self) -> tuple[str, ...]:
        return self.sinks or ("resurface" if self.url else "lake",)

    def worker_count(self) -> int:
        return self.workers or len(os.sched_getaffinity(0))

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
    "K8S_INPUT",
    "SNIFFER_RF_MONITOR_ENABLED",
    "SNIFFER_DEBUG_ENABLED",
    "SNIFFER_DEBUG_VERBOSITY",
    "SNIFFER_DEBUG_EXPORT",
    "SNIFFER_DEBUG_DEAL_ID",
    "SNIFFER_DEBUG_HTTP_ENDPOINT",
    "USAGE_LOGGERS_MESSAGE_QUEUE_SIZE",
)


def _text(name: str, value: str) -> str:
    if not value.startswith(values.FILE):
        return value
    path = value.removeprefix(values.FILE)
    try:
        with Path(path).open("rb") as file:
            octets = file.read(LIST_LIMIT + 1)
        if len(octets) > LIST_LIMIT:
            raise SettingsError([f"{name}={value}: more than {LIST_LIMIT >> 20} MiB"])
        return ",".join(filter(None, _SEPARATOR.split(octets.decode("ascii"))))
    except UnicodeDecodeError:
        raise SettingsError([f"{name}={value}: holds other than numbers and separators"]) from None
    except OSError as error:
        raise SettingsError([f"{name}={value}: cannot be read: {error.strerror}"]) from None


def table() -> list[Row]:
    """Every variable, in the order of the README."""
    return rows(Settings.model_fields)


def load() -> Settings:
    """From the environment. Raises SettingsError."""
    known = {row.name: row for row in table()}
    lines = [
        unknown(name, [*known, *ELSEWHERE])
        for name in sorted(os.environ)
        if name.startswith(FAMILY) and name not in known and name not in ELSEWHERE
    ]
    try:
        off = {_GENEVE: values.OFF} if os.environ.get(_GENEVE) == "" else {}
        settings = Settings(**off)  # type: ignore[arg-type]  # by alias, as text
    except ValidationError as error:
        names = {str(fault["loc"][0]) for fault in error.errors()}
        lines += [f"{name}={_shown(name)}: accepts {known[name].accepts}" for name in sorted(names)]
        raise SettingsError(lines) from None
    if settings.vxlan_port == settings.geneve_port:
        lines.append(f"{_GENEVE}={settings.geneve_port}: SNIFFER_MIRROR_VXLANPORT is the same port")
    if lines:
        raise SettingsError(lines)
    return settings


def _shown(name: str) -> str:
    return "***" if name in _SECRETS else repr(os.environ.get(name, ""))
