from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.lab import TOOLS, Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """Build a lab; it is taken down at the end of the test."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() or missing:
        why = f"the mirror lab needs root and {', '.join(missing or TOOLS)}: nothing was tested end to end"
        if "CI" in os.environ:
            pytest.fail(why)
        pytest.skip(why)
    tmp_path.chmod(0o755)
    with ExitStack() as stack:

        def build(*options: str, sources: int = 1) -> Lab:
            return stack.enter_context(Lab(tmp_path, f"e2e{os.getpid()}", sources, options))

        yield build
