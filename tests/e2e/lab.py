"""A mirror lab on one machine: real nginx and clients, the kernel's own VXLAN, and the appliance as target.

nginx's access log is the truth: what the appliance has of a call is held against the line that nginx wrote.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

SCRIPT = Path(__file__).with_name("mirror-lab.sh")
TOOLS = ("ip", "tc", "ethtool", "nginx", "wrk", "curl", "setpriv")
WAIT = 20.0  # seconds for anything at all
BODIES = {"small": 16, "page": 5_000, "large": 300_000}

_NGINX = """
user root; worker_processes 1; daemon off; error_log {folder}/error-{n}.log; pid {folder}/nginx-{n}.pid;
events {{ worker_connections 1024; }}
http {{
    log_format truth '$msec $status $body_bytes_sent $request_method $request_uri';
    access_log {folder}/access-{n}.log truth;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    keepalive_requests 1000000; gzip off;
    server {{ listen 80; listen [::]:80; root {folder}/www; }}
}}
"""
_WRK = """
local threads = 0
function setup(thread) thread:set("id", threads); threads = threads + 1 end
function init(args) n = 0; tag = args[1] end
function request()
    n = n + 1
    return wrk.format("GET", "/" .. tag .. "?n=" .. tag .. "-" .. id .. "-" .. n .. "-" .. {stamp})
