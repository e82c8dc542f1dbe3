"""The command as people run it: what comes out where, exit codes, and no traceback for bad input."""

from __future__ import annotations

import asyncio
import json
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from appliance.cli import main
from examples.resurface import Resurface
from tests.support import tcp

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
    accepts = "a comma list of TCP ports, 1 to 65535, or `file:///path`, which is followed"
    code, out, said = run("replay", capture)
    assert (code, out) == (2, "")
    assert said.splitlines() == [
        "appliance: SNIFFER_MAX_FLOW: no such variable; did you mean SNIFFER_MAX_FLOWS?",
        f"appliance: APP_PORTS='eighty': accepts {accepts}",
    ]


def test_without_rules_the_strict_set_applies(capture: Path) -> None:
    code, out, said = run("replay", capture)
    assert (code, len(out.splitlines()), said) == (0, CALLS, "")
    keys = {key for line in out.splitlines() for key, _ in json.loads(line)}
    assert not [key for key in keys if "body" in key or "param" in key or "cookie" in key]


def test_rules_that_cannot_be_used_stop_the_start(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAGE_LOGGERS_RULES", r"include debug\n/a/ stopp")
    expected = (
        "appliance: USAGE_LOGGERS_RULES: line 2, column 5: invalid rule: /a/ stopp; did you mean stop?\n"
    )
    for command in (("replay", capture), ("rules", "check"), ("rules", "preview", capture)):
        assert run(*command) == (2, "", expected)


def test_rules_are_checked_from_a_file_standard_input_and_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rules.txt"
    path.write_text("include debug\n# note\n/a/ stop\n")
    listed = "   1  allow_http_url\n   1  copy_session_field /.*/\n   3  /a/ stop\n3 rules\n"
    assert run("rules", "check", path) == (0, listed, "")
    assert run("rules", "check", "-", stdin=path.read_bytes()) == (0, listed, "")
    monkeypatch.setenv("USAGE_LOGGERS_RULES", f"file://{path}")
    assert run("rules", "check") == (0, listed, "")
    code, _, said = run("rules", "check", "-", stdin=b"\xff")
    assert (code, said) == (2, "appliance: standard input: not UTF-8\n")


def test_rules_are_previewed(capture: Path, tmp_path: Path) -> None:
    path = tmp_path / "rules.txt"
    path.write_text("/request_body/ remove")
    code, out, said = run("rules", "preview", "--rules", path, "--calls", 1, capture)
    assert (code, said) == (0, "")
    assert "    2       2     1  /request_body/ remove\n" in out
    assert f"{CALLS} calls, {CALLS} would leave" in out
    assert "- request_body: {" in out
    assert run("rules", "preview", "--rules", "/request_body/ remove", "--calls", 1, capture)[1] == out


@pytest.fixture
def database() -> Iterator[tuple[Resurface, str]]:
    """A stand-in on a port of its own, and its URL."""
    server = Resurface()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def begin() -> tuple[web.AppRunner, int]:
        runner = web.AppRunner(server.application(), shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, runner.addresses[0][1]

    runner, port = asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
    yield server, f"http://127.0.0.1:{port}/message"
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.mark.parametrize("rules", ["include debug", r"include debug\nskip_compression"])
def test_capture_is_sent(
    rules: str, capture: Path, database: tuple[Resurface, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = database
    monkeypatch.setenv("USAGE_LOGGERS_RULES", rules)
    monkeypatch.setenv("USAGE_LOGGERS_URL", url)
    server.failures = [(503, {})]
    code, out, said = run("replay", "--sink", "resurface", "--summary", capture)
    assert (code, out) == (0, "")
    assert said.startswith("appliance: resurface: status 503: will be sent again\n")
    assert re.search(rf"message_delivered +{CALLS} calls", said)
    assert said.endswith("the ledger adds up\n")
    printed = run("replay", capture)[1]
    assert [[list(pair) for pair in one] for one in server.messages] == list(
        map(json.loads, printed.splitlines())
    )
    assert {head.get("Content-Encoding") for head in server.requests} == {
        None if "skip" in rules else "deflated"
    }
    assert server.faults == []


def test_calls_that_are_refused_or_not_sent_in_time_are_an_error(
    capture: Path, database: tuple[Resurface, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = database
    monkeypatch.setenv("USAGE_LOGGERS_RULES", "include debug")
    monkeypatch.setenv("USAGE_LOGGERS_URL", url)
    server.failures = [(404, {})]
    last = f"appliance: not all calls were delivered: message_rejected {CALLS}\n"
    expected = "appliance: resurface: status 404: refused, not sent again\n" + last
    assert run("replay", "--sink", "resurface", capture) == (1, "", expected)
    monkeypatch.setenv("USAGE_LOGGERS_URL", "http://127.0.0.1:1/message")
    code, _, said = run("replay", "--sink", "resurface", "--drain", "0", capture)
    last = f"appliance: not all calls were delivered: message_undelivered {CALLS}"
    assert (code, said.splitlines()[-1]) == (1, last)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"USAGE_LOGGERS_DISABLE": "true"}, "nothing is sent: USAGE_LOGGERS_DISABLE is set"),
        (
            {"USAGE_LOGGERS_RULES": "include debug skip_submission"},
            "nothing is sent: the rule skip_submission is set",
        ),
    ],
)
def test_what_is_not_to_be_sent_is_withheld_and_said(
    variables: dict[str, str], said: str, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGE_LOGGERS_URL", "http://127.0.0.1:1/message")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run("replay", "--sink", "resurface", capture) == (0, "", f"appliance: {said}\n")


@pytest.mark.parametrize("url", ["", "http://db.test:7701/message", "ftp://user:s3cret@db.test"])
def test_target_that_would_get_nothing_stops_the_start(
    url: str, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGE_LOGGERS_URL", url)
    code, out, said = run("replay", "--sink", "resurface", capture)
    assert (code, out) == (2, "")
    assert said.startswith("appliance: USAGE_LOGGERS_URL: ")
    assert "s3cret" not in said


@pytest.mark.parametrize("rules", ["include debug", r"include debug\nskip_compression"])
def test_interrupt_ends_the_wait_for_a_database_that_is_gone(
    rules: str, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGE_LOGGERS_URL", "http://127.0.0.1:1/message")
    monkeypatch.setenv("USAGE_LOGGERS_RULES", rules)
    argv = [*COMMAND, "replay", "--sink", "resurface", "--summary", str(capture)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as command:
        assert command.stderr is not None
        said = command.stderr.readline()
        assert "Connection refused" in said
        command.send_signal(signal.SIGINT)
        while "ask again" not in said:
            said += command.stderr.readline()
        command.send_signal(signal.SIGINT)
        said += command.stderr.read()
    assert command.returncode == 130
    assert "Traceback" not in said
    assert "destroyed" not in said
    assert re.search(rf"message_undelivered +{CALLS} calls", said)
    assert said.endswith("the ledger adds up\n")


def test_stop_sends_what_was_read_to_a_database_that_takes_it(
    capture: Path, monkeypatch: pytest.MonkeyPatch, database: tuple[Resurface, str]
) -> None:
    """A pipe that stays open: SIGTERM ends the reading, and what was read is delivered."""
    server, url = database
    monkeypatch.setenv("USAGE_LOGGERS_URL", url)
    monkeypatch.setenv("USAGE_LOGGERS_RULES", "include debug\nallow_http_url")
    argv = [*COMMAND, "replay", "--sink", "resurface", "--summary", "-"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdin is not None
        assert command.stderr is not None
        command.stdin.write(capture.read_bytes())
        command.stdin.flush()
        until = time.monotonic() + 20
        while len(server.messages) < CALLS - 2 and time.monotonic() < until:  # two wait for their end
            time.sleep(0.01)
        assert len(server.messages) >= CALLS - 2  # a bundle leaves after a second, whatever the pipe does
        command.send_signal(signal.SIGTERM)
        said = command.stderr.read().decode()
    assert command.returncode == 130
    assert re.search(rf"message_delivered +{CALLS} calls", said), said
    assert len(server.messages) == CALLS


def test_sending_and_printing_exclude_each_other(capture: Path) -> None:
    said = "appliance: --sink sends; --format and --output print: use one of them\n"
    assert run("replay", "--sink", "resurface", "--format", "har", capture) == (2, "", said)


def test_what_the_strict_set_removes_is_in_nothing_that_is_written(
    tmp_path: Path, database: tuple[Resurface, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output, uploads and standard error, of a capture with the same secret in every place."""
    secret = b"s3cr3t-of-the-user"
    talk = tcp.Conversation().handshake()
    body = b'{"password": "%s"}' % secret
    talk.ask(
        b"POST /login?token=%s HTTP/1.1\r\nHost: x\r\nCookie: sid=%s\r\nAuthorization: Bearer %s\r\n"
        b"Content-Length: %d\r\n\r\n" % (secret, secret, secret, len(body)) + body
    )
    talk.answer(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=%s\r\nX-Key: %s\r\nContent-Length: %d\r\n\r\n"
        % (secret, secret, len(body))
        + body
    )
    path = tmp_path / "secret.pcap"
    path.write_bytes(tcp.capture(talk.out))
    server, url = database
    monkeypatch.setenv("USAGE_LOGGERS_URL", url)
    monkeypatch.setenv("USAGE_LOGGERS_RULES", r"include strict\nallow_http_url")
    server.failures = [(503, {}), (429, {"Retry-After": "0"})]
    printed = run("replay", "--summary", path)
    sent = run("replay", "--sink", "resurface", "--summary", path)
    assert (printed[0], sent[0]) == (0, 0)
    assert ("request_url", "http://x/login") in server.messages[0]
    everything = repr((printed, sent, server.messages, server.requests))
    assert secret.decode() not in everything
    monkeypatch.setenv("USAGE_LOGGERS_RULES", "include debug")
    assert run("replay", path)[1].count(secret.decode()) >= 7, "the test would find it"


def test_standard_input_is_not_overwritten(capture: Path, octets: bytes) -> None:
    code, out, said = shell(f"APPLIANCE replay --output {capture} - <{capture}")
    assert (code, out, said) == (2, "", f"appliance: --output {capture}: is also an input\n")
    assert capture.read_bytes() == octets


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


def test_what_replay_cannot_send_in_time_waits_for_the_next_replay(
    capture: Path, database: tuple[Resurface, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, url = database
    monkeypatch.setenv("USAGE_LOGGERS_RULES", "include debug\nallow_http_url")
    monkeypatch.setenv("SNIFFER_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("USAGE_LOGGERS_URL", "http://127.0.0.1:1/message")
    code, _, said = run("replay", "--sink", "resurface", "--drain", "0.2", capture)
    assert (code, said.splitlines()[-1]) == (
        1,
        f"appliance: not all calls were delivered: message_spooled {CALLS}",
    )
    monkeypatch.setenv("USAGE_LOGGERS_URL", url)
    code, _, said = run("replay", "--sink", "resurface", "--summary", capture)
    assert (code, len(server.messages)) == (0, 2 * CALLS)
    assert re.search(rf"message_restored +{CALLS} calls", said)
    assert said.endswith("the ledger adds up\n")


def test_what_a_spool_has_no_room_for_is_an_error_of_replay(
    capture: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("USAGE_LOGGERS_RULES", "include debug\nallow_http_url")
    monkeypatch.setenv("USAGE_LOGGERS_URL", "http://127.0.0.1:1/message")
    monkeypatch.setenv("SNIFFER_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setattr("appliance.ship.spool._charge", lambda _: 1 << 40)
    assert main(["replay", "--sink", "resurface", "--drain", "0", str(capture)]) == 1


def test_replay_sends_to_several_sinks(
    capture: Path, database: tuple[Resurface, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, url = database
    monkeypatch.setenv("USAGE_LOGGERS_RULES", "include debug\nallow_http_url")
    monkeypatch.setenv("USAGE_LOGGERS_URL", url)
    monkeypatch.setenv("SNIFFER_LAKE_URL", str(tmp_path / "lake"))
    code, out, said = run("replay", "--sink", "resurface,lake,stdout", "--summary", capture)
    assert (code, len(server.messages), len(out.splitlines())) == (0, CALLS, CALLS)
    assert len(list((tmp_path / "lake").glob("date=*/hour=*/*.parquet"))) > 0
    assert said.endswith("the ledger adds up\n")
    assert run("replay", "--sink", "resurface,x", capture)[0] == 2


def test_a_lake_that_cannot_be_written_stops_the_start(
    capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNIFFER_LAKE_URL", "/proc/nowhere")
    expected = "appliance: SNIFFER_LAKE_URL=/proc/nowhere: cannot be written: No such file or directory\n"
    assert run("replay", "--sink", "lake", capture) == (2, "", expected)


@pytest.mark.parametrize("early", [signal.SIGHUP, signal.SIGUSR1])
def test_signals_that_come_before_it_listens_do_not_end_it(
    early: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("SNIFFER_ENGINE", "vxlan")
    monkeypatch.setenv("SNIFFER_MIRROR_VXLANPORT", str(port))
    monkeypatch.setenv("SNIFFER_MIRROR_GENEVEPORT", "off")
    monkeypatch.setenv("SNIFFER_WORKERS", "1")
    monkeypatch.setenv("SNIFFER_SINKS", "stdout")
    with subprocess.Popen([*COMMAND, "run"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as one:
        assert one.stderr is not None
        stat = Path(f"/proc/{one.pid}/status")
        until = time.monotonic() + 10
        ignored = 0
        while not ignored >> (early - 1) & 1 and time.monotonic() < until:
            ignored = int(
                next(x for x in stat.read_text().splitlines() if x.startswith("SigIgn")).split()[1], 16
            )
        one.send_signal(early)
        assert b"workers: 1" in one.stderr.readline()
        time.sleep(0.2)
        one.send_signal(signal.SIGTERM)
        one.stderr.read()
        assert one.wait(10) == 0
