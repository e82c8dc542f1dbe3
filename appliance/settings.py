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
from typing import Final

from pydantic import ValidationError

from appliance import values
from appliance.fields.calls import CallFields
from appliance.fields.capture import CaptureFields
from appliance.fields.shipping import ShippingFields
from appliance.message import MessageOptions
from appliance.model import NANOSECONDS
from appliance.packet.vni import VniSelection
from appliance.pipeline import PipelineOptions
from appliance.variables import FAMILY, Row, rows, unknown

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


class Settings(CallFields, ShippingFields, CaptureFields):
    """All of them, the last class's first."""

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
