"""What is set once for the whole process."""

from __future__ import annotations

from typing import Final

# Almost everything dies by reference count; the cycles (a connection and its two directions) are few.
# With CPython's default of 700 a fifth to a third of the time goes into looking for more of them.
GC_THRESHOLD: Final = (50_000, 20, 50)
