"""Standard output shared by several processes: whole lines, also after one was killed while it wrote."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from appliance.model import Batch
from appliance.sinks import stdout
from appliance.sinks.base import Reject
from appliance.sinks.stdout import StandardOutput


def send(fileno: int, payload: bytes) -> None:
    asyncio.run(StandardOutput(fileno).send(Batch(payload, 1, 0)))


def test_batches_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    out = os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    children = []
    for letter in (b"a", b"b", b"c"):
        pid = os.fork()
        if not pid:
            for _ in range(20):
                send(out, letter * 70_000 + b"\n")
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    os.close(out)
    lines = (tmp_path / "out").read_bytes().splitlines()
    assert len(lines) == 60
    assert all(len(line) == 70_000 and len(set(line)) == 1 for line in lines)


def test_a_line_that_a_killed_process_left_is_ended_by_the_next(tmp_path: Path) -> None:
    out = os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    pid = os.fork()
    if not pid:
        fcntl.lockf(stdout._TURN, fcntl.LOCK_EX)
        os.pwrite(stdout._TURN, stdout._WRITING, 0)
        os.write(out, b"half a li")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    send(out, b"whole\n")
    send(out, b"again\n")
    os.close(out)
    assert (tmp_path / "out").read_bytes() == b"half a li\nwhole\nagain\n"


def test_a_closed_pipe_is_refused() -> None:
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(Reject, match="standard output: Broken pipe"):
        send(write, b"x\n")
    os.close(write)
    os.ftruncate(stdout._TURN, 0)


def test_a_full_pipe_that_does_not_block_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    payload = b"x" * 200_000 + b"\n"
    got = bytearray()

    def read() -> None:
        while len(got) < len(payload):
            got.extend(os.read(reading, 4096))

    thread = threading.Thread(target=read)
    thread.start()
    asyncio.run(StandardOutput(writing).send(Batch(payload, 1, 0)))
    thread.join(10)
    assert bytes(got) == payload
    os.close(reading)
    os.close(writing)
