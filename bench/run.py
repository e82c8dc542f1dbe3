"""``make bench``: microseconds of CPU per call, by stage and whole, beside the floor and other tools.

All rows come from one run, the stages and their floor in turn and each first once, several times; then the
other tools. Quote the ratios. The file is read from the page cache. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson
from isal import isal_zlib

import appliance.model
from appliance.ledger import Ledger
from appliance.message import Messages
from appliance.model import Batch, Frame
from appliance.pipeline import Pipeline, PipelineOptions, Publication
from appliance.rules.engine import Rules
from appliance.rules.grammar import parse
from appliance.ship.batch import Batcher
from appliance.ship.spool import Spool
from appliance.sinks.base import SinkOptions
from appliance.sinks.lake import Lake
from appliance.sinks.resurface import LEVEL
from appliance.sources.pcap import CaptureFiles
from appliance.tuning import GC_THRESHOLD
from bench import floor
from bench.load import Load, write

STAGES = ("read", "decode", "reassemble", "http", "pair")


def stage(path: Path, last: str) -> int:
    """The pipeline up to and with ``last``; the number of exchanges."""
    pipeline = Pipeline(PipelineOptions(), Ledger())
    depth = STAGES.index(last)
    exchanges = 0
    for frames in CaptureFiles([str(path)]):
        if depth < 1:
            continue
        segments = pipeline.packets.feed(frames)
        if depth < 2:
            continue
        events = pipeline.streams.feed(segments)
        if depth < 3:
            continue
        messages = pipeline.http.feed(events)
        if depth < 4:
            continue
        exchanges += len(pipeline.pairs.feed(messages))
    return exchanges


def whole(path: Path) -> int:
    """What ``appliance replay`` does, without writing."""
    ledger = Ledger()
    pipeline = Pipeline(PipelineOptions(), ledger)
    exchanges = sum(len(pipeline.feed(frames)) for frames in CaptureFiles([str(path)]))
    exchanges += len(pipeline.close())
    assert ledger.unbalanced() == []
    return exchanges


def from_memory(batches: list[list[Frame]]) -> int:
    """As ``whole``, the frames already in memory, as the floor's octets are."""
    pipeline = Pipeline(PipelineOptions(), Ledger())
    return sum(len(pipeline.feed(frames)) for frames in batches) + len(pipeline.close())


def lines(path: Path, rules: str) -> list[bytes]:
    """``whole``, messages, ``rules`` and JSON: what a database is sent, before compression."""
    ledger = Ledger()
    pipeline = Pipeline(PipelineOptions(), ledger)
    engine = Rules(parse(rules), ledger, lambda _: 0, time.perf_counter)
    publish = Publication(Messages(), engine, ledger, "bench").publish
    out = []
    for frames in CaptureFiles([str(path)]):
        for exchange in pipeline.feed(frames):
            message = publish(exchange)
            if message is not None:
                out.append(orjson.dumps(message))
    return out


def compress(bundles: list[bytes]) -> int:
    return sum(len(isal_zlib.compress(bundle, LEVEL)) for bundle in bundles)


def scapy_read(path: Path) -> int:
    from scapy.utils import RawPcapReader  # noqa: PLC0415  # half a second to load

    return sum(1 for _ in RawPcapReader(str(path)))


