"""The environment as settings: what is accepted, what is refused, and how it is said."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from appliance.model import NANOSECONDS
from appliance.pipeline import PipelineOptions
from appliance.settings import ELSEWHERE, SettingsError, load, table
from appliance.variables import Row

OURS = re.compile(r"SNIFFER_|USAGE_LOGGERS_|APP_PORT|DYNO$")


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if OURS.match(name):
            monkeypatch.delenv(name)


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        load()
    return error.value.lines


def options(monkeypatch: pytest.MonkeyPatch, **variables: str) -> PipelineOptions:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load().pipeline()


def test_without_variables_the_options_are_the_pipelines_own() -> None:
    assert load().pipeline() == PipelineOptions()


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("APP_PORTS", "80", "ports", frozenset({80})),
        ("APP_PORTS", " 80, 8080,1,65535 ", "ports", frozenset({1, 80, 8080, 65535})),
        ("APP_PORT", "80,8000,3000", "ports", frozenset({80, 8000, 3000})),
        ("USAGE_LOGGERS_BODY_LIMIT", "0", "body_limit", 0),
        ("USAGE_LOGGERS_BODY_LIMIT", "1099511627776", "body_limit", 1 << 40),
        ("SNIFFER_STREAM_BUFFER", "1024", "stream_buffer", 1024),
        ("SNIFFER_STREAM_MEMORY", "1gb", "stream_memory", 1 << 30),
        ("SNIFFER_EXCHANGE_MEMORY", "1 GiB", "exchange_memory", 1 << 30),
        ("SNIFFER_FLOW_IDLE_SECONDS", "1", "flow_idle", NANOSECONDS),
        ("SNIFFER_GAP_WAIT_SECONDS", "3600", "gap_wait", 3600 * NANOSECONDS),
        ("SNIFFER_MAX_FLOWS", "10000000", "max_flows", 10_000_000),
        ("SNIFFER_REORDER_SEGMENTS", "0", "reorder_segments", 0),
    ],
)
def test_each_variable_reaches_the_pipeline(
    name: str, value: str, field: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert getattr(options(monkeypatch, **{name: value}), field) == expected


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("4096", 4096),
        ("4k", 4096),
        ("4K", 4096),
        ("4kb", 4096),
        ("4 KiB", 4096),
        ("2mb", 2 << 20),
        ("2M", 2 << 20),
    ],
)
def test_sizes_have_units_of_1024(text: str, octets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options(monkeypatch, USAGE_LOGGERS_BODY_LIMIT=text).body_limit == octets


@pytest.mark.parametrize(
    ("ports", "port", "expected"),
    [("80", "443", {80}), ("", "443", {443}), (None, "443", {443}), ("", "", None), (None, None, None)],
)
def test_app_port_counts_where_app_ports_is_not_set_or_empty(
    ports: str | None, port: str | None, expected: set[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"APP_PORTS": ports, "APP_PORT": port}
    found = options(monkeypatch, **{name: text for name, text in given.items() if text is not None})
    assert found.ports == expected


def test_vnis_are_read_as_the_predecessor_does(monkeypatch: pytest.MonkeyPatch) -> None:
    vnis = options(monkeypatch, SNIFFER_MIRROR_VNIS="5 -6,\t7").vnis
    assert vnis is not None
    assert [vnis.selects(vni) for vni in (5, 6, 7, 8)] == [True, False, True, True]


def test_host_is_dyno_or_the_machines_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    assert load().host() == "box"
    monkeypatch.setenv("DYNO", "web.1")
    assert load().host() == "web.1"
    monkeypatch.delenv("DYNO")
    monkeypatch.setattr("socket.gethostname", lambda: "")
    assert load().host() == "unknown"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APP_PORTS", "0"),
        ("APP_PORTS", "65536"),
        ("APP_PORTS", "80,"),
        ("APP_PORTS", "80-90"),
        ("APP_PORTS", "80 8080"),
        ("APP_PORTS", "http"),
        ("APP_PORTS", "٨٠"),
        ("APP_PORTS", "9" * 5000),
        ("APP_PORT", "-1"),
        ("SNIFFER_MIRROR_VNIS", "1,x"),
        ("SNIFFER_MIRROR_VNIS", "16777216"),
        ("USAGE_LOGGERS_BODY_LIMIT", "-1"),
        ("USAGE_LOGGERS_BODY_LIMIT", "1.5mb"),
        ("USAGE_LOGGERS_BODY_LIMIT", "1099511627777"),
        ("USAGE_LOGGERS_BODY_LIMIT", "9" * 5000),
        ("SNIFFER_STREAM_BUFFER", "1023"),
        ("SNIFFER_STREAM_MEMORY", "lots"),
        ("SNIFFER_EXCHANGE_MEMORY", "0"),
        ("SNIFFER_FLOW_IDLE_SECONDS", "0"),
        ("SNIFFER_FLOW_IDLE_SECONDS", "86401"),
        ("SNIFFER_GAP_WAIT_SECONDS", "3601"),
        ("SNIFFER_GAP_WAIT_SECONDS", "ten"),
        ("SNIFFER_MAX_FLOWS", "0"),
        ("SNIFFER_MAX_FLOWS", "10000001"),
        ("SNIFFER_REORDER_SEGMENTS", "-1"),
        ("SNIFFER_REORDER_SEGMENTS", "100001"),
        ("DYNO", "a\nb"),
        ("SNIFFER_MIRROR_VXLANPORT", "4789,14789"),
        ("SNIFFER_SINKS", "resurface,s3"),
        ("SNIFFER_SINKS", "base"),
        ("SNIFFER_LAKE_DAYS", "-1"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_says_what_is_accepted(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepts = next(row.accepts for row in table() if row.name == name)
    assert refused(monkeypatch, **{name: value}) == [f"{name}={value!r}: accepts {accepts}"]


@pytest.mark.parametrize("name", [row.name for row in table()])
def test_octets_that_are_no_text_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = refused(monkeypatch, **{name: os.fsdecode(b"\xff\xfe")})
    assert len(lines) == 1
    shown = "***" if name.endswith("_URL") else "'\\udcff\\udcfe'"  # it may carry a password
    assert lines[0].startswith(f"{name}={shown}: accepts ")


@pytest.mark.parametrize("row", table(), ids=lambda row: row.name)
def test_the_examples_of_the_table_have_an_effect(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load()
    monkeypatch.setenv(row.name, row.example)
    assert load() != before


def test_ranges_of_the_table_are_those_of_the_fields() -> None:
    rows = {row.name: row for row in table()}
    assert rows["SNIFFER_FLOW_IDLE_SECONDS"].accepts == "1 to 86400 seconds"
    assert rows["SNIFFER_STREAM_BUFFER"].accepts.startswith("1 KiB to 1 TiB, in octets")
    assert rows["SNIFFER_STREAM_BUFFER"].default == "4 MiB"
    assert rows["USAGE_LOGGERS_BODY_LIMIT"].accepts.startswith("0 to 1 TiB, in octets")


def test_a_misspelt_variable_is_refused_with_the_name_that_was_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert refused(monkeypatch, SNIFFER_MAXFLOWS="1", SNIFFER_ZZZ="1") == [
        "SNIFFER_MAXFLOWS: no such variable; did you mean SNIFFER_MAX_FLOWS?",
        "SNIFFER_ZZZ: no such variable",
    ]


def test_every_fault_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = refused(monkeypatch, SNIFFER_ZZZ="1", APP_PORTS="x", SNIFFER_MAX_FLOWS="x")
    assert [line.partition("=")[0].partition(":")[0] for line in lines] == [
        "SNIFFER_ZZZ",
        "APP_PORTS",
        "SNIFFER_MAX_FLOWS",
    ]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_the_predecessor_reads_and_replay_does_not_is_accepted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert options(monkeypatch, **{name: "anything"}) == PipelineOptions()


def test_every_variable_of_the_predecessor_is_known(shared: Path) -> None:
    """Spec §2.4 and §4.2."""
    page = (shared / "spec" / "resurface-protocol.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    name = re.compile(r"`([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+|DYNO)`")
    names = {one for line in rows for one in name.findall(line.split(" | ")[0])}
    assert len(names) > 20
    assert names <= {row.name for row in table()} | set(ELSEWHERE)


def test_one_port_cannot_be_both(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(monkeypatch, SNIFFER_MIRROR_VXLANPORT="6081") == [
        "SNIFFER_MIRROR_GENEVEPORT=6081: SNIFFER_MIRROR_VXLANPORT is the same port"
    ]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("APP_PORTS", "80, 443\n8080,\n", "80,443,8080"),
        ("SNIFFER_MIRROR_VNIS", "\t5 , -6\n", "5,-6"),
    ],
)
def test_files_have_their_entries_on_lines_or_behind_commas(
    name: str, text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list").write_text(text)
    monkeypatch.setenv(name, f"file://{tmp_path}/list")
    assert expected in load().selected()


@pytest.mark.parametrize("text", ["", "\n", " , "])
@pytest.mark.parametrize("name", ["APP_PORTS", "SNIFFER_MIRROR_VNIS"])
def test_an_empty_file_does_not_select_everything(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``>`` empties a file before it writes it."""
    (tmp_path / "list").write_text(text)
    monkeypatch.setenv(name, f"file://{tmp_path}/list")
    with pytest.raises(SettingsError, match="is empty, which would select everything"):
        load().selected()


def test_without_sinks_named_a_database_or_a_lake_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().sink_names() == ("lake",)
    monkeypatch.setenv("USAGE_LOGGERS_URL", "https://db.example/message")
    assert load().sink_names() == ("resurface",)
    monkeypatch.setenv("SNIFFER_SINKS", " stdout, lake,stdout")
    assert load().sink_names() == ("stdout", "lake")


@pytest.mark.parametrize("url", ["http://bucket/x", "s3://B", "s3://bucket/a?b", "s3://KEY:SECRET@bucket/x"])
def test_what_is_no_lake_is_refused_without_its_secrets(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(monkeypatch, SNIFFER_LAKE_URL=url) == [
        "SNIFFER_LAKE_URL=***: accepts a folder, or `s3://bucket/prefix`"
    ]
