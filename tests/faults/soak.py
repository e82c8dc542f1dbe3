"""``make soak``: load for twenty minutes while the database fails at random; memory, files and threads stay.

The lake and the spool are small, so that they are full most of the time. Every few seconds the database does
something else (world.FAILURES and worse), by dice with a seed. What it took, what the ledger says, and what
was sent have to agree at the end; memory is that of the second quarter of the time, within a tenth.

    python -m tests.faults.soak --minutes 20
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults.world import Service, World

MODES: Final = (
    "takes", "takes", "takes", "fails with 500", "is busy", "resets in the middle of a body",
    "takes and resets", "never answers", "is down",
)  # fmt: skip
SETTINGS: Final = {
    "SNIFFER_SINKS": "resurface,lake",
    "SNIFFER_SPOOL_MAX": "32mb",
    "SNIFFER_LAKE_MAX": "16mb",
    "SNIFFER_DRAIN_SECONDS": "60",
    "SNIFFER_FLOW_IDLE_SECONDS": "30",  # every second brings new connections
    "USAGE_LOGGERS_BUNDLE_QUEUE_SIZE": "16",
}
ALLOWED: Final = 0.1  # of the memory


@dataclass
class Usage:
    """Of all processes of the service."""

    at: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # MiB
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def look(self, service: Service, now: float) -> None:
        processes = [Path(f"/proc/{pid}") for pid in (service.process.pid, *service.workers())]
        fields = [
            dict(line.split(":", 1) for line in (one / "status").read_text().splitlines())
            for one in processes
        ]
        self.at.append(now)
        self.memory.append(sum(int(one["RssAnon"].split()[0]) for one in fields) >> 10)
        self.threads.append(sum(int(one["Threads"]) for one in fields))
        self.files.append(sum(len(list((one / "fd").iterdir())) for one in processes))

    def line(self, sent: int) -> str:
        files = f"{self.files[-1]:4} files  {self.threads[-1]:3} threads"
        return f"{self.at[-1]:6.0f} s  {self.memory[-1]:5} MiB  {files}  {sent:8} calls sent"

    def quarters(self, values: list[int]) -> list[float]:
        size = max(len(values) // 4, 1)
        return [statistics.median(values[at : at + size]) for at in range(0, 4 * size, size) if values[at:]]

    def faults(self, *, memory: bool) -> list[str]:
        out = []
        for name, values, allowed in (
            ("MiB", self.memory, ALLOWED),
            ("files", self.files, 0.2),
            ("threads", self.threads, 0.2),
        ):
            if name == "MiB" and not memory:
                continue
            _, second, *_, last = self.quarters(values)
            if abs(last - second) > max(allowed * second, 8):
                out.append(f"{name}: {second:g} in the second quarter, {last:g} in the last")
        return out


def run(folder: Path, seconds: float, rate: int, seed: int, *, memory: bool) -> list[str]:
    """What is wrong; empty where nothing is."""
    dice = random.Random(seed)
    world = World(folder)
    usage = Usage()
    try:
        with world.service(**SETTINGS, SNIFFER_LAKE_URL=str(folder / "lake")) as service:
            begin = time.monotonic()
            change = 0.0
            while (now := time.monotonic() - begin) < seconds:
                if now >= change:
                    change = now + dice.uniform(1, 8)
                    _become(world, dice.choice(MODES))
                world.mirror.burst(rate, 1.0)
                usage.look(service, now)
                if len(usage.at) % 30 == 1:
                    print(usage.line(world.mirror.sent), flush=True)
            _become(world, "takes")
            service.heard(world.mirror.sent)
            counts = service.stop()
            print(service.said().rpartition("by sink\n")[2].partition("by VNI")[0])
        found = usage.faults(memory=memory)
        found += world.database.faults
        if counts["messages"] != world.mirror.sent:
            found.append(f"{world.mirror.sent} calls were sent, {counts['messages']} came out")
        row = service.row("resurface")
        taken = len(world.database.calls)
        print(f"the database holds {taken} calls and {world.database.calls.total() - taken} repeats")
        if not row["delivered"] <= taken <= world.mirror.sent - row["rejected"]:
            found.append(f"{row['delivered']} delivered, but the database holds {taken}")
        if set(world.database.calls) - world.mirror.calls:
            found.append("calls that nobody made")
        print(f"memory by quarter: {usage.quarters(usage.memory)} MiB")
        return found
    finally:
        world.close()


def _become(world: World, mode: str) -> None:
    if world.database.mode == "is down":
        world.database.open()
    world.database.mode = mode
    if mode == "is down":
        world.database.shut()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=int, default=300, help="calls a second")
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        faults = run(Path(folder), a.minutes * 60, a.rate, a.seed, memory=True)
    for fault in faults:
        print(f"wrong: {fault}")
    print("nothing is wrong" if not faults else "")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
