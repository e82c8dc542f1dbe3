"""The command line: reads what is asked, leaves the work to service.py.

Exit codes are service.py's. Bad input never ends in a traceback.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from appliance import plugin
from appliance.service import INTERRUPTED, OK, USAGE, Replay, release, replay
from appliance.settings import SettingsError, load

_WIDTH: Final = 160  # of a table that goes to a file


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        settings = load()
    except SettingsError as error:
        for line in error.lines:
            _say(line)
        return USAGE
    try:
        with ExitStack() as stack:
            try:
                output = _output(arguments.output, stack)
            except OSError as error:
                _say(f"--output {arguments.output}: {error.strerror}")
                return USAGE
            return replay(settings, _request(arguments, output))
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        _say(f"the output cannot be written: {error.strerror}")
        return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED


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
        prog="appliance", description="VPC Traffic Mirroring target that turns packets into whole API calls."
    )
    parser.add_argument("--version", action="version", version=f"appliance {release()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    one = commands.add_parser(
        "replay",
        help="capture files in, API calls out",
        description="Turn capture files (pcap, pcapng, gzip of either) into API calls, in capture time.",
        epilog="Exit codes: 0 done; 1 a file was cut short or is no capture; 2 usage or settings; "
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: end with what is done
    sys.exit(main())