def cpu(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def cpu_of_command(argv: list[str], folder: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(folder: Path, load: Load, rounds: int) -> None:
    path = folder / "load.pcap"
    frames = write(path, load)
    payloads = list(Load(load.calls, load.connections, load.vxlan, load.mss, load.seed).payloads())
    messages = floor.run(payloads)
    exchanges = whole(path)
    label = f"{'VXLAN' if load.vxlan else 'plain'}, MSS {load.mss}"
    print(f"\n{label}: {load.calls} calls, {frames / load.calls:.2f} frames a call")
    print(f"  found: {exchanges} exchanges, the floor {messages} messages")
    rows: dict[str, Callable[[], float]] = {"floor": lambda: cpu(lambda: floor.run(payloads))}
    for name in STAGES:
        rows[f"up to {name}"] = lambda name=name: cpu(lambda: stage(path, name))  # type: ignore[misc]
    batches = list(CaptureFiles([str(path)]))
    rows["frames in memory"] = lambda: cpu(lambda: from_memory(batches))
    rows["whole"] = lambda: cpu(lambda: whole(path))
    for name in ("debug", "strict", "standard"):
        rows[f"to lines, {name}"] = lambda name=name: cpu(lambda: lines(path, f"include {name}"))  # type: ignore[misc]
    found = lines(path, "include debug")
    bundle = b"\n".join(found)
    bundles = [bundle[at : at + (5 << 20)] for at in range(0, len(bundle), 5 << 20)]
    rows["compression"] = lambda: cpu(lambda: compress(bundles))
    tools: dict[str, Callable[[], float]] = {}
    if shutil.which("tcpflow") and not load.vxlan:  # it does not unwrap VXLAN and finds nothing there
        tools["tcpflow -a"] = lambda: _tcpflow(path, folder)
    if shutil.which("tshark"):
        tools["tshark"] = lambda: cpu_of_command(["tshark", "-r", str(path), "-q", "-z", "http,tree"], folder)
    times = _interleaved(rows, rounds)
    # Apart: what runs right after a tool finds its files in the caches instead of its own data.
    times |= {name: [tool() for _ in range(min(rounds, 3))] for name, tool in tools.items()}
    report(times, load.calls)


def _interleaved(rows: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each row once a round, another one first each time: who comes after whom is shared out."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    gc.collect()
    gc.freeze()
    names = list(rows)
    for n in range(rounds):
        first = n % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(rows[name]())
    return times


def report(times: dict[str, list[float]], calls: int) -> None:
    base = times["floor"]
    before = 0.0
    print(f"  {'':<22}{'us a call':>10}{'of it':>9}{'/ floor':>9}   (medians; ratios pair by pair)")
    for name, values in times.items():
        median = statistics.median(values) / calls * 1e6
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=False))
        own = f"{median - before:9.2f}" if name.startswith("up to") else " " * 9
        before = median if name.startswith("up to") else before
        print(f"  {name:<22}{median:>10.2f}{own}{ratio:>9.2f}")
    if "tcpflow -a" in times:
        share = statistics.median(times["to lines, debug"]) / statistics.median(times["tcpflow -a"])
        print(f"  to lines with include debug: {share:.2f} of tcpflow -a")
        faster = statistics.median(times["tcpflow -a"]) / statistics.median(times["whole"])
        print(f"  {faster:.2f} times as fast as tcpflow -a")


def _tcpflow(path: Path, folder: Path) -> float:
    out = folder / "tcpflow"
    shutil.rmtree(out, ignore_errors=True)
    return cpu_of_command(["tcpflow", "-a", "-o", str(out), "-r", str(path)], folder)


def spooled(path: Path, batches: list[Batch]) -> None:
    """Onto the disk and back again."""
    spool = Spool(path, 1 << 40)
    for batch in batches:
        spool.put(batch)
    while (found := spool.first()) is not None:
        spool.remove(found.number)
    spool.close()


def laked(path: Path, batches: list[Batch]) -> None:
    async def run() -> None:
        sink = Lake(SinkOptions(lake_url=str(path)), together=len(batches))
        sending = [asyncio.create_task(sink.send(batch)) for batch in batches]
        await asyncio.sleep(0)
        sink.hurry()  # no more will come
        await asyncio.gather(*sending)
        await sink.close()

    asyncio.run(run())


def shipping(folder: Path, rounds: int) -> None:
    """What a spool and a lake cost beside what every sink costs."""
    found = lines(folder / "load.pcap", "include debug")
    batcher = Batcher(5 << 20, 1 << 62)
    batches = [batch for batch in (*(batcher.add(line, 0) for line in found), batcher.flush()) if batch]
    payloads = [batch.payload for batch in batches]
    times = _interleaved(
        {
            "compression": lambda: cpu(lambda: compress(payloads)),
            "JSON read again": lambda: cpu(lambda: [orjson.loads(line) and None for line in found]),
            "spool, and back": lambda: cpu(lambda: spooled(folder / "spool.db", batches)),
            "lake": lambda: cpu(lambda: laked(folder / "lake", batches)),
        },
        rounds,
    )
    print(
        f"\nshipping: {len(found)} calls of {sum(map(len, payloads)) // len(found)} octets, us of CPU a call"
    )
    for name, values in times.items():
        print(f"  {name:<22}{statistics.median(values) / len(found) * 1e6:>10.2f}")
    shutil.rmtree(folder / "lake")


def reading(folder: Path, rounds: int) -> None:
    path = folder / "load.pcap"
    frames = sum(len(batch) for batch in CaptureFiles([str(path)]))
    times = _interleaved(
        {"ours": lambda: cpu(lambda: stage(path, "read")), "scapy": lambda: cpu(lambda: scapy_read(path))},
        rounds,
    )
    ours, theirs = (statistics.median(times[name]) / frames * 1e6 for name in ("ours", "scapy"))
    times_as_much = f"scapy's RawPcapReader {theirs:.2f} us, {theirs / ours:.1f} times"
    print(f"\nreading a record: ours {ours:.2f} us, {times_as_much}")


def resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def memory_of_a_million() -> None:
    """Resident size between the first and the last tenth of a million packets."""
    pipeline = Pipeline(PipelineOptions(), Ledger())
    marks = []
    batch: list[Frame] = []
    for n, frame in enumerate(Load(200_000).frames()):
        batch.append(frame)
        if len(batch) == 512:
            pipeline.feed(batch)
            batch = []
        if n in (100_000, 900_000):
            marks.append(resident())
    grown = marks[1] - marks[0]
    print(
        f"a million packets: {marks[0]:.0f} MiB after a tenth, {marks[1]:.0f} MiB after nine ({grown:+.1f})"
    )


def memory_of_idle(connections: int = 50_000) -> None:
    before = resident()
    pipeline = Pipeline(PipelineOptions(), Ledger())
    load = Load(connections, connections)
    batch: list[Frame] = []
    for frame in load.frames():
        batch.append(frame)
        if len(batch) == 512:
            pipeline.feed(batch)
            batch = []
    pipeline.feed(batch)
    print(f"{connections} idle connections after one call each: {resident() - before:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: small loads, one round")
    parser.add_argument("--memory", choices=["million", "idle"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        memory_of_a_million() if arguments.memory == "million" else memory_of_idle()
        return
    gc.set_threshold(*GC_THRESHOLD)
    compiled = (appliance.model.__file__ or "").endswith(".so")
    print(f"Python {sys.version.split()[0]}, the core is {'compiled (mypyc)' if compiled else 'interpreted'}")
    calls, rounds = (1_000, 1) if arguments.quick else (20_000, 8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for vxlan in (False, True):
            for mss in (1448, 8500):
                measure(folder, Load(calls, vxlan=vxlan, mss=mss), rounds)
        reading(folder, rounds)
        shipping(folder, rounds)
    print(flush=True)
    if not arguments.quick:  # each in a process of its own: what was measured before leaves its mark
        for which in ("million", "idle"):
            subprocess.run([sys.executable, "-m", "bench.run", "--memory", which], check=True)


if __name__ == "__main__":
    main()
