"""Build the parts, run them, stop them in order.

``replay``: files in, calls out, in capture time. Files do not run away: nothing is read before what came
of the frames before it has been written.
"""

from __future__ import annotations

import gc
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import BinaryIO, Final, Protocol

from appliance import plugin
from appliance.formats import FormatOptions
from appliance.interrupt import Interrupts
from appliance.ledger import Ledger
from appliance.message import Messages
from appliance.model import HttpExchange, Message
from appliance.outlet import (
    BUNDLE_WAIT,
    Refusal,
    agent,
    carrier,
    engine,
    prepare,
    prepared,
    publication,
    rules,
    say,
    spool,
    withheld,
)
from appliance.pipeline import Pipeline
from appliance.preview import Preview
from appliance.rules.grammar import RuleSet
from appliance.settings import Settings
from appliance.ship.batch import Batcher
from appliance.ship.spool import SpoolError
from appliance.sources.pcap import CaptureFiles
from appliance.summary import render
from appliance.tuning import GC_THRESHOLD
from appliance.uploads import Patient, Uploads

OK: Final = 0
INCOMPLETE: Final = 1  # a file was cut short, or is no capture; not all could be written or delivered
USAGE: Final = 2
UNBALANCED: Final = 3  # a defect of ours
INTERRUPTED: Final = 130
_NOT_DELIVERED: Final = ("message_rejected", "message_spooled", "message_shed", "message_undelivered")
PROGRESS_FROM: Final = 32 << 20  # octets of files that take long enough to ask how far it is


class Progress(Protocol):
    def update(self, octets: int) -> None: ...
    def close(self) -> None: ...


class Format(Protocol):
    def begin(self) -> bytes: ...
    def write(self, exchange: HttpExchange, /) -> bytes: ...
    def end(self) -> bytes: ...


class Output(Protocol):
    """Where calls go: printed, or uploads.py."""

    def begin(self) -> None: ...
    def take(self, exchange: HttpExchange, /) -> None: ...
    def pause(self) -> None: ...
    def end(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Replay:
    """What the command line asks for."""

    files: list[str]
    format: str
    sinks: tuple[str, ...]  # none: print in ``format``
    output: BinaryIO
    summary: bool
    allow_cut: bool
    progress: bool
    width: int
    drain: float | None  # seconds; None: until all is delivered


class Printed:
    def __init__(self, form: Format, output: BinaryIO) -> None:
        self._form = form
        self._output = output

    def begin(self) -> None:
        self._output.write(self._form.begin())

    def take(self, exchange: HttpExchange) -> None:
        self._output.write(self._form.write(exchange))

    def pause(self) -> None:
        """The output's own buffer decides."""

    def end(self) -> None:
        self._output.write(self._form.end())
        self._output.flush()


def release() -> str:
    try:
        return version("vpc-mirror-appliance")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+source"


def replay(settings: Settings, request: Replay) -> int:
    """The exit code. Raises OSError where the output cannot be written, Refusal, PolicyError."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    ledger = Ledger()
    pipeline = Pipeline(settings.pipeline(), ledger)
    source = CaptureFiles(request.files)
    interrupts = Interrupts()
    output = _output(settings, request, ledger, interrupts)
    interrupted = _copy(source, pipeline, output, request, interrupts)
    for fault in source.faults:
        say(str(fault))
    if interrupted:
        say("interrupted: the calls are those of what had been read")
    if request.summary:
        with suppress(OSError):
            sys.stderr.write(render(ledger))
    else:
        for unbalanced in ledger.unbalanced():
            say(f"the ledger does not add up: {unbalanced}")
    return _verdict(source, ledger, request, interrupted=interrupted)


def _output(settings: Settings, request: Replay, ledger: Ledger, interrupts: Interrupts) -> Output:
    found = rules(settings)
    name = agent()
    published = publication(settings, found, ledger, name)
    if request.sinks:
        way = None
        if not withheld(settings, found, request.sinks):
            way = _way(settings, found, request, name, interrupts)
        batcher = Batcher(settings.bundle_size, BUNDLE_WAIT)
        return Uploads(published.publish, ledger, batcher, way, time.monotonic_ns)

    def written(exchange: HttpExchange) -> Message | None:
        message = published.publish(exchange)
        ledger.tally["message_written"] += message is not None
        return message

    options = FormatOptions(settings.host(), request.width, release(), written)
    return Printed(plugin.find("appliance.formats", request.format).build(options), request.output)


def _way(settings: Settings, found: RuleSet, request: Replay, name: str, interrupts: Interrupts) -> Patient:
    """What is not delivered in time waits in a spool for the next replay, or run."""
    prepare(settings, found, request.sinks)
    try:
        shares = len(request.sinks)
        spools = {
            sink: prepared(lambda sink=sink: spool(settings, sink, "replay", shares), sink)  # type: ignore[misc]
            for sink in request.sinks
        }
    except SpoolError as error:
        raise Refusal([f"SNIFFER_SPOOL_DIR: {error}"]) from None
    return Patient(
        carrier(settings, found, request.sinks, name, say, spools),
        request.drain,
        lambda: interrupts.requested,
        time.monotonic,
        say,
    )


def _copy(
    source: CaptureFiles, pipeline: Pipeline, output: Output, request: Replay, interrupts: Interrupts
) -> bool:
    """Everything from the source to the output; whether the user interrupted it."""
    progress = _progress(source, request)
    output.begin()
    with interrupts:
        try:
            for batch in interrupts.until(source):
                for exchange in pipeline.feed(batch):
                    output.take(exchange)
                output.pause()
                if progress is not None:
                    progress.update(source.octets_read)
        finally:
            if progress is not None:
                progress.close()
        for exchange in pipeline.close():
            output.take(exchange)
        output.end()
    return interrupts.requested


def _verdict(source: CaptureFiles, ledger: Ledger, request: Replay, *, interrupted: bool) -> int:
    if ledger.unbalanced():
        return UNBALANCED
    if interrupted:
        return INTERRUPTED
    if any(not (fault.cut and request.allow_cut) for fault in source.faults):
        return INCOMPLETE
    left = [(name, ledger.tally[name]) for name in _NOT_DELIVERED if ledger.tally[name]]
    if left:
        say("not all calls were delivered: " + ", ".join(f"{name} {n}" for name, n in left))
        return INCOMPLETE
    return OK


def _progress(source: CaptureFiles, request: Replay) -> Progress | None:
    total = source.octets_total()
    if not request.progress or (total is not None and total < PROGRESS_FROM):
        return None
    return plugin.find("appliance", "progress").Bar(total)  # type: ignore[no-any-return]  # loads rich: 0.1 s


def preview(settings: Settings, found: RuleSet, files: list[str], calls: int) -> int:
    """What ``found`` does to the calls of ``files``, as text on standard output."""
    ledger = Ledger()
    pipeline = Pipeline(settings.pipeline(), ledger)
    source = CaptureFiles(files)
    shown = Preview(Messages(settings.messages()), engine(found, ledger), ledger, calls)
    for batch in source:
        for exchange in pipeline.feed(batch):
            shown.take(exchange)
    for exchange in pipeline.close():
        shown.take(exchange)
    sys.stdout.write(shown.report())
    for fault in source.faults:
        say(str(fault))
    return INCOMPLETE if source.faults else OK
