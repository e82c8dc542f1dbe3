from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def put(tmp_path: Path):
    def write(data: bytes, name: str = "a.pcap") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write