end
"""

Call = tuple[str, str, str, int]  # method, target, status, octets of the body


@dataclass
class Truth:
    """A line of nginx."""

    time: float
    call: Call


@dataclass
class Appliance:
    """``appliance run`` in the lab; calls go to a file, one JSON array a line."""

    process: subprocess.Popen[bytes]
    calls: Path
    log: Path
    ended: int | None = None

    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        until = time.monotonic() + WAIT
        while text not in self.said():
            assert time.monotonic() < until, f"never said {text!r}:\n{self.said()}"
            assert self.process.poll() is None, f"ended:\n{self.said()}"
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    @property
    def pid(self) -> int:
        """The supervisor's; the process that was started may be ``ip`` or ``setpriv``, which become it."""
        return self.process.pid

    def workers(self) -> list[int]:
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in found]

    def stop(self) -> str:
        """SIGTERM, and what it said."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        self.ended = self.process.wait(WAIT * 2)
        return self.said()

    def messages(self, torn: int = 0) -> list[dict[str, str]]:
        """``torn``: how many lines a process may have left that was killed while it wrote."""
        out = []
        for line in self.calls.read_bytes().split(b"\n"):
            try:
                if line:
                    out.append(dict(json.loads(line)))
            except ValueError:
                torn -= 1
        assert torn >= 0, "a line is broken"
        return out

    def heard(self, torn: int = 0) -> Counter[Call]:
        return Counter(heard(message) for message in self.messages(torn))

    def count(self, name: str) -> int:
        """Of the ledger that it printed last."""
        found = re.findall(rf"^[! ] +{name} +([\d,]+) ", self.said(), re.MULTILINE)
        return int(found[-1].replace(",", "")) if found else 0


def heard(message: dict[str, str]) -> Call:
    path = re.sub(
        r"^http://[^/]+", "", message.get("request_url", "")
    )  # none: a response without its request
    query = message.get("request_param:n")
    target = path if query is None else f"{path}?n={query}"
    body = message.get("response_body", "")
    return message.get("request_method", ""), target, message.get("response_code", ""), len(body.encode())


@dataclass
class Lab:
    folder: Path
    name: str
    sources: int = 1
    options: tuple[str, ...] = ()
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Self:
        www = self.folder / "www"
        www.mkdir()
        for body, size in BODIES.items():
            (www / body).write_bytes(base64.b64encode(os.urandom(size)).replace(b"\n", b""))
        self._script("up", "--sources", str(self.sources), *self.options)
        for n in range(1, self.sources + 1):
            path = self.folder / f"nginx-{n}.conf"
            path.write_text(_NGINX.format(folder=self.folder, n=n))
            self.start(f"server{n}", "nginx", "-c", str(path), "-e", str(self.folder / "start.log"))
        for n in range(1, self.sources + 1):
            self.run("client", "curl", "-s", "--retry-connrefused", "--retry", "40", "--retry-delay", "1",
                     "--retry-max-time", "20", "-o", "/dev/null", f"http://10.66.{n}.2/")  # fmt: skip
            (self.folder / f"access-{n}.log").write_text("")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running:
            process.kill()
            process.wait()
        self._script("down")

    def _script(self, *arguments: str) -> None:
        environment = os.environ | {"LAB": self.name}
        done = subprocess.run(
            [SCRIPT, *arguments], env=environment, capture_output=True, check=False, timeout=120
        )
        assert not done.returncode, done.stderr.decode()

    def inside(self, where: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", f"{self.name}-{where}", *command]

    def run(self, where: str, *command: str) -> str:
        done = subprocess.run(
            self.inside(where, *command), capture_output=True, check=False, timeout=WAIT * 3
        )
        assert not done.returncode, f"{command}: {done.stderr.decode()}"
        return done.stdout.decode()

    def start(self, where: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "output").open("ab") as output:
            process = subprocess.Popen(self.inside(where, *command), stdout=output, stderr=output)
        self.running.append(process)
        return process

    def curl(self, *urls: str) -> None:
        """One connection for all of them."""
        self.run("client", "curl", "-s", "-g", "-o", "/dev/null", *_alternate("-o", "/dev/null", urls))

    def wrk(self, url: str, body: str, seconds: int, connections: int = 16) -> None:
        self.run("client", *self.wrk_command(url, body, seconds, connections))

    def wrk_command(self, url: str, body: str, seconds: int, connections: int = 16) -> list[str]:
        script = self.folder / f"{time.monotonic_ns()}.lua"
        script.write_text(_WRK.replace("{stamp}", f'"{time.monotonic_ns()}"'))
        return [
            "wrk",
            "-t",
            "2",
            "-c",
            str(connections),
            "-d",
            f"{seconds}s",
            "-s",
            str(script),
            url,
            "--",
            body,
        ]

    @contextlib.contextmanager
    def database(self) -> Iterator[Path]:
        """A stand-in for Resurface on the appliance's port 7701; the file that its messages go to."""
        path = self.folder / f"database-{time.monotonic_ns()}"
        script = SCRIPT.parents[2] / "examples" / "resurface.py"
        command = self.inside("appliance", sys.executable, str(script), "--port", "7701", "--print")
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        with path.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        self.running.append(process)
        self.run("appliance", "curl", "-s", "--retry-connrefused", "--retry", "20", "--retry-delay", "1",
                 "-o", "/dev/null", "http://127.0.0.1:7701/saturated")  # fmt: skip
        yield path
        process.terminate()
        process.wait(WAIT)

    def truth(self, n: int = 1) -> list[Truth]:
        out = []
        for line in (self.folder / f"access-{n}.log").read_text().splitlines():
            at, status, octets, method, target = line.split(" ", 4)
            out.append(Truth(float(at), (method, target, status, int(octets))))
        return out

    @contextlib.contextmanager
    def appliance(
        self, user: str = "", capability: str = "", where: str = "appliance", **settings: str
    ) -> Iterator[Appliance]:
        """``user``: an unprivileged one, without any capability but ``capability``."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("SNIFFER", "USAGE"))
        }
        environment |= {
            "SNIFFER_ENGINE": "vxlan",
            "SNIFFER_SINKS": "stdout",
            "SNIFFER_WORKERS": "2",
            "USAGE_LOGGERS_RULES": "include debug",
            "PYTHONDONTWRITEBYTECODE": "1",
        } | settings
        keep = [f"--inh-caps=-all,+{capability}", f"--ambient-caps=-all,+{capability}"] if capability else []
        bound = [f"--bounding-set=-all{',+' + capability if capability else ''}"]
        drop = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", *bound, *keep] if user else []
        number = len(list(self.folder.glob("calls-*")))
        calls, log = self.folder / f"calls-{number}", self.folder / f"log-{number}"
        command = self.inside(where, *drop, sys.executable, "-m", "appliance", "run", "--summary")
        with calls.open("wb") as out, log.open("wb") as err:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=err)
        self.running.append(process)
        one = Appliance(process, calls, log)
        one.wait_for("workers:")
        time.sleep(0.3)  # the workers' own start; the kernel keeps what comes before it
        yield one
        one.stop()


def _alternate(option: str, value: str, urls: tuple[str, ...]) -> list[str]:
    """curl wants an output for each URL."""
    out = [urls[0]]
    for url in urls[1:]:
        out += [option, value, url]
    return out
