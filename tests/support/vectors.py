"""The specification's vectors, copied into the project as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent.parent / "vectors"


def rules() -> dict[str, list[dict[str, Any]]]:
    return json.loads((_FOLDER / "rules-vectors.json").read_text())  # type: ignore[no-any-return]


def messages() -> list[dict[str, Any]]:
    return json.loads((_FOLDER / "message-vectors.json").read_text())["vectors"]  # type: ignore[no-any-return]
