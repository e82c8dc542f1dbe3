"""Processes: starts the workers, watches them, starts them again, stops them in order.

Contract: the capture belongs to this process, so that what arrives for a worker that has died waits for the
next one in its place. A worker that dies is started again after a wait that doubles; what it held is counted
as lost by name (board.bury). One that does not come by for HUNG seconds is killed.

SIGTERM and SIGINT stop: nothing more is taken, workers finish what there is, within ``drain`` seconds; a
second one, and the time, kill. SIGHUP and a change of a followed file select anew; what cannot be read
leaves everything as it was. SIGUSR1 prints the ledger. Never a thread here: it forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from appliance.board import Board, add, bury
from appliance.ledger import Ledger
from appliance.news import News, farewell
from appliance.sources.base import Capture
from appliance.summary import render
from appliance.worker import Work

TURN: Final = 1.0  # seconds between two rounds
SHORTEST: Final = 0.1  # seconds before the first restart
LONGEST: Final = 30.0
HEALTHY: Final = 60.0  # seconds after which a worker counts as one that works
HUNG: Final = 60.0  # seconds
PAUSED: Final = 10.0  # seconds between two rounds that are not the workers' fault
REPORT: Final = 60.0  # seconds between two reports of what was lost
GRACE: Final = 2.0  # seconds beyond the time for the end before workers are killed

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


State = tuple[int, int, int]  # of a file: time, size, number


@dataclass(slots=True)
class _Place:
    """Where one worker is, was, or will be."""

    pid: int = 0
    control: socket.socket | None = None
    outbox: bytes = b""
    asked: int = 0  # orders that it has not answered
    since: float = 0.0
    due: float = 0.0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Supervision:
    """What a supervisor may not have of its own."""

    clock: Callable[[], float]  # seconds
    say: Callable[[str], None]
    reselect: Callable[[], dict[str, Any]]  # read everything anew: the order for workers. ValueError: lines
    followed: Mapping[str, State] = field(default_factory=dict)  # files, as they were when they were read
    drain: float = 20.0
    summary: bool = False


class Supervisor:
    def __init__(self, capture: Capture, board: Board, work: Work, outside: Supervision) -> None:
        self._capture = capture
        self._board = board
        self._work = work
        self._outside = outside
        self._places = [_Place() for _ in board.parts]
        self._own = Ledger()  # what no worker saw, and what dead workers had counted
        self._caught: list[int] = []
        self._stopping: float | None = None  # when it has to be over
        self._news = News(outside.say)
        self._next_report = 0.0
        self._round_at = self._resumed = outside.clock()
        self._files = dict(outside.followed)
        self._changing = self._files

    def run(self) -> Ledger:
        """Until stopped; the whole ledger."""
        say = self._outside.say
        with self._signals() as wakeup:
            for number in range(len(self._places)):
                self._start(number)
            self._next_report = self._outside.clock() + REPORT
            turn = 0.0
            while self._stopping is None or any(place.pid for place in self._places):
                self._wait(wakeup)
                self._obey()
                self._reap()
                now = self._outside.clock()
                if now - turn >= TURN:
                    turn = now
                    self._round(now)
        left = self._capture.leftover()  # of workers that were killed, or had no more time
        self._own.count("frames", left)
        self._own.count("frame_undrained", left)
        total = self.total()
        self._news.losses(total)
        if self._outside.summary:
            with contextlib.suppress(OSError):
                sys.stderr.write(render(total))
        for fault in total.unbalanced():
            say(f"the ledger does not add up: {fault}")
        say(f"stopped: {farewell(total)}")
        return total

    def total(self) -> Ledger:
        total = Ledger()
        add(total, self._own)
        for part in self._board.parts:
            add(total, part.read())
        return total

    # -- processes

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if not pid:
            self._be_a_worker(number, ours, theirs)
        theirs.close()
        ours.setblocking(False)
        place = self._places[number]
        place.pid, place.control, place.outbox, place.asked = pid, ours, b"", 0
        place.since = self._outside.clock()

    def _be_a_worker(self, number: int, ours: socket.socket, theirs: socket.socket) -> None:
        code = os.EX_SOFTWARE
        try:
            signal.set_wakeup_fd(-1)
            for one in _SIGNALS:  # only the supervisor listens; it says when to stop
                signal.signal(one, signal.SIG_DFL if one == signal.SIGCHLD else signal.SIG_IGN)
            ours.close()
            for place in self._places:  # else a worker would not see that the supervisor is gone
                if place.control is not None:
                    place.control.close()
            self._work(number, theirs)
            code = 0
        except BaseException as error:  # noqa: BLE001  # nothing may return into the supervisor's code
            with contextlib.suppress(OSError):  # the place and the kind: the text may hold what was captured
                sys.stderr.write(
                    "".join(traceback.format_tb(error.__traceback__)) + type(error).__name__ + "\n"
                )
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        for number, place in enumerate(self._places):
            if place.pid:
                pid, status = os.waitpid(place.pid, os.WNOHANG)
                if pid:
                    self._died(number, os.waitstatus_to_exitcode(status))

    def _died(self, number: int, code: int) -> None:
        place = self._places[number]
        place.pid = 0
        if place.control is not None:
            place.control.close()
            place.control = None
        if self._stopping is not None and code == 0:  # its part stays as it left it
            return
        lost = bury(self._board.parts[number], again=self._stopping is None)
        add(self._own, lost)
        now = self._outside.clock()
        place.failures = 1 if now - place.since >= HEALTHY else place.failures + 1
        wait = min(SHORTEST * 2 ** min(place.failures - 1, 16), LONGEST)
        place.due = now + wait
        self._outside.say(
            f"worker {number} {_ending(code)}; with it {lost.tally['flow_worker_lost']} connections, "
            f"{lost.tally['frame_worker_lost']} frames and {lost.tally['message_worker_lost']} queued calls"
            + (f"; it starts again in {wait:g} s" if self._stopping is None else "")
        )

    def _kill(self) -> None:
        for place in self._places:
            if place.pid:
                os.kill(place.pid, signal.SIGKILL)

    # -- signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """Signals are noticed by ``_wait``, and obeyed between two of its rounds."""
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = {one: signal.signal(one, self._notice) for one in _SIGNALS}
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        try:
            yield wake
        finally:
            signal.set_wakeup_fd(-1)
            for one, handler in before.items():
                signal.signal(one, handler)
            os.close(wake)
            os.close(woken)

    def _notice(self, number: int, _: FrameType | None) -> None:
        self._caught.append(number)

    def _wait(self, wakeup: int) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(wakeup, selectors.EVENT_READ)
            for place in self._places:
                if place.control is not None:
                    both = selectors.EVENT_READ | (selectors.EVENT_WRITE if place.outbox else 0)
                    selector.register(place.control, both, place)
            soon = [place.due - self._outside.clock() for place in self._places if not place.pid]
            timeout = TURN if self._stopping is not None else min([TURN, *(max(due, 0.0) for due in soon)])
            for key, events in selector.select(timeout):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wakeup, 4096)
                    continue
                if events & selectors.EVENT_WRITE:
                    self._send(key.data)
                if events & selectors.EVENT_READ:
                    self._hear(key.data)

    def _obey(self) -> None:
        while self._caught:
            number = self._caught.pop(0)
            if number in {signal.SIGTERM, signal.SIGINT}:
                self._stop()
            elif number == signal.SIGHUP:
                self._reload()
            elif number == signal.SIGUSR1:
                with contextlib.suppress(OSError):
                    sys.stderr.write(render(self.total()))

    # -- orders

    def _stop(self) -> None:
        if self._stopping is not None:
            self._outside.say("stopped at once: asked again")
            self._kill()
            return
        self._look_aside()  # what is refused from now on is nobody's loss
        self._capture.stop()
        self._stopping = self._outside.clock() + self._outside.drain + GRACE
        self._outside.say(f"stopping: what has come is finished and sent, {self._outside.drain:g} s at most")
        self._order({"do": "stop", "seconds": self._outside.drain})

    def _reload(self) -> None:
        try:
            order = self._outside.reselect()
        except ValueError as error:
            for line in str(error).split("\n"):
                self._outside.say(f"not reloaded, all stays as it was: {line}")
            return
        self._news.selected_anew()
        self._order({"do": "select", **order})
        for place in self._places:
            place.asked += place.control is not None

    def _hear(self, place: _Place) -> None:
        """Answers; none where the worker has died, and ``_reap`` says so."""
        if place.control is None:
            return
        try:
            answers = place.control.recv(4096)
        except OSError:
            answers = b""
        if not answers:
            place.control.close()
            place.control = None
        place.asked = max(place.asked - len(answers), 0) if answers else 0
        if answers and not any(one.asked for one in self._places):
            self._outside.say("reloaded: VNIs, ports and rules")

    def _order(self, order: dict[str, Any]) -> None:
        line = json.dumps(order).encode() + b"\n"
        for place in self._places:
            if place.control is not None:
                place.outbox += line
                self._send(place)

    def _send(self, place: _Place) -> None:
        if place.control is None:
            return
        try:
            place.outbox = place.outbox[place.control.send(place.outbox) :]
        except BlockingIOError:
            return
        except OSError:  # it has died; who reaps it will say so
            place.outbox = b""

    # -- rounds

    def _round(self, now: float) -> None:
        if self._stopping is not None:
            if now >= self._stopping:
                self._outside.say("the time for the end is over: workers are killed")
                self._kill()
            return
        if now - self._round_at > PAUSED:  # all of us stood still: docker pause, Ctrl-Z
            self._resumed = now
        self._round_at = now
        for number, place in enumerate(self._places):
            if not place.pid and now >= place.due:
                self._start(number)
            self._check(number, place, now)
        for line in self._capture.refresh():
            self._outside.say(line)
        states = {path: state_of(path) for path in self._files}
        if states != self._files and states == self._changing:  # at rest for a round: written to its end
            self._files = states
            self._reload()
        self._changing = states
        self._look_aside()
        for part in self._board.parts:
            self._news.sessions(part.sessions())
        if now >= self._next_report:
            self._next_report = now + REPORT
            self._news.losses(self.total())

    def _check(self, number: int, place: _Place, now: float) -> None:
        beat = self._board.parts[number].last_beat() / 1e9
        if place.pid and now - max(beat, place.since, self._resumed) > HUNG:
            self._outside.say(f"worker {number} has not come by for {HUNG:g} s: killed")
            os.kill(place.pid, signal.SIGKILL)

    def _look_aside(self) -> None:
        aside = self._capture.aside()
        self._own.count("frames", aside.dropped + aside.refused)
        self._own.count("frame_kernel_dropped", aside.dropped)
        self._own.count("frame_vni_not_selected", aside.refused)
        for vni, frames in aside.sample.items():
            self._own.at(vni, "frame_vni_not_selected", frames)
            self._news.stranger(vni)


def state_of(path: str) -> State:
    """Changes when the file's content may have, also where it is replaced, as a ConfigMap is."""
    try:
        found = Path(path).stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
