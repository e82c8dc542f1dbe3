"""The header that a load balancer puts before a connection's first octet: PROXY protocol, versions 1 and 2.

Contract: ``proxy_header`` answers for the first octets of a connection: how many belong to the header,
0 where there is none, MORE while that is not to be told. It is skipped and counted (``proxy_bytes``);
the addresses in it are not used: the client of a call is the sender of its packets.

Source: "The PROXY protocol, versions 1 & 2" (haproxy.org), §2.1 and §2.2.
Bound: the caller waits for ``PREFIX_LIMIT`` octets at most.
"""

from __future__ import annotations

import re
from typing import Final

MORE: Final = -1

V1_LIMIT: Final = 107  # octets, §2.1
_V1 = re.compile(rb"PROXY (?:TCP4|TCP6|UNKNOWN)[\x20-\x7e]*\r\n")
_V1_BEGIN: Final = b"PROXY "
_V2_BEGIN: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_HEADER: Final = 16  # signature, version and command, family, length
_V2_VERSION: Final = 2


def proxy_header(prefix: bytes | bytearray) -> int:
    """Octets of the header at the beginning of ``prefix``, which is not empty; 0 or MORE."""
    if prefix[0] not in b"P\r":  # common case
        return 0
    if prefix.startswith(_V1_BEGIN[: len(prefix)]):
        return _version_1(prefix)
    return _version_2(prefix) if prefix.startswith(_V2_BEGIN[: len(prefix)]) else 0


def _version_1(prefix: bytes | bytearray) -> int:
    match = _V1.match(prefix, 0, V1_LIMIT)
    if match is not None:
        return match.end()
    return MORE if len(prefix) < V1_LIMIT and b"\n" not in prefix else 0


def _version_2(prefix: bytes | bytearray) -> int:
    if len(prefix) < _V2_HEADER:
        return MORE
    if prefix[12] >> 4 != _V2_VERSION:
        return 0
    size = _V2_HEADER + int.from_bytes(prefix[14:16])
    return size if len(prefix) >= size else MORE
