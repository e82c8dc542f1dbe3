"""With APPLIANCE_COMPILE=1 the core becomes C extensions (mypyc); otherwise plain Python is installed.

    APPLIANCE_COMPILE=1 pip install --no-build-isolation .     needs mypy, setuptools and a C compiler

Both are the same source and pass the same tests (``make compiled``). The reader of capture files goes
along: it is a fifth of the whole, and a tenth faster compiled. The rest is in pyproject.toml.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import setup

MODULES = ("model.py", "ledger.py", "flaws.py", "exchange.py", "content.py", "message.py", "pipeline.py")
CORE = (*MODULES, "packet", "stream", "decoders", "rules", "sources/pcap.py")


def core_files() -> list[str]:
    """The core's modules; not ``__init__``, which hold a docstring."""
    files: list[Path] = []
    for name in CORE:
        path = Path("appliance", name)
        files += [path] if path.is_file() else path.rglob("*.py")
    return sorted(str(file) for file in files if file.name != "__init__.py")


def extensions() -> list[object]:
    if os.environ.get("APPLIANCE_COMPILE") != "1":
        return []
    from mypyc.build import mypycify  # noqa: PLC0415  # needed here only

    return list(mypycify(core_files(), opt_level="3"))


setup(ext_modules=extensions())
