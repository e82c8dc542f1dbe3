"""What may be wrong with an exchange: one vocabulary, used wherever an exchange is shown.

A flaw is ``name`` or ``name:octets``. A name that concerns one message carries ``request-`` or
``response-`` in front. Flaws are added once and in the order in which they were noticed.
The table is the documentation: docs/flaws.md is generated from it (``make docs``).
"""

from __future__ import annotations

from typing import Final

SIDES: Final = ("request-", "response-")

MESSAGE_FLAWS: Final[dict[str, str]] = {
    # octets that are missing
    "gap": "octets of the message were not captured; how many, where known",
    "truncated": "packets of the message were cut by the capture (snap length, MTU, PacketLength)",
    "head-cut": "the head is not whole: fields may be missing, the body is unknown",
    "unfinished-fin": "the connection was closed before the message was whole; octets that lack, if known",
    "unfinished-rst": "the connection was reset before the message was whole",
    "unfinished-idle": "the connection fell silent before the message was whole",
    "unfinished-reused": "another connection took its place before the message was whole",
    "unfinished-evicted": "the connection was given up to stay within the limits",
    "unfinished-shutdown": "the capture ended before the message was whole",
    "over-limit": "octets beyond USAGE_LOGGERS_BODY_LIMIT that were counted and not kept",
    "over-memory": "octets that were counted and not kept to stay within SNIFFER_EXCHANGE_MEMORY",
    # content coding
    "coding-damaged": "a content coding is damaged or cut: what could be read is there",
    "coding-unknown": "a content coding that is not known, or too many: the body is as it was sent",
    # framing that two parsers may read differently (RFC 9112 §6.3, §11.2)
    "te-and-cl": "Transfer-Encoding and Content-Length: the former counts",
    "te-in-http10": "Transfer-Encoding in an HTTP/1.0 message",
    "te-not-chunked": "the last transfer coding is not chunked: the end of the message is not defined",
    "te-malformed": "Transfer-Encoding names chunked twice, or something that is no coding",
    "cl-repeated": "several equal Content-Length values",
    "cl-conflict": "different Content-Length values: the end of the message is not defined",
    "cl-invalid": "Content-Length is not a number: the end of the message is not defined",
    "chunk-malformed": "chunked coding is broken: the rest of the message is unknown",
    "trailer-too-large": "the trailer section exceeds the limit",
    "line-evicted": "a chunk or trailer line was given up: too many were unfinished on all connections",
    "no-body-expected": "a length in a message that has no body by definition is ignored",
    # heads that the grammar does not allow
    "bare-lf": "lines end with LF alone",
    "obs-fold": "a field value goes on in the next line",
    "start-line": "the start line is not as the grammar has it",
    "field-malformed": "a field line without colon, or with a name that is no token",
    "field-space": "white space before the colon of a field",
    "field-control": "control characters in a field value",
    "version": "a version other than HTTP/1.0 and HTTP/1.1",
}

EXCHANGE_FLAWS: Final[dict[str, str]] = {
    "unanswered-fin": "no response was captured before the connection was closed",
    "unanswered-rst": "no response was captured before the connection was reset",
    "unanswered-idle": "no response was captured before the connection fell silent",
    "unanswered-reused": "no response was captured before another connection took its place",
    "unanswered-evicted": "the connection was given up before a response was captured",
    "unanswered-shutdown": "the capture ended before a response",
    "unanswered-gap": "octets were not captured: the response was among them, or nothing proves which it is",
    "unanswered-limit": "too many requests were waiting for their responses",
    "orphan": "a response whose request is not in the capture, is not known, or had to be given up",
    "resynchronised": "found again after a gap by what the other side had acknowledged",
    "evicted": "given up unfinished to stay within SNIFFER_EXCHANGE_MEMORY",
}


def flaw(kind: int, name: str, octets: int = -1) -> str:
    """``kind`` is REQUEST or RESPONSE; ``octets`` below 0: not known."""
    if name not in MESSAGE_FLAWS:
        raise KeyError(name)
    text = SIDES[kind] + name
    return text if octets < 0 else f"{text}:{octets}"
