"""``capture``: every real capture in turn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.packet.frames import CAPTURES, read

if TYPE_CHECKING:
    from appliance.model import Frame


class Capture(NamedTuple):
    path: Path
    frames: list[Frame]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "capture" in metafunc.fixturenames:
        paths: list[Path | None] = [*sorted(CAPTURES.glob("*.pcap*"))]
        metafunc.parametrize(
            "capture", paths or [None], indirect=True, ids=lambda p: p.name if p else "absent"
        )


@pytest.fixture
def capture(request: pytest.FixtureRequest) -> Capture:
    if request.param is None:
        assert "CI" not in os.environ, f"{CAPTURES} has to be there in CI"
        pytest.skip(f"REAL CAPTURES NOT TESTED: {CAPTURES} is absent")
    return Capture(request.param, read(request.param))
