"""Where frames come from, and who takes them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from appliance import values
from appliance.fields.kinds import Fields, Ports, Size, Switch, Vnis
from appliance.variables import OCTETS, SECONDS, Doc


class CaptureFields(Fields):
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
