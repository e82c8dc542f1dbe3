"""Workers that die, hang and stop: real processes, a capture that is none, and orders as they come."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance import supervisor
from appliance.board import Board
from appliance.ledger import Ledger
from appliance.sources.base import Aside
from appliance.supervisor import Supervision, Supervisor, state_of

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

WAIT = 20.0


class NoCapture:
    left = 0

    def __init__(self) -> None:
        self.title = "nothing"
        self.notes: list[str] = []
        self.workers = 1
        self.stopped = False
        self.next = Aside()
        self.selected: list[object] = []

    def keep(self, worker: int) -> None:
        """Nothing is open."""

    def leftover(self) -> int:
        return self.left

    def source(self, worker: int) -> Any:
        raise AssertionError(worker)

    def select(self, vnis: object, ports: object) -> None:
        self.selected.append((vnis, ports))

    def aside(self) -> Aside:
        found, self.next = self.next, Aside()
        return found

    def refresh(self) -> list[str]:
        return []

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        """Nothing is open."""


class World:
    """A supervisor in a child process, driven by signals; what it says is read from a pipe."""

    def __init__(self, folder: Path, work: Callable[[World, int, socket.socket], None], **more: Any) -> None:
        self.log = folder / "log"
        self.log.touch()
        self.work = work
        self.workers = more.pop("workers", 1)
        self.more = more
        self.capture = NoCapture()
        self.board = Board(self.workers)
        self.total = folder / "total"
        self.pid = os.fork()
        if not self.pid:
            try:
                self._supervise()
            finally:
                os._exit(0)

    def _supervise(self) -> None:
        sys.stderr = self.log.open("a", buffering=1)
        outside = Supervision(
            time.monotonic,
            self.say,
            self.more.pop("reselect", dict),
            drain=self.more.pop("drain", 5.0),
            **self.more,
        )
        one = Supervisor(
            self.capture, self.board, lambda number, control: self.work(self, number, control), outside
        )
        total = one.run()
        self.total.write_text(json.dumps({"tally": total.tally, "stopped": self.capture.stopped}))

    def say(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(text + "\n")

    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str, times: int = 1) -> None:
        until = time.monotonic() + WAIT
        while self.said().count(text) < times:
            assert time.monotonic() < until, self.said()
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def end(self) -> dict[str, int]:
        """The tally at the end."""
        until = time.monotonic() + WAIT
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            assert time.monotonic() < until, self.said()
            time.sleep(0.01)
        found = json.loads(self.total.read_text())
        assert found["stopped"]
        tally: dict[str, int] = found["tally"]
        return tally


def count(frames: int) -> Ledger:
    one = Ledger()
    one.count("frames", frames)
    one.count("frame_not_ip", frames)
    return one


def obedient(world: World, number: int, control: socket.socket) -> None:
    """Publishes, then waits for the order to stop; answers the others."""
    part = world.board.parts[number]
    part.beat(time.monotonic_ns())
    part.publish(count(10), 0)
    world.say(f"worker {number} is here")
    for line in control.makefile("rb"):
        order = json.loads(line)
        world.say(f"worker {number} got {order}")
        if order["do"] == "stop":
            return
        control.send(b".")


def test_stop_waits_for_the_workers_and_adds_up_what_they_counted(tmp_path: Path) -> None:
    world = World(tmp_path, obedient, workers=3)
    world.wait_for("is here", 3)
    world.signal(signal.SIGTERM)
    assert world.end()["frames"] == 30
    assert "'seconds': 5.0" in world.said()
    assert "stopped: 30 frames, 0 of them lost" in world.said()


def test_a_worker_that_died_starts_again_and_what_it_held_is_named(tmp_path: Path) -> None:
    def dies_once(world: World, number: int, control: socket.socket) -> None:
        if not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            world.board.parts[number].publish(count(5), 0)
            world.board.parts[number].hold(3)
            os.kill(os.getpid(), signal.SIGKILL)
        obedient(world, number, control)

    world = World(tmp_path, dies_once)
    world.wait_for("is here")
    world.signal(signal.SIGTERM)
    tally = world.end()
    assert (tally["frames"], tally["frame_worker_lost"], tally["frame_not_ip"]) == (18, 3, 15)
    assert "worker 0 was killed by SIGKILL; with it 0 connections, 3 frames" in world.said()
    assert "it starts again in 0.1 s" in world.said()


def test_one_that_always_dies_is_started_less_and_less_often(tmp_path: Path) -> None:
    def dies(_: World, __: int, ___: socket.socket) -> None:
        raise ZeroDivisionError("s3cret of a call")

    world = World(tmp_path, dies)
    world.wait_for("it starts again in 0.4 s")
    world.signal(signal.SIGTERM)
    world.end()
    waits = [line.rpartition(" in ")[2] for line in world.said().splitlines() if "starts again" in line]
    assert waits[:3] == ["0.1 s", "0.2 s", "0.4 s"]
    assert "ZeroDivisionError" in world.said()
    assert "s3cret of a call\n" not in world.said().replace('raise ZeroDivisionError("s3cret of a call")', "")
    assert "ended with exit code 70" in world.said()


def test_one_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "HUNG", 0.2)

    def hangs_once(world: World, number: int, control: socket.socket) -> None:
        if not (tmp_path / "hung").exists():
            (tmp_path / "hung").touch()
            time.sleep(WAIT * 2)
        world.board.parts[number].beat(time.monotonic_ns() + 10**12)
        obedient(world, number, control)

    world = World(tmp_path, hangs_once)
    world.wait_for("is here")
    world.signal(signal.SIGTERM)
    world.end()
    assert "has not come by for 0.2 s: killed" in world.said()


def test_a_pause_of_everything_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """docker pause, Ctrl-Z, a virtual machine that is moved: no worker has come by, nor have we."""
    now = 1000.0
    killed: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, _: killed.append(pid))
    said: list[str] = []
    board = Board(1)
    one = Supervisor(NoCapture(), board, lambda *_: None, Supervision(lambda: now, said.append, dict))
    one._places[0].pid, one._places[0].since = 12345, now
    board.parts[0].beat(int(now * 1e9))
    for now in (1001.0, *map(float, range(1500, 1560))):
        one._round(now)
    assert killed == []
    for later in range(1560, 1575):
        one._round(float(later))
    assert killed[:1] == [12345]


def test_one_that_does_not_stop_in_time_is_killed_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "GRACE", 0.1)

    def deaf(world: World, number: int, _: socket.socket) -> None:
        world.board.parts[number].publish(count(10), 0)
        world.board.parts[number].hold(4)
        world.say("is here")
        time.sleep(WAIT * 2)

    world = World(tmp_path, deaf, drain=0.1)
    world.wait_for("is here")
    world.signal(signal.SIGTERM)
    assert world.end()["frame_worker_lost"] == 4
    assert "workers are killed" in world.said()
    assert "starts again" not in world.said()


def test_asked_twice_it_ends_at_once(tmp_path: Path) -> None:
    def deaf(world: World, _: int, __: socket.socket) -> None:
        world.say("is here")
        time.sleep(WAIT * 2)

    world = World(tmp_path, deaf, drain=1000.0)
    world.wait_for("is here")
    world.signal(signal.SIGINT)
    world.wait_for("stopping")
    world.signal(signal.SIGINT)
    world.end()
    assert "asked again" in world.said()


def test_hangup_selects_anew_in_every_worker(tmp_path: Path) -> None:
    world = World(tmp_path, obedient, workers=2, reselect=lambda: {"vnis": "5"})
    world.wait_for("is here", 2)
    world.signal(signal.SIGHUP)
    world.wait_for("reloaded")
    assert world.said().count("got {'do': 'select', 'vnis': '5'}") == 2
    world.signal(signal.SIGTERM)
    world.end()


def test_what_cannot_be_read_leaves_everything_as_it_was(tmp_path: Path) -> None:
    def broken() -> dict[str, Any]:
        raise ValueError("VNIS=x: not a VNI")

    world = World(tmp_path, obedient, reselect=broken)
    world.wait_for("is here")
    world.signal(signal.SIGHUP)
    world.wait_for("not reloaded, all stays as it was: VNIS=x: not a VNI")
    world.signal(signal.SIGTERM)
    world.end()
    assert "'select'" not in world.said()


@pytest.mark.parametrize("how", ["written", "replaced", "removed"])
def test_a_followed_file_that_changes_selects_anew(tmp_path: Path, how: str) -> None:
    path = tmp_path / "vnis"
    path.write_text("1")
    world = World(tmp_path, obedient, reselect=dict, followed={str(path): state_of(str(path))})
    world.wait_for("is here")
    if how == "written":
        path.write_text("1,2")
    elif how == "replaced":  # as Kubernetes does with a ConfigMap
        (tmp_path / "other").write_text("2")
        (tmp_path / "other").rename(path)
    else:
        path.unlink()
    world.wait_for("reloaded")
    world.signal(signal.SIGTERM)
    world.end()


def test_the_ledger_is_printed_when_asked(tmp_path: Path) -> None:
    world = World(tmp_path, obedient)
    world.wait_for("is here")
    world.signal(signal.SIGUSR1)
    world.wait_for("the ledger adds up")
    world.signal(signal.SIGTERM)
    world.end()


def test_workers_end_when_the_supervisor_is_gone(tmp_path: Path) -> None:
    def waits(world: World, number: int, control: socket.socket) -> None:
        world.say(f"worker {number} is here as {os.getpid()}")
        control.recv(1)  # nothing: its end
        world.say("left alone")

    world = World(tmp_path, waits, workers=3)
    world.wait_for("is here", 3)
    world.signal(signal.SIGKILL)
    world.wait_for("left alone", 3)
    os.waitpid(world.pid, 0)


def test_what_the_kernel_keeps_aside_is_counted_and_named() -> None:
    said: list[str] = []
    capture, board = NoCapture(), Board(1)
    one = Supervisor(capture, board, lambda *_: None, Supervision(time.monotonic, said.append, dict))
    for aside in (Aside(7, 5, {456: 2}), Aside(0, 1, {456: 1})):
        capture.next = aside
        one._look_aside()
    total = one.total()
    assert total.unbalanced() == []
    assert (total.tally["frames"], total.tally["frame_kernel_dropped"]) == (13, 7)
    assert total.tally["frame_vni_not_selected"] == 6
    assert total.sessions[456]["frame_vni_not_selected"] == 3
    assert said == ["VNI 456 arrives and is not selected (SNIFFER_MIRROR_VNIS)"]


def test_what_the_kernel_still_has_at_the_end_is_counted(tmp_path: Path) -> None:
    NoCapture.left = 12
    try:
        world = World(tmp_path, obedient)
    finally:
        NoCapture.left = 0
    world.wait_for("is here")
    world.signal(signal.SIGTERM)
    tally = world.end()
    assert (tally["frame_undrained"], tally["frames"]) == (12, 22)
    assert "lost: 12 frames (frame_undrained)" in world.said()


def test_a_change_between_reading_and_following_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "vnis"
    path.write_text("1")
    state = state_of(str(path))
    path.write_text("1,2")
    world = World(tmp_path, obedient, reselect=dict, followed={str(path): state})
    world.wait_for("reloaded")
    world.signal(signal.SIGTERM)
    world.end()


def test_a_file_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "vnis"
    path.write_text("1")
    one = Supervisor(
        NoCapture(),
        Board(1),
        lambda *_: None,
        Supervision(time.monotonic, lambda _: None, dict, followed={str(path): state_of(str(path))}),
    )
    one._places = []  # no workers
    read: list[str] = []
    one._reload = lambda: read.append(path.read_text())  # type: ignore[method-assign]
    for text in ("", "1,", "1,2", "1,2", "1,2"):
        if path.read_text() != text:
            path.write_text(text)
        one._round(0.0)
    assert read == ["1,2"]


def test_no_thread_is_there_when_it_forks(tmp_path: Path) -> None:
    def alone(world: World, number: int, control: socket.socket) -> None:
        world.say(f"threads {threading.active_count()}")
        obedient(world, number, control)

    world = World(tmp_path, alone)
    world.wait_for("threads 1")
    world.signal(signal.SIGTERM)
    world.end()
