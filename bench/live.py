"""``make bench-live``: the highest rate of mirrored frames without loss, as a ratio to a bare receiving loop.

A sender in its own process puts the reference load, in VXLAN, on UDP over loopback at a fixed rate; the
receiver is ``appliance run`` with calls going to /dev/null, or a loop of ``recv_into``. Both get the same
kernel buffer. Without loss means: the kernel dropped nothing and every call came out. The rate is doubled,
then halved into. CPU time a frame tells what a machine cannot show whose cores the sender takes away.

    python -m bench.live --workers 1 2
    python -m bench.live --rate 100000 --seconds 30     # one run, and its outcome
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Event as EventType

from bench.load import Load

BUFFER = 64 << 20  # octets, the appliance's default
PORT = 14789
OUTER = 42  # Ethernet, IPv4 and UDP headers of a frame of the load
BURST = 64  # datagrams between two looks at the clock
SO_RCVBUFFORCE = 33


def datagrams(calls: int, mss: int = 1448) -> list[bytes]:
    """Payloads of the reference load behind their VXLAN header; a VNI goes in front for each round."""
    load = Load(calls, connections=500, vxlan=True, mss=mss, disorder=0.0)
    return [frame.data[OUTER + 8 :] for frame in load.frames()]


def send(
    port: int, rate: int, seconds: float, calls: int, ready: EventType, sent: multiprocessing.Queue[int]
) -> None:
    """``rate`` a second, evenly; each round of the load has a VNI of its own, so that nothing comes twice."""
    load = datagrams(calls)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", port))
    ready.set()
    time.sleep(0.2)
    rounds = max(1, round(rate * seconds / len(load)))
    number, begin = 0, time.perf_counter()
    for vni in range(1, rounds + 1):
        head = struct.pack("!II", 0x08000000, vni << 8)
        for payload in load:
            if not number % BURST:
                while time.perf_counter() < begin + number / rate:
                    pass
            sock.sendmsg((head, payload))
            number += 1
    took = time.perf_counter() - begin
    sent.put(number)
    sent.put(rounds * calls)
    sent.put(round(number / took))


@dataclass
class Outcome:
    offered: int
    rate: int  # what the sender reached
    dropped: int
    calls: int
    expected: int
    cpu: float  # seconds of the receiver

    @property
    def lossless(self) -> bool:
        return not self.dropped and self.calls >= self.expected


def run_sender(rate: int, seconds: float, calls: int) -> tuple[int, int, int]:
    ready = multiprocessing.Event()
    sent: multiprocessing.Queue[int] = multiprocessing.Queue()
    process = multiprocessing.Process(target=send, args=(PORT, rate, seconds, calls, ready, sent))
    process.start()
    numbers = sent.get(), sent.get(), sent.get()
    process.join()
    return numbers


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def appliance(workers: int, rate: int, seconds: float, calls: int) -> Outcome:
    environment = os.environ | {
        "SNIFFER_ENGINE": "vxlan",
        "SNIFFER_SINKS": "stdout",
        "SNIFFER_MIRROR_VXLANPORT": str(PORT),
        "SNIFFER_MIRROR_GENEVEPORT": "",
        "SNIFFER_WORKERS": str(workers),
        "USAGE_LOGGERS_RULES": "include debug",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    argv = [sys.executable, "-m", "appliance", "run", "--summary"]
    with subprocess.Popen(
        argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as one:
        assert one.stderr is not None
        said = one.stderr.readline()
        assert "mirror target" in said, said
        sender = resource.getrusage(resource.RUSAGE_CHILDREN)
        offered, expected, reached = run_sender(rate, seconds, calls)
        sender_after = resource.getrusage(resource.RUSAGE_CHILDREN)
        time.sleep(0.5)
        one.send_signal(signal.SIGTERM)
        said += one.stderr.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = _cpu(after) - _cpu(before) - (_cpu(sender_after) - _cpu(sender))
    assert "the ledger adds up" in said, said

    def count(name: str) -> int:
        found = re.search(rf"^[! ] +{name} +([\d,]+) ", said, re.MULTILINE)
        return int(found[1].replace(",", "")) if found else 0

    lost = offered - count("frames") + count("frame_kernel_dropped")
    return Outcome(offered, reached, lost, count("message_delivered"), expected, used)


def bare(rate: int, seconds: float, calls: int) -> Outcome:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    sock.bind(("127.0.0.1", PORT))
    ours, theirs = multiprocessing.Pipe()
    child = os.fork()
    if not child:
        ours.close()
        buffer = bytearray(65_536)
        number = 0
        receive = sock.recv_into
        begin = time.process_time()
        while receive(buffer):  # an empty datagram is the end
            number += 1
        theirs.send((number, time.process_time() - begin))
        os._exit(0)
    offered, expected, reached = run_sender(rate, seconds, calls)
    time.sleep(0.5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"", ("127.0.0.1", PORT))
    number, used = ours.recv()
    os.waitpid(child, 0)
    sock.close()
    return Outcome(offered, reached, offered - number, expected, expected, used)


def highest(run: object, label: str, seconds: float, calls: int, start: int) -> tuple[int, float]:
    """The highest rate without loss, and CPU microseconds a frame at it."""
    assert callable(run)
    low, high, best = 0, 0, 0.0
    rate = start
    while not high or high - low > low // 10:
        outcome: Outcome = run(rate, seconds, calls)
        shown = f"{outcome.rate:>8} a second, {outcome.dropped} dropped, {outcome.calls} calls"
        print(f"  {label}: {shown}, {outcome.cpu / outcome.offered * 1e6:.2f} us of CPU a frame", flush=True)
        if outcome.lossless and outcome.rate > rate * 0.95:
            low, best = outcome.rate, outcome.cpu / outcome.offered * 1e6
        else:
            high = rate
            if outcome.lossless:  # the sender cannot do more
                return outcome.rate, outcome.cpu / outcome.offered * 1e6
        rate = low * 2 if not high else (low + high) // 2
        if rate < 5_000:
            break
    return low, best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rate", type=int, help="one run at this rate, instead of a ramp")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--calls", type=int, default=10_000, help="in a round of the load")
    arguments = parser.parse_args()
    seconds, calls = arguments.seconds, arguments.calls
    if arguments.rate:
        for workers in arguments.workers:
            print(
                json.dumps(appliance(workers, arguments.rate, seconds, calls).__dict__ | {"workers": workers})
            )
        return
    floor, floor_cpu = highest(bare, "recv_into", seconds, calls, 80_000)
    print(f"bare loop: {floor} frames a second, {floor_cpu:.2f} us a frame")
    for workers in arguments.workers:
        rate, cpu = highest(
            lambda *a, n=workers: appliance(n, *a), f"{workers} workers", seconds, calls, 20_000
        )
        print(
            f"{workers} workers: {rate} frames a second without loss, {rate / floor:.2f} of the bare loop, "
            f"{rate / floor / workers:.2f} a worker; {cpu:.2f} us of CPU a frame"
        )


if __name__ == "__main__":
    main()
