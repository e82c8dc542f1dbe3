"""The command line: reads what is asked, leaves the work to service.py.

Exit codes are service.py's. Bad input never ends in a traceback.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn

from appliance import daemon, plugin, values
from appliance.outlet import Refusal, rules, say
from appliance.policy import PolicyError, rules_from, rules_of_file, rules_of_text
from appliance.service import (
    INCOMPLETE,
    INTERRUPTED,
    OK,
    USAGE,
    Replay,
    preview,
    release,
    replay,
)
from appliance.settings import Settings, SettingsError, load
from appliance.sources.base import CaptureError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # it has no public name

_WIDTH: Final = 160  # of a table that goes to a file
_FORMAT: Final = "messages"
_FOREVER: Final = 1e6  # seconds
_FIRST_FREE: Final = 3  # file descriptors 0 to 2 are the standard streams


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        settings = load()
    except SettingsError as error:
        for line in error.lines:
            say(line)
        return USAGE
    for line in settings.warnings():
        say(line)
    try:
        return int(arguments.run(settings, arguments))
    except (Refusal, PolicyError, SettingsError, CaptureError) as error:
        for line in str(error).split("\n"):
            say(line)
        return USAGE
    except BrokenPipeError:  # `| head` has seen enough
        _forget_output()
        return OK
    except OSError as error:
        _forget_output()
        path = getattr(arguments, "output", "-")
        where = "standard output" if path == "-" else f"--output {path}"
        say(f"{where}: cannot be written: {error.strerror or error}")
        return INCOMPLETE
    except KeyboardInterrupt:
        return INTERRUPTED


def _replay(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.sinks and (arguments.format or arguments.output != "-"):
        say("--sink sends; --format and --output print: use one of them")
        return USAGE
    if any(_same(arguments.output, path) for path in arguments.files):
        say(f"--output {arguments.output}: is also an input")
        return USAGE
    with ExitStack() as stack:
        return replay(settings, _request(arguments, _output(arguments.output, stack)))


def _run(settings: Settings, arguments: argparse.Namespace) -> int:
    return daemon.run(settings, summary=arguments.summary)


def _check_rules(settings: Settings, arguments: argparse.Namespace) -> int:
    """``rules check``: of a file, of standard input, or of the variable."""
    if arguments.file is None:
        found = rules(settings)
    elif arguments.file == "-":
        try:
            found = rules_of_text(sys.stdin.buffer.read().decode(), "standard input")
        except UnicodeDecodeError:
            raise PolicyError("standard input: not UTF-8") from None
    else:
        found = rules_of_file(arguments.file)
    for rule in found.rules:
        sys.stdout.write(f"{rule.number:4}  {rule.text}\n")
    sys.stdout.write(f"{len(found.rules)} rules\n")
    return OK


def _preview_rules(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.rules is None:
        found = rules(settings)
    elif Path(arguments.rules).is_file():
        found = rules_of_file(arguments.rules)
    else:
        found, notes = rules_from(arguments.rules, "--rules")
        for note in notes:
            say(note)
    return preview(settings, found, arguments.files, arguments.calls)


def _same(output: str, path: str) -> bool:
    """Writing would destroy what is to be read."""
    try:
        if output == "-" or not Path(output).is_file():
            return False
        if path == "-":
            return os.path.samestat(Path(output).stat(), os.fstat(0))
        return Path(output).samefile(path)
    except OSError:  # no such file yet, or cannot be read: said when it is opened
        return False


def _forget_output() -> None:
    """What is still buffered has nowhere to go; without this the interpreter tries again as it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _request(arguments: argparse.Namespace, output: BinaryIO) -> Replay:
    on_terminal = output is sys.stdout.buffer and sys.stdout.isatty()
    return Replay(
        files=arguments.files,
        format=arguments.format or _FORMAT,
        sinks=arguments.sinks,
        drain=arguments.drain,
        output=output,
        summary=arguments.summary,
        allow_cut=arguments.allow_cut,
        progress=sys.stderr.isatty() and not on_terminal and not arguments.no_progress,
        width=shutil.get_terminal_size().columns if on_terminal else _WIDTH,
    )


