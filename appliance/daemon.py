"""``appliance run``: build the parts, share them out to workers, run until stopped.

Contract: whatever stands in the way of capturing or sending is said before anything starts (Refusal,
SettingsError, PolicyError, CaptureError). What is selected, VNIs, ports and rules, is read here, once, and
goes to all workers as text: they never read a file that may have changed in between.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance import plugin
from appliance.board import Board
from appliance.ledger import Ledger
from appliance.news import NOT_DELIVERED, farewell
from appliance.outlet import (
    BUNDLE_WAIT,
    Refusal,
    agent,
    carrier,
    prepare,
    prepared,
    publication,
    say,
    spool,
    withheld,
)
from appliance.packet.vni import VniSelection
from appliance.pipeline import Pipeline
from appliance.policy import followed, rules_of_text, written
from appliance.rules.grammar import RuleSet
from appliance.settings import Settings, SettingsError
from appliance.ship.batch import Batcher
from appliance.ship.spool import Spool, SpoolError, adopt
from appliance.sources.base import Capture, CaptureOptions
from appliance.supervisor import Supervision, Supervisor, state_of
from appliance.tuning import GC_THRESHOLD
from appliance.uploads import Live, Uploads, Way
from appliance.values import ports_of
from appliance.worker import Worker

OK: Final = 0
INCOMPLETE: Final = 1
UNBALANCED: Final = 3
LEFT_ALONE: Final = 1.0  # seconds for the end of a worker without supervisor: the next one needs its spool
_ENGINES: Final = {"mirror": "udp", "live": "afpacket"}  # sources
_LATER: Final = {
    "k8s": "SNIFFER_ENGINE=k8s is not there yet; use live on the node, with NET_DEVICE",
    "pcap_file": "SNIFFER_ENGINE=pcap_file: use appliance replay FILE",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """What is wanted, as text: what a variable or its file has."""

    vnis: str
    ports: str
    rules: str

    def vni_selection(self) -> VniSelection | None:
        return VniSelection.parse(self.vnis) if self.vnis.strip() else None

    def port_selection(self) -> frozenset[int] | None:
        return ports_of(self.ports) if self.ports.strip() else None

    def rule_set(self) -> RuleSet:
        return rules_of_text(self.rules, "rules")


class Service:
    def __init__(self, settings: Settings) -> None:
        engine = _ENGINES.get(settings.engine)
        if engine is None:
            raise Refusal([_LATER[settings.engine]])
        if settings.engine == "live" and settings.devices().endswith("pcap"):
            raise Refusal([f"NET_DEVICE={settings.devices()}: for a capture file use appliance replay FILE"])
        self._settings = settings
        files = [*settings.followed(), followed(settings.rules)]
        self._followed = {path: state_of(path) for path in files if path is not None}  # before they are read
        self._selection, found = self._read()
        self._sinks = settings.sink_names()
        self._silent = withheld(settings, found, self._sinks)
        self._agent = agent()
        self._capture: Capture = plugin.find("appliance.sources", engine).build(
            CaptureOptions(
                settings.worker_count(),
                self._selection.vni_selection(),
                self._selection.port_selection(),
                settings.vxlan_port,
                settings.geneve_port,
                settings.receive_buffer,
                settings.devices(),
                settings.promiscuous,
                not settings.unfiltered,
                settings.ring,
            )
        )
        for note in self._capture.notes:
            say(note)
        if not self._silent:
            prepare(settings, found, self._sinks)
            self._prepare_spools()
        self._board = Board(self._capture.workers, () if self._silent else self._sinks)

    def run(self, *, summary: bool) -> int:
        settings = self._settings
        for package, name in (*(("sinks", sink) for sink in self._sinks), ("ship", "carrier")):
            plugin.find(f"appliance.{package}", name)  # once, not in each worker
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)
        supervision = Supervision(
            time.monotonic,
            say,
            self.reselect,
            self._followed,
            settings.drain_seconds,
            summary,
        )
        places = {"lake": f"lake in {settings.lake_url}"}
        where = "" if self._silent else "; calls go to " + ", ".join(places.get(s, s) for s in self._sinks)
        say(f"{self._capture.title}; workers: {self._capture.workers}, process {os.getpid()}{where}")
        total = Supervisor(self._capture, self._board, self.work, supervision).run()
        self._capture.close()
        if total.unbalanced():
            return UNBALANCED
        return INCOMPLETE if any(total.tally[name] for name in (*NOT_DELIVERED, "frame_undrained")) else OK

    def reselect(self) -> dict[str, Any]:
        """Read everything anew; ValueError: nothing has changed, and why."""
        for path in map(Path, self._followed):
            if path.exists() and not path.is_file():  # a pipe: who waits for its writer does nothing else
                raise ValueError(f"{path}: no regular file, read at the start only")
        try:
            selection, found = self._read()
        except SettingsError as error:
            raise ValueError(str(error)) from None
        self._refuse_what_needs_a_start(found)
        self._selection = selection
        self._capture.select(selection.vni_selection(), selection.port_selection())
        return dataclasses.asdict(selection)

    def _refuse_what_needs_a_start(self, found: RuleSet) -> None:
        """Sinks are built once: a rule that they were built by cannot change under them. ValueError."""
        before = self._selection.rule_set()
        for verb in ("skip_compression", "allow_http_url", "skip_submission"):
            if found.has(verb) != before.has(verb) and not (verb == "skip_submission" and not self._silent):
                raise ValueError(f"the rule {verb} has come or gone, which takes a new start")

    def work(self, number: int, control: socket.socket) -> None:
        """A worker's life, in a process of its own."""
        settings, selection = self._settings, self._selection
        ledger = Ledger()
        options = dataclasses.replace(
            settings.limits(), vnis=selection.vni_selection(), ports=selection.port_selection()
        )
        pipeline = Pipeline(options, ledger)
        found = selection.rule_set()

        def is_over() -> bool:
            return worker.is_over()

        def report(text: str) -> None:
            say(f"worker {number}: {text}")

        way: Way | None = None
        if not self._silent:
            spools = {sink: self._spool(sink, number, report) for sink in self._sinks}
            way = Live(carrier(settings, found, self._sinks, self._agent, report, spools), is_over)
        published = publication(settings, found, ledger, self._agent)
        batcher = Batcher(settings.bundle_size, BUNDLE_WAIT)
        uploads = Uploads(published.publish, ledger, batcher, way, time.monotonic_ns)

        def reselect(order: dict[str, Any]) -> None:
            wanted = Selection(order["vnis"], order["ports"], order["rules"])
            pipeline.packets.select(wanted.vni_selection(), wanted.port_selection())
            rules = wanted.rule_set()
            publish = publication(settings, rules, ledger, self._agent).publish
            uploads.obey(publish, withheld=rules.has("skip_submission"))

        self._capture.keep(number)
        source = self._capture.source(number)
        worker = Worker(
            source,
            pipeline,
            uploads,
            ledger,
            self._board.parts[number],
            control,
            reselect,
            LEFT_ALONE if settings.spool_dir else settings.drain_seconds,
        )
        worker.run()
        if worker.was_left_alone:
            report(f"the supervisor is gone; {farewell(ledger)}")

    def _spool(self, sink: str, number: int, report: Callable[[str], None]) -> Spool | None:
        """A disk that has gone bad since the start stops no capture."""
        try:
            return self._open_spool(sink, number)
        except SpoolError as error:
            report(f"{error}; calls that {sink} does not take are shed")
            return None

    def _open_spool(self, sink: str, number: int) -> Spool | None:
        workers = self._capture.workers
        return spool(self._settings, sink, f"worker-{number}", workers * len(self._sinks))

    def _wait_for_spool(self, sink: str, number: int) -> Spool | None:
        return prepared(lambda: self._open_spool(sink, number), sink)

    def _prepare_spools(self) -> None:
        """What cannot work stops the start; what more workers once left is for those there are."""
        if not self._settings.spool_dir:
            return
        folder = Path(self._settings.spool_dir)
        try:
            for sink in self._sinks:
                opened = [self._wait_for_spool(sink, number) for number in range(self._capture.workers)]
                spools = [one for one in opened if one is not None]
                for line in adopt(folder, sink, spools) if spools else ():
                    say(line)
                waiting = sum(one.calls for one in spools)
                if waiting:
                    say(f"{waiting} calls wait in SNIFFER_SPOOL_DIR and will be sent to {sink}")
                for one in spools:
                    one.close()
        except SpoolError as error:
            raise Refusal([f"SNIFFER_SPOOL_DIR: {error}"]) from None
        for path in sorted(folder.glob("*.db")):
            if path.name.partition("-")[0] not in self._sinks:
                say(f"{path}: of a sink that SNIFFER_SINKS does not name; it stays as it is")

    def _read(self) -> tuple[Selection, RuleSet]:
        text, notes, name = written(self._settings.rules)
        found = rules_of_text(text, name)
        for note in notes:
            say(note)
        vnis, ports = self._settings.selected()
        return Selection(vnis, ports, text), found


def run(settings: Settings, *, summary: bool = False) -> int:
    """The exit code. Raises Refusal, SettingsError, PolicyError, CaptureError."""
    return Service(settings).run(summary=summary)
