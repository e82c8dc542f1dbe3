"""The fuzz targets without a fuzzer: inputs that once failed, kept as traces, and some at random.

``traces/TARGET-PHENOMENON.hex`` is an input of ``fuzz_TARGET``, in hexadecimal.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

HERE = Path(__file__).parent
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))
TRACES = sorted((HERE / "traces").glob("*.hex"))


def one_input(target: str, data: bytes) -> None:
    importlib.import_module(f"tests.fuzz.fuzz_{target}").one_input(data)


def test_every_stage_has_a_target() -> None:
    assert TARGETS == ["http1", "packet", "pcap", "stream"]


@pytest.mark.parametrize("trace", TRACES, ids=lambda path: path.stem)
def test_trace(trace: Path) -> None:
    one_input(trace.stem.partition("-")[0], bytes.fromhex(trace.read_text()))


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.binary(max_size=400))
def test_random_octets(target: str, data: bytes) -> None:
    one_input(target, data)
