"""Find a part by its name: a source, format or sink is one module in its package.

Contract: ``find`` tells "there is no such part" (LookupError, with those that exist) from "its module
failed to import" (the module's own error comes through).
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def names(package: str) -> list[str]:
    """The parts in ``package``, in alphabetical order."""
    path = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_"))


def find(package: str, name: str) -> ModuleType:
    known = names(package)
    if name not in known:
        raise LookupError(f"{name!r} is not one of {', '.join(known)}")
    return importlib.import_module(f"{package}.{name}")
