"""Rules and target before the start: what is refused, and with which cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.policy import RULES_LIMIT, PolicyError, obstacles, rules_from, rules_of_file
from appliance.rules.grammar import parse

DEBUG = parse("include debug")
STRICT = parse("")


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("", "USAGE_LOGGERS_URL: not set"),
        ("http://db.test:7701/message|10%", "sample 10"),
        ("ftp://db.test", "not an http or https URL"),
        ("noturl", "not an http or https URL"),
        ("http://", "not an http or https URL"),
        ("http://[::1", "not an http or https URL"),
        ("http://x:99999/", "not an http or https URL"),
    ],
)
def test_target_that_would_get_nothing_is_named_with_its_cure(url: str, cure: str) -> None:
    (line,) = obstacles(url, DEBUG)
    assert cure in line


def test_http_needs_the_rule_that_allows_it() -> None:
    assert obstacles("http://db.test:7701/message", DEBUG) == []
    assert obstacles("https://db.test/message", STRICT) == []
    (line,) = obstacles("HTTP://db.test:7701/message", STRICT)
    assert "add the rule allow_http_url to USAGE_LOGGERS_RULES, or use https" in line


def test_password_of_a_refused_url_is_not_shown() -> None:
    assert "s3cret" not in str(obstacles("ftp://user:s3cret@db.test|5", DEBUG))


def test_rules_of_a_file_bypass_the_escapes(tmp_path: Path) -> None:
    path = tmp_path / "rules.txt"
    path.write_text("/a/ replace /\\n/, /x/\ninclude debug")
    found, notes = rules_from(f"file://{path} ")
    assert [rule.verb for rule in found.rules] == ["replace", "allow_http_url", "copy_session_field"]
    assert notes == []


def test_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.txt"
    path.write_text("include debug\nnonsense")
    with pytest.raises(PolicyError, match=r"rules\.txt: line 2, column 1: invalid rule: nonsense"):
        rules_of_file(str(path))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"file:///etc/other", "a rules file cannot name another file"),
        (b"\xff", "not UTF-8"),
        (b"#" * (RULES_LIMIT + 1), "more than 1 MiB"),
    ],
)
def test_file_that_cannot_be_used(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.txt"
    path.write_bytes(content)
    with pytest.raises(PolicyError, match=why):
        rules_of_file(str(path))


@pytest.mark.parametrize("path", ["", "/nonexistent/x", "/", "a\0b"])
def test_path_that_is_no_file(path: str) -> None:
    with pytest.raises(PolicyError, match="failed to load rules: "):
        rules_from(f"file://{path}")


def test_quotes_around_the_value_are_left_out_and_said() -> None:
    found, notes = rules_from('"include debug"')
    assert len(found.rules) == 2
    assert notes == ["USAGE_LOGGERS_RULES: the quotes around the value were left out"]


@pytest.mark.parametrize(
    "url",
    [
        "http://a..b/message",
        "http://db host:7701/message",
        "http://db\\7701/message",
        f"http://{'a' * 64}.test/message",
        "http://.../",
        "http://%00/",
        "http://-a.test/",
        "https://${HOST}/message",
        "http://<host>/message",
        "http://€:p@h.test/",
        "http://[::1/",
    ],
)
def test_a_url_that_nothing_can_be_sent_to_stops_the_start(url: str) -> None:
    (line,) = obstacles(url, DEBUG)
    assert line.startswith("USAGE_LOGGERS_URL: not an http or https URL with a host")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]:7701", "[fe80::1%25eth0]", "bücher.test", "my_db", "a.b.", "1.test"]
)
def test_hosts_that_can_be_asked_for(host: str) -> None:
    assert obstacles(f"http://{host}/message", DEBUG) == []


@pytest.mark.parametrize("content", [None, "", "-----BEGIN PRIVATE KEY-----\n"])
def test_a_file_without_certificates_stops_the_start(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    (line,) = obstacles("https://db.test/message", STRICT, str(path))
    assert line.startswith(f"SSL_CERT_FILE={path}: ")
    assert obstacles("http://db.test/message", DEBUG, str(path)) == []
