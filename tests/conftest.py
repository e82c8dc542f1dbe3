"""What all tests share.

Hypothesis has two profiles: ``fast`` (the default; the same examples on every run in CI) and ``deep``
(HYPOTHESIS_PROFILE=deep, for an hour without hurry).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import appliance.model

ROOT = Path(__file__).resolve().parents[1]
CI = "CI" in os.environ

# A slow machine is not a defect: no deadline, no complaint about slow generation.
_SLOW = [HealthCheck.too_slow]
settings.register_profile(
    "fast", max_examples=30, deadline=None, derandomize=CI, print_blob=True, suppress_health_check=_SLOW
)
settings.register_profile(
    "deep", max_examples=5000, deadline=None, print_blob=True, suppress_health_check=_SLOW
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def core() -> str:
    return "compiled" if appliance.model.__file__.endswith(".so") else "interpreted"


def pytest_configure() -> None:
    """APPLIANCE_CORE says which core a run must be about, so that it cannot test the other one unnoticed."""
    wanted = os.environ.get("APPLIANCE_CORE", core())
    if wanted != core():
        raise pytest.UsageError(f"this is to test the {wanted} core, and the {core()} one is imported")


def pytest_report_header() -> str:
    return f"core: {core()}, {appliance.model.__file__}"


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Captures and test vectors beside the project; without them tests are skipped, but never in CI."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        message = f"no folder {path.name!r} beside the project: real captures and test vectors are not tested"
        if CI:
            pytest.fail(message)
        pytest.skip(message)
    return path
