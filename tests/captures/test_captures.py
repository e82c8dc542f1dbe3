"""The real captures beside the project, against expectations made by independent tools.

Two expectations are not met, on purpose; the packets that show why stand beside them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "captures"
OPTIONAL_MISSED = {
    # L2TP is not decoded: counted as frame_not_tcp.
    "dpkt-nb6-l2tp",
    # A target with a blank in it is kept whole and flagged; the expectation ends it at the blank.
    "arkime-gre-erspan-vxlan",
    # The second request has no version (HTTP/0.9): its connection counts as other.
    "zeek-mixed-vlan-mpls",
}
# The file ends in record 3215 at octet 2,235,594, which announces 856 octets of a packet and has 806.
# What was before is as expected; but a file cut short ends with exit code 1, unless --allow-cut.
CUT = {"pcap2har-out-of-order": "record 3215 at octet 2235594 is cut short"}


def manifest() -> list[dict[str, Any]]:
    path = SHARED / "MANIFEST.json"
    if path.exists():
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    if os.environ.get("CI"):
        raise FileNotFoundError(f"{path}: CI has the captures")
    return []


MANIFEST = manifest()
NAMES = [entry["name"] for entry in MANIFEST]


@pytest.fixture(scope="session")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", SHARED / "check.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def replay(path: Path, *options: str) -> tuple[list[dict[str, Any]], int, str]:
    argv = [sys.executable, "-m", "appliance", "replay", "--format", "exchanges", *options, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode, done.stderr


@pytest.mark.skipif(not MANIFEST, reason="THE CAPTURES ARE NOT HERE: nothing of this file is tested")
def test_the_captures_are_here() -> None:
    assert len(NAMES) == 72


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n not in {"zeek-zero-length-with-drops", *OPTIONAL_MISSED}]
)
def test_capture(name: str, check: ModuleType) -> None:
    entry = next(e for e in MANIFEST if e["name"] == name)
    got, code, said = replay(SHARED / entry["file"], "--summary")
    assert "the ledger adds up" in said
    assert check.judge(entry, got) == []
    assert code == (1 if name in CUT else 0)
    assert CUT.get(name, "") in said


@pytest.mark.parametrize("name", sorted(set(NAMES) & OPTIONAL_MISSED))
def test_optional_capture_is_accounted_for(name: str) -> None:
    entry = next(e for e in MANIFEST if e["name"] == name)
    _, code, said = replay(SHARED / entry["file"], "--summary")
    assert "the ledger adds up" in said
    assert code == 0


@pytest.mark.skipif(not MANIFEST, reason="THE CAPTURES ARE NOT HERE")
def test_cut_capture_may_be_allowed() -> None:
    got, code, said = replay(SHARED / "pcap2har-out-of-order.pcap", "--allow-cut")
    assert len(got) == 287
    assert code == 0
    assert CUT["pcap2har-out-of-order"] in said


@pytest.mark.skipif(not MANIFEST, reason="THE CAPTURES ARE NOT HERE")
def test_calls_after_a_gap_are_found_again() -> None:
    """zeek-zero-length-with-drops: the expectation stops at the first hole, the capture does not.

    Missing are octets 4349-5622 of the client and 1863-2404 of the server (between frames 18 and 19), and
    client octets 10702-11976 (frame 34 acknowledges them). Whole, with head and blank line, are the requests
    in frames 19, 22-24, 29-30 and 37-38. The last three begin where the server had heard everything before,
    and had themselves heard all before the responses in frames 27, 32 and 40: these are pairs. Octets are
    missing right before frame 19, so a request may be, and frame 20 may answer that one: no pair.
    Frame 35 answers a request that is not in the capture.
    """
    got, code, _ = replay(SHARED / "zeek-zero-length-with-drops.pcap")
    seen = [
        (x["request"] and x["request"]["target"][:20], x["response"] and x["response"]["status"], x["flaws"])
        for x in got
    ]
    assert seen == [
        ("/ad/l/1?last=0&ct=0&", 302, []),
        ("/ad/l/1?metr=127&ct=", 200, []),
        ("/ad/l/1?last=0&ct=0&", 302, []),
        (None, 200, ["orphan"]),
        ("/ad/l/1?kv=&ct=300&i", None, ["resynchronised", "unanswered-gap"]),
        ("/ad/l/1?kv=additiona", 200, ["resynchronised"]),
        ("/ad/l/1?kv=&ct=0&ini", 200, []),
        (None, 200, ["orphan"]),
        ("/ad/l/1?kv=&ct=60&in", 200, ["resynchronised"]),
    ]
    answered = [x["response"]["time"] - got[0]["response"]["time"] for x in got if x["response"]]
    assert [round(t, 2) for t in answered] == [0, 22.98, 29.89, 65.0, 74.38, 121.96, 137.03, 242.06]
    assert code == 0