def _output(path: str, stack: ExitStack) -> BinaryIO:
    return sys.stdout.buffer if path == "-" else stack.enter_context(Path(path).open("wb"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="appliance",
        description="VPC Traffic Mirroring target that turns packets into whole API calls.",
        allow_abbrev=False,  # an option that comes later must not change what a script means
    )
    parser.add_argument("--version", action="version", version=f"appliance {release()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    _add_replay(commands)
    _add_rules(commands)
    return parser


def _add_run(commands: Commands) -> None:
    one = commands.add_parser(
        "run",
        help="capture and send, until stopped",
        description="Capture by SNIFFER_ENGINE and send to SNIFFER_SINKS. SIGTERM or Ctrl-C stops in order; "
        "SIGHUP reads VNIs, ports and rules anew; SIGUSR1 prints the ledger.",
        allow_abbrev=False,
        epilog="Exit codes: 0 stopped, and all was delivered or is in the spool; 1 not all was; "
        "2 usage, settings, rules or no capture; 3 the ledger does not add up (a defect, please report it).",
    )
    one.add_argument("--summary", action="store_true", help="print the ledger to standard error at the end")
    one.set_defaults(run=_run)


def _add_replay(commands: Commands) -> None:
    one = commands.add_parser(
        "replay",
        help="capture files in, API calls out",
        description="Turn capture files (pcap, pcapng, gzip of either) into API calls, in capture time.",
        allow_abbrev=False,
        epilog="Exit codes: 0 done; 1 a file was cut short or is no capture, or not all could be written or "
        "delivered; 2 usage, settings or rules; "
        "3 the ledger does not add up (a defect, please report it); 130 interrupted.",
    )
    one.add_argument(
        "files", nargs="+", metavar="FILE", help='capture files, one timeline; "-" is standard input'
    )
    formats = plugin.names("appliance.formats")
    one.add_argument("--format", choices=formats, help=f"default: {_FORMAT}")
    one.add_argument(
        "--sink",
        dest="sinks",
        type=values.sinks_of,
        default=(),
        metavar="NAMES",
        help=f"send instead of printing: {', '.join(values.sink_names())}, or several by comma",
    )
    one.add_argument(
        "--drain",
        type=_seconds,
        metavar="SECONDS",
        help="how long to wait, at the end, for what is not sent yet; default: until it is",
    )
    one.add_argument("--output", default="-", metavar="PATH", help="instead of standard output")
    one.add_argument("--summary", action="store_true", help="print the ledger to standard error")
    one.add_argument(
        "--allow-cut", action="store_true", help="a file that ends in the middle of a record is no error"
    )
    one.add_argument("--no-progress", action="store_true", help="no progress bar for large files")
    one.set_defaults(run=_replay)


def _add_rules(commands: Commands) -> None:
    group = commands.add_parser(
        "rules", help="check rules, or show what they do", description="Privacy rules.", allow_abbrev=False
    ).add_subparsers(metavar="COMMAND", required=True)
    one = group.add_parser(
        "check",
        help="are they valid, and which are they",
        description="Print the rules, includes expanded, or the place and the cure of the first error.",
        allow_abbrev=False,
        epilog="Exit codes: 0 valid; 2 not.",
    )
    one.add_argument(
        "file", nargs="?", metavar="FILE", help='"-" is standard input; default: USAGE_LOGGERS_RULES'
    )
    one.set_defaults(run=_check_rules)
    one = group.add_parser(
        "preview",
        help="what they would remove from a capture",
        description="For each rule the calls and fields it touches, and some calls before and after. "
        "Shows captured values as they are.",
        allow_abbrev=False,
        epilog="Exit codes: 0 done; 1 a file was cut short or is no capture; 2 usage, settings or rules.",
    )
    one.add_argument("--rules", metavar="R", help="a file, or rules; default: USAGE_LOGGERS_RULES")
    one.add_argument("--calls", type=int, default=3, metavar="N", help="to show; default: %(default)s")
    one.add_argument("files", nargs="+", metavar="CAPTURE", help='capture files; "-" is standard input')
    one.set_defaults(run=_preview_rules)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < _FOREVER:
        raise ValueError
    return seconds


def run() -> NoReturn:
    """The installed command."""
    _complete_streams()
    try:
        code = main()
    except KeyboardInterrupt:  # before or after the work itself
        code = INTERRUPTED
    try:
        sys.stderr.flush()
    except OSError:  # else the interpreter tries again, and its failure would be our exit code
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if threading.active_count() > 1:  # a resolver or an S3 that does not answer: the end would wait for it
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _complete_streams() -> None:
    """Closed standard streams (``<&-``) become empty ones; else our files would get their numbers."""
    while (number := os.open(os.devnull, os.O_RDWR)) < _FIRST_FREE:
        pass
    os.close(number)
    # Python has None for a stream that was closed when it started.
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
