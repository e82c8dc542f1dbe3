"""A disk that is small, or not to be written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A tmpfs. Without root nothing is tested; CI has it."""
    folder.mkdir()
    command = ["/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        why = "a small tmpfs needs root: a full disk is not tested"
        if "CI" in os.environ:
            pytest.fail(why)
        pytest.skip(why)
    try:
        yield
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(folder)], check=True)


def make_read_only(folder: Path) -> None:
    """Of ``small_disk``."""
    subprocess.run(["/bin/mount", "-o", "remount,ro", str(folder)], check=True)
