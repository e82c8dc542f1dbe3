"""What may leave, where it goes, and what waits meanwhile."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from appliance import values
from appliance.fields.kinds import Fields, Size
from appliance.variables import OCTETS, SECONDS, Doc


class ShippingFields(Fields):
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
