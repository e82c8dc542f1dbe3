"""The user's rules and target, checked before anything starts: what may leave, and whether it can.

Contract: ``rules_from`` reads ``USAGE_LOGGERS_RULES`` or raises PolicyError; ``obstacles`` names every reason
why nothing would reach the database, each with the rule or variable that cures it (specification §2.1).
The predecessor runs on in silence in these cases.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from appliance.rules.grammar import RuleError, RuleSet, parse
from appliance.rules.text import from_environment

VARIABLE: Final = "USAGE_LOGGERS_RULES"
RULES_LIMIT: Final = 1 << 20  # octets of a rules file
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_NEVER_IN_A_URL: Final = re.compile(r"[\s\\<>{}^`\x00-\x1f]")  # templates that were not filled in, too
_FILE: Final = "file://"
_LIMIT_CHARACTER: Final = "|"  # the predecessor reads a rate limit behind it


class PolicyError(ValueError):
    """Rules that cannot be used; the text names place and cure."""


def rules_from(value: str, name: str = VARIABLE) -> tuple[RuleSet, list[str]]:
    """The rules of the variable's value, and what the user should know of how it was read."""
    text, notes, source = written(value, name)
    return rules_of_text(text, source), notes


def written(value: str, name: str = VARIABLE) -> tuple[str, list[str], str]:
    """The text of the rules, what the user should know of how it was read, and where it is written."""
    text, quoted = from_environment(value)
    notes = [f"{name}: the quotes around the value were left out"] if quoted else []
    path = followed(value)
    return (text, notes, name) if path is None else (_read(path), notes, path)


def followed(value: str) -> str | None:
    """The file that the variable names, if it does."""
    text, _ = from_environment(value)
    return text.removeprefix(_FILE).strip() if text.startswith(_FILE) else None


def rules_of_file(path: str) -> RuleSet:
    return rules_of_text(_read(path), path)


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            octets = file.read(RULES_LIMIT + 1)
        if len(octets) > RULES_LIMIT:
            raise PolicyError(f"failed to load rules: {path}: more than {RULES_LIMIT >> 20} MiB")
        text = octets.decode()
    except UnicodeDecodeError:
        raise PolicyError(f"failed to load rules: {path}: not UTF-8") from None
    except (OSError, ValueError) as error:
        if isinstance(error, PolicyError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a path"
        raise PolicyError(f"failed to load rules: {path}: {reason}") from None
    return text


def rules_of_text(text: str, name: str) -> RuleSet:
    """``name``: where the text comes from, for messages."""
    if text.startswith(_FILE):
        raise PolicyError(f"{name}: failed to load rules: a rules file cannot name another file")
    try:
        return parse(text)
    except RuleError as error:
        raise PolicyError(f"{name}: {error}") from None


def _is_host(name: str) -> bool:
    """An address, or a name that can be asked for (RFC 1123 §2.1; underscores are common)."""
    try:
        return bool(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        pass
    try:
        labels = name.removesuffix(".").encode("idna").decode().split(".")
    except UnicodeError:
        return False
    return all(_LABEL.fullmatch(label) for label in labels)


def obstacles(url: str, rules: RuleSet, authority: str = "") -> list[str]:
    """Why nothing would be sent to ``url``; empty where nothing stands in the way.

    ``authority``: the file of certificates to verify by; empty: the system's.
    """
    if not url:
        return ["USAGE_LOGGERS_URL: not set; name the database, as in http://localhost:7701/message"]
    if _LIMIT_CHARACTER in url:
        return ["USAGE_LOGGERS_URL: a rate limit behind | is not supported; use the rule: sample 10"]
    try:
        parts = urlsplit(url)
        whole = (
            parts.scheme.lower() in {"http", "https"} and parts.port != 0 and _is_host(parts.hostname or "")
        )
        f"{parts.username}:{parts.password}".encode("latin-1")  # what basic authentication can carry
    except ValueError:
        whole = False
    if not whole or _NEVER_IN_A_URL.search(url):
        return ["USAGE_LOGGERS_URL: not an http or https URL with a host, as http://localhost:7701/message"]
    if parts.scheme.lower() == "http" and not rules.has("allow_http_url"):
        what = "USAGE_LOGGERS_URL: http is not encrypted and nothing would be sent"
        return [f"{what}; add the rule allow_http_url to {VARIABLE}, or use https"]
    return _certificates(authority) if authority and parts.scheme.lower() == "https" else []


def _certificates(path: str) -> list[str]:
    """Why no certificate could be verified with those of ``path``."""
    try:
        found = ssl.create_default_context(cafile=path).get_ca_certs()
    except OSError as error:  # SSLError is one
        return [f"SSL_CERT_FILE={path}: {error.strerror or 'no certificates in PEM form'}"]
    return [] if found else [f"SSL_CERT_FILE={path}: holds no certificate of an authority"]
