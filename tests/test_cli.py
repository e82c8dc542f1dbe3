"""The command as people run it: what comes out where, exit codes, and no traceback for bad input."""

from __future__ import annotations

import json
import os
import runpy
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from appliance.cli import main

COMMAND = [sys.executable, "-m", "appliance"]
CALLS = 10  # in the example capture
HEADER = 24  # octets before the first record of a pcap file


@pytest.fixture(scope="session")
def octets(root: Path) -> bytes:
    return runpy.run_path(str(root / "examples" / "make_capture.py"))["capture"]()  # type: ignore[no-any-return]


@pytest.fixture
def capture(octets: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "example.pcap"
    path.write_bytes(octets)
    return path


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SNIFFER_", "USAGE_LOGGERS_", "APP_PORT")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DYNO", "sniffer-1")


def run(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    argv = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=60, check=False)
    said = done.stderr.decode()
    assert "Traceback" not in said
    return done.returncode, done.stdout.decode(), said


def shell(line: str) -> tuple[int, str, str]:
    argv = ["bash", "-c", line.replace("APPLIANCE", shlex.join(COMMAND))]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    said = done.stderr.decode()
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    return done.returncode, done.stdout.decode(), said


# -- what comes out


def test_version_is_the_projects(root: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert run("--version") == (0, f"appliance {version}\n", "")


def test_messages_are_the_default(capture: Path) -> None:
    code, out, said = run("replay", capture)
    assert (code, said) == (0, "")
    messages = [dict(json.loads(line)) for line in out.splitlines()]
    assert len(messages) == CALLS
    assert all(one["host"] == "sniffer-1" for one in messages)
    assert run("replay", "--format", "messages", capture) == (0, out, "")


def test_every_format_shows_every_call(capture: Path) -> None:
    shown = {name: run("replay", "--format", name, capture)[1] for name in ("exchanges", "har", "table")}
    assert len([json.loads(line) for line in shown["exchanges"].splitlines()]) == CALLS
    assert len(json.loads(shown["har"])["log"]["entries"]) == CALLS
    assert len(shown["table"].splitlines()) == CALLS + 1


def test_output_goes_to_the_file_that_is_named(capture: Path, tmp_path: Path) -> None:
    target = tmp_path / "calls.har"
    assert run("replay", "--format", "har", "--output", target, capture) == (0, "", "")
    assert len(json.loads(target.read_bytes())["log"]["entries"]) == CALLS


def test_the_summary_goes_to_standard_error(capture: Path) -> None:
    code, out, said = run("replay", "--summary", capture)
    assert code == 0
    assert out == run("replay", capture)[1]
    assert "the ledger adds up" in said
    assert ["exchange_answered", str(CALLS)] in [line.split()[:2] for line in said.splitlines()]


def test_standard_input_is_a_file_like_any_other(capture: Path, octets: bytes) -> None:
    assert run("replay", "-", stdin=octets) == run("replay", capture)


def test_several_files_are_one_timeline(octets: bytes, tmp_path: Path) -> None:
    records, at = [], HEADER
    while at < len(octets):
        end = at + 16 + int.from_bytes(octets[at + 8 : at + 12], "little")
        records.append(octets[at:end])
        at = end
    for name, part in (("even", records[::2]), ("odd", records[1::2])):
        (tmp_path / name).write_bytes(octets[:HEADER] + b"".join(part))
    assert run("replay", tmp_path / "odd", tmp_path / "even")[1] == run("replay", "-", stdin=octets)[1]


def test_settings_come_from_the_environment(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORTS", "8080")
    assert len(run("replay", capture)[1].splitlines()) == 3
    monkeypatch.setenv("SNIFFER_MIRROR_VNIS", "1")
    monkeypatch.setenv("APP_PORTS", "")
    assert len(run("replay", capture)[1].splitlines()) == CALLS - 2


# -- files that are not what they should be


def test_a_file_cut_short_gives_what_is_before_the_cut_and_1(capture: Path, octets: bytes) -> None:
    capture.write_bytes(octets[:-5])
    code, out, said = run("replay", capture)
    assert code == 1
    assert len(out.splitlines()) == CALLS
    assert said.startswith(f"appliance: {capture}: record 90 at octet ")
    assert said.count("\n") == 1
    assert run("replay", "--allow-cut", capture) == (0, out, said)


@pytest.mark.parametrize("content", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x1f\x8b\x08", b"\xd4\xc3\xb2\xa1"])
def test_what_is_no_capture_is_one_line_and_1(content: bytes, capture: Path) -> None:
    capture.write_bytes(content)
    code, out, said = run("replay", capture)
    assert (code, out, said.count("\n")) == (1, "", 1)
    assert said.startswith(f"appliance: {capture}: ")


def test_no_capture_is_not_excused_by_allow_cut(capture: Path) -> None:
    capture.write_bytes(b"no capture at all, whatever its name says")
    assert run("replay", "--allow-cut", capture)[0] == 1


@pytest.mark.parametrize("name", ["missing.pcap", ".", "a" * 300, "example.pcap/x"])
def test_a_file_that_cannot_be_read_does_not_keep_the_others_from_being_read(
    name: str, capture: Path, tmp_path: Path
) -> None:
    code, out, said = run("replay", tmp_path / name, capture)
    assert code == 1
    assert len(out.splitlines()) == CALLS
    assert said.startswith(f"appliance: {tmp_path / name}: cannot be read: ")
    assert said.count("\n") == 1


def test_an_empty_archive_is_still_an_archive(capture: Path) -> None:
    capture.write_bytes(b"")
    assert json.loads(run("replay", "--format", "har", capture)[1])["log"]["entries"] == []


# -- usage and settings


@pytest.mark.parametrize(
    "arguments",
    [[], ["replay"], ["play", "x"], ["replay", "--format", "xml", "x"], ["replay", "--sum", "x"]],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: appliance" in capsys.readouterr().err


def test_bad_settings_are_2_before_anything_is_read(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORTS", "eighty")
    monkeypatch.setenv("SNIFFER_MAX_FLOW", "1")
    code, out, said = run("replay", capture)
    assert (code, out) == (2, "")
    assert said.splitlines() == [
        "appliance: SNIFFER_MAX_FLOW: no such variable; did you mean SNIFFER_MAX_FLOWS?",
        "appliance: APP_PORTS='eighty': accepts a comma list of TCP ports, 1 to 65535",
    ]


def test_rules_that_are_not_applied_are_not_passed_over(
    capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGE_LOGGERS_RULES", "include strict")
    code, out, said = run("replay", capture)
    assert (code, len(out.splitlines())) == (0, CALLS)
    assert said == "appliance: USAGE_LOGGERS_RULES: not applied yet: calls come out as captured\n"


def test_an_input_is_not_overwritten(capture: Path, octets: bytes) -> None:
    link = capture.with_name("link.pcap")
    link.symlink_to(capture)
    code, out, said = run("replay", "--output", link, capture)
    assert (code, out, said) == (2, "", f"appliance: --output {link}: is also an input\n")
    assert capture.read_bytes() == octets


# -- an output that takes no more


def test_an_output_that_cannot_be_opened_is_1(capture: Path, tmp_path: Path) -> None:
    target = tmp_path / "no" / "such" / "folder"
    code, _, said = run("replay", "--output", target, capture)
    assert (code, said) == (
        1,
        f"appliance: --output {target}: cannot be written: No such file or directory\n",
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("APPLIANCE replay {capture} >/dev/full", "standard output"),
        ("APPLIANCE replay --output /dev/full {capture}", "--output /dev/full"),
    ],
)
def test_a_full_disk_is_one_line_and_1(line: str, where: str, capture: Path) -> None:
    code, _, said = shell(line.format(capture=capture))
    assert (code, said) == (1, f"appliance: {where}: cannot be written: No space left on device\n")


def test_a_reader_that_has_seen_enough_ends_it_quietly(octets: bytes, tmp_path: Path) -> None:
    large = tmp_path / "large.pcap"
    large.write_bytes(octets[:HEADER] + octets[HEADER:] * 100)
    code, out, said = shell(f"set -o pipefail; APPLIANCE replay {large} | head -n 1")
    assert (code, said) == (0, "")
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize(
    ("closed", "code"), [("<&-", 0), (">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0)], ids=str
)
def test_closed_standard_streams_are_empty_ones(closed: str, code: int, capture: Path) -> None:
    target = capture.with_name("out")
    assert shell(f"APPLIANCE replay --summary --output {target} {capture} {closed}")[0] == code
    assert len([json.loads(line) for line in target.read_text().splitlines()]) == CALLS  # nothing else in it


def test_standard_input_that_is_closed_is_no_capture() -> None:
    assert shell("APPLIANCE replay - <&-") == (1, "", "appliance: -: is no capture file: it is empty\n")


# -- Ctrl-C


def test_ctrl_c_ends_with_what_was_done_and_130(octets: bytes) -> None:
    # SIGINT may be ignored where the tests run in the background, and children inherit that.
    child = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from appliance.cli import run; import sys; sys.argv[0] = 'appliance'; run()"
    )
    argv = [sys.executable, "-c", child, "replay", "--summary", "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        # More than a pipe and one read hold: once it is written, the child reads.
        process.stdin.write(octets[:HEADER] + octets[HEADER:] * 30)
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted" in said
    assert b"the ledger adds up" in said
    messages = [json.loads(line) for line in out.splitlines()]
    assert len(messages) >= CALLS


# -- progress


def on_terminal(*options: str, stdin: Path) -> bytes:
    """What appears on a terminal that has standard error, while standard output goes to a file."""
    controller, terminal = os.openpty()
    with stdin.open("rb") as source:
        argv = [*COMMAND, "replay", *options, "-"]
        env = {**os.environ, "TERM": "xterm"}
        subprocess.run(argv, stdin=source, stdout=subprocess.DEVNULL, stderr=terminal, env=env, check=True)
    os.write(terminal, b"END")  # so that reading never waits
    shown = b""
    while not shown.endswith(b"END"):
        shown += os.read(controller, 65536)
    os.close(controller)
    os.close(terminal)
    return shown.removesuffix(b"END")


def test_a_progress_bar_is_shown_on_a_terminal_and_removed_again(capture: Path) -> None:
    shown = on_terminal(stdin=capture)
    assert b"kB" in shown
    assert shown.rstrip().endswith(b"\x1b[2K")  # the line is empty again


def test_no_progress_bar_where_it_is_not_wanted(capture: Path) -> None:
    assert on_terminal("--no-progress", stdin=capture) == b""


def test_no_progress_bar_in_a_file(capture: Path) -> None:
    assert run("replay", "-", stdin=capture.read_bytes())[2] == ""
