"""The example capture of ``make demo``: the same on every run, and something of everything."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.ledger import Ledger
from appliance.model import HttpExchange
from appliance.pipeline import Pipeline, PipelineOptions
from appliance.sources.pcap import CaptureFiles


@pytest.fixture(scope="module")
def script(root: Path) -> Path:
    return root / "examples" / "make_capture.py"


@pytest.fixture
def replayed(script: Path, tmp_path: Path) -> tuple[list[HttpExchange], Ledger]:
    path = tmp_path / "example.pcap"
    path.write_bytes(runpy.run_path(str(script))["capture"]())
    ledger = Ledger()
    pipeline = Pipeline(PipelineOptions(), ledger)
    calls = [one for batch in CaptureFiles([str(path)]) for one in pipeline.feed(batch)]
    return calls + pipeline.close(), ledger


def test_every_run_writes_the_same_octets(script: Path, tmp_path: Path) -> None:
    for name, seed in (("one", "1"), ("two", "2")):
        argv = [sys.executable, str(script), str(tmp_path / name)]
        subprocess.run(argv, check=True, env={"PYTHONHASHSEED": seed, "TZ": f"UTC-{seed}"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_it_shows_what_the_appliance_is_for(replayed: tuple[list[HttpExchange], Ledger]) -> None:
    calls, ledger = replayed
    assert ledger.unbalanced() == []
    assert len(calls) == 10
    assert len({one.flow for one in calls}) == 5  # several calls to a connection
    assert {one.flow.key.vni for one in calls} == {None, 4242}
    responses = [one.response for one in calls if one.response is not None]
    assert {one.status for one in responses} == {200, 201, 404}
    assert any(one.head.get(b"content-encoding") == b"gzip" for one in responses)
    assert any(one.head.get(b"transfer-encoding") == b"chunked" for one in responses)
    assert [one.flaws for one in calls if one.flaws] == [["response-gap:1448"]]
    assert ledger.tally["tls_bytes"]
