"""Fuzz target: any octets as a capture file.

Invariants: nothing is raised; at most one fault; no more octets come out than went in, but for gzip.

    python -m tests.fuzz.fuzz_pcap [atheris options] [corpus]
"""

from __future__ import annotations

import tempfile

from appliance.sources.pcap import RECORD_LIMIT, CaptureFiles
from tests.fuzz.engine import run


def one_input(data: bytes) -> None:
    """Hold the invariants against one input; AssertionError where they do not."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        source = CaptureFiles([file.name])
        sizes = [len(frame.data) for batch in source for frame in batch]
    assert len(source.faults) <= 1
    assert max(sizes, default=0) <= max(RECORD_LIMIT, len(data))
    assert data[:2] == b"\x1f\x8b" or sum(sizes) <= len(data)


if __name__ == "__main__":
    run(one_input)
