"""Texts of variables as values: each function takes what the environment has, or refuses it.

Contract: ValueError where the text is not accepted, without the text in it: it need not be UTF-8, and may be
a secret. What is no text (a default) is returned as it is.
"""

from __future__ import annotations

import re
from typing import Final

from appliance import plugin
from appliance.message import ANNOTATIONS
from appliance.packet.vni import VniSelection

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE = re.compile(r"(\d{1,15})\s*([kmg]?)i?b?", re.IGNORECASE | re.ASCII)
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](?:/[^\s?#]*)?", re.ASCII)  # as S3 has them
_DIGITS = re.compile(r"\d{1,15}", re.ASCII)
_PORT_MAX: Final = 65_535
FILE: Final = "file://"
OFF: Final = "off"
ENGINES: Final = {
    "vxlan": "mirror",
    "mirror": "mirror",
    "live": "live",
    "libpcap": "live",
    "af_packet": "live",
    "raw_socket": "live",
    "k8s": "k8s",
    "pcap_file": "pcap_file",
}
_TRUE: Final = ("1", "t", "T", "true", "True", "TRUE")
_FALSE: Final = ("0", "f", "F", "false", "False", "FALSE")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}", re.ASCII)


def ports_of(text: str) -> frozenset[int]:
    """Separated by commas. ValueError where an entry is no port."""
    ports = set()
    for item in text.split(","):
        entry = item.strip()
        if not (_DIGITS.fullmatch(entry) and 0 < int(entry) <= _PORT_MAX):
            raise ValueError("not a port")  # not the text itself: it need not be UTF-8
        ports.add(int(entry))
    return frozenset(ports)


def ports(value: object) -> object:
    if isinstance(value, str) and value and not value.startswith(FILE):
        ports_of(value)
    return name(value)


def port(value: object) -> object:
    if not isinstance(value, str):
        return value
    (one,) = ports_of(value)  # ValueError: several
    return one


def optional_port(value: object) -> object:
    return None if value == OFF else port(value)


def vnis(value: object) -> object:
    if isinstance(value, str) and not value.startswith(FILE):
        VniSelection.parse(value)
    return name(value) if isinstance(value, str) and value.startswith(FILE) else value


def engine(value: object) -> object:
    if isinstance(value, str) and value not in ENGINES:
        raise ValueError("no such engine")
    return ENGINES[value] if isinstance(value, str) else value


def sink_names() -> list[str]:
    return [found for found in plugin.names("appliance.sinks") if found != "base"]


def sinks(value: object) -> object:
    return sinks_of(value) if isinstance(value, str) else value


def sinks_of(text: str) -> tuple[str, ...]:
    """Names by comma, each once, in their order. ValueError where one is no sink."""
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if not set(names) <= {*sink_names()}:
        raise ValueError("no such sink")
    return names


def place(value: object) -> object:
    """A folder, file:///folder, or s3://bucket/prefix."""
    if not isinstance(value, str) or "://" not in value or value.startswith(FILE):
        return name(value)
    if not _BUCKET.fullmatch(value):
        raise ValueError("neither a folder nor a bucket")
    return value


def size(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("not a size")  # not the text itself: it need not be UTF-8
    return int(match[1]) * _UNITS[match[2].lower()]


def name(value: object) -> object:
    if isinstance(value, str) and not value.isprintable():  # nor octets that are not UTF-8
        raise ValueError("not a name")
    return value


def flag(value: object) -> object:
    """As Go reads a boolean; the predecessor takes anything else for false, and sends."""
    if not isinstance(value, str):
        return value
    if value not in {*_TRUE, *_FALSE}:
        raise ValueError("neither true nor false")
    return value in _TRUE


def custom_fields(value: object) -> object:
    if not isinstance(value, str):
        return value
    wanted = frozenset(word.strip() for word in value.split(",")) - {"", "none"}
    if not wanted <= {*ANNOTATIONS}:
        raise ValueError("not an annotation")
    return wanted


def field_name(value: object) -> object:
    if isinstance(value, str) and value and not _TOKEN.fullmatch(value):
        raise ValueError("not the name of a header field")
    return value.lower() if isinstance(value, str) else value


def rules(value: object) -> object:
    if isinstance(value, str):
        value.encode()  # UnicodeEncodeError, a ValueError: octets that are not UTF-8
    return value
