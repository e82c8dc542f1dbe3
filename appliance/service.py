"""Build the parts, run them, stop them in order.

``replay``: files in, calls out, in capture time. Files do not run away: nothing is read before what came
of the frames before it has been written.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import BinaryIO, Final, Protocol

from appliance import plugin
from appliance.formats import FormatOptions
from appliance.interrupt import Interrupts
from appliance.ledger import Ledger
from appliance.model import HttpExchange
from appliance.pipeline import Pipeline
from appliance.settings import Settings
from appliance.sources.pcap import CaptureFiles
from appliance.summary import render

OK: Final = 0
INCOMPLETE: Final = 1  # a file was cut short, or is no capture; the output cannot be written
USAGE: Final = 2
UNBALANCED: Final = 3  # a defect of ours
INTERRUPTED: Final = 130

PROGRESS_FROM: Final = 32 << 20  # octets of files that take long enough to ask how far it is

# Almost everything dies by reference count; the cycles (a connection and its two directions) are few.
# With CPython's default of 700 a fifth to a third of the time goes into looking for more of them.
GC_THRESHOLD: Final = (50_000, 20, 50)


class Progress(Protocol):
    def update(self, octets: int) -> None: ...
    def close(self) -> None: ...


class Format(Protocol):
    def begin(self) -> bytes: ...
    def write(self, exchange: HttpExchange, /) -> bytes: ...
    def end(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Replay:
    """What the command line asks for."""

    files: list[str]
    format: str
    output: BinaryIO
    summary: bool
    allow_cut: bool
    progress: bool
    width: int


def release() -> str:
    try:
        return version("vpc-mirror-appliance")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+source"


def replay(settings: Settings, request: Replay) -> int:
    """The exit code. Raises OSError where the output cannot be written."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    ledger = Ledger()
    pipeline = Pipeline(settings.pipeline(), ledger)
    source = CaptureFiles(request.files)
    options = FormatOptions(host=settings.host(), width=request.width, version=release())
    form: Format = plugin.find("appliance.formats", request.format).build(options)
    interrupted = _copy(source, pipeline, form, request)
    for fault in source.faults:
        sys.stderr.write(f"appliance: {fault}\n")
    if interrupted:
        sys.stderr.write("appliance: interrupted: the calls are those of what had been read\n")
    if request.summary:
        sys.stderr.write(render(ledger))
    elif ledger.unbalanced():
        sys.stderr.write(
            "".join(f"appliance: the ledger does not add up: {f}\n" for f in ledger.unbalanced())
        )
    return _verdict(source, ledger, request, interrupted=interrupted)


def _copy(source: CaptureFiles, pipeline: Pipeline, form: Format, request: Replay) -> bool:
    """Everything from the source to the output; whether the user interrupted it."""
    write = request.output.write
    progress = _progress(source, request)
    write(form.begin())
    with Interrupts() as interrupts:
        try:
            for batch in interrupts.until(source):
                for exchange in pipeline.feed(batch):
                    write(form.write(exchange))
                if progress is not None:
                    progress.update(source.octets_read)
        finally:
            if progress is not None:
                progress.close()
        for exchange in pipeline.close():
            write(form.write(exchange))
        write(form.end())
        request.output.flush()
    return interrupts.requested


def _verdict(source: CaptureFiles, ledger: Ledger, request: Replay, *, interrupted: bool) -> int:
    if ledger.unbalanced():
        return UNBALANCED
    if interrupted:
        return INTERRUPTED
    if any(not (fault.cut and request.allow_cut) for fault in source.faults):
        return INCOMPLETE
    return OK


def _progress(source: CaptureFiles, request: Replay) -> Progress | None:
    total = source.octets_total()
    if not request.progress or (total is not None and total < PROGRESS_FROM):
        return None
    return plugin.find("appliance", "progress").Bar(total)  # type: ignore[no-any-return]  # loads rich: 0.1 s
