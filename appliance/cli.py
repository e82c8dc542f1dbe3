"""The command line: reads what is asked, leaves the work to service.py.

Exit codes are service.py's. Bad input never ends in a traceback.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from appliance import plugin
from appliance.service import INCOMPLETE, INTERRUPTED, OK, USAGE, Replay, release, replay
from appliance.settings import SettingsError, load

_WIDTH: Final = 160  # of a table that goes to a file
_FIRST_FREE: Final = 3  # file descriptors 0 to 2 are the standard streams


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        settings = load()
    except SettingsError as error:
        for line in error.lines:
            _say(line)
        return USAGE
    for line in settings.warnings():
        _say(line)
    if any(_same(arguments.output, path) for path in arguments.files):
        _say(f"--output {arguments.output}: is also an input")
        return USAGE
    try:
        with ExitStack() as stack:
            return replay(settings, _request(arguments, _output(arguments.output, stack)))
    except BrokenPipeError:  # `| head` has seen enough
        _forget_output()
        return OK
    except OSError as error:
        _forget_output()
        where = "standard output" if arguments.output == "-" else f"--output {arguments.output}"
        _say(f"{where}: cannot be written: {error.strerror or error}")
        return INCOMPLETE
    except KeyboardInterrupt:
        return INTERRUPTED


def _same(output: str, path: str) -> bool:
    """Writing would destroy what is to be read."""
    try:
        return "-" not in (output, path) and Path(output).is_file() and Path(output).samefile(path)
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
        format=arguments.format,
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
    one = commands.add_parser(
        "replay",
        help="capture files in, API calls out",
        description="Turn capture files (pcap, pcapng, gzip of either) into API calls, in capture time.",
        allow_abbrev=False,
        epilog="Exit codes: 0 done; 1 a file was cut short or is no capture, or the output cannot be "
        "written; 2 usage or settings; "
        "3 the ledger does not add up (a defect, please report it); 130 interrupted.",
    )
    one.add_argument(
        "files", nargs="+", metavar="FILE", help='capture files, one timeline; "-" is standard input'
    )
    formats = plugin.names("appliance.formats")
    one.add_argument("--format", choices=formats, default="messages", help="default: %(default)s")
    one.add_argument("--output", default="-", metavar="PATH", help="instead of standard output")
    one.add_argument("--summary", action="store_true", help="print the ledger to standard error")
    one.add_argument(
        "--allow-cut", action="store_true", help="a file that ends in the middle of a record is no error"
    )
    one.add_argument("--no-progress", action="store_true", help="no progress bar for large files")
    return parser


def _say(text: str) -> None:
    sys.stderr.write(f"appliance: {text}\n")


def run() -> NoReturn:
    """The installed command."""
    _complete_streams()
    try:
        code = main()
    except KeyboardInterrupt:  # before or after the work itself
        code = INTERRUPTED
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
