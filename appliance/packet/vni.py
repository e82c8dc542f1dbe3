"""Which virtual networks are wanted: ``SNIFFER_MIRROR_VNIS``.

In: the setting's text, VNIs separated by commas and/or white space. Out: a verdict for each VNI.
The meaning is the predecessor's: the list is walked in its order, a positive entry accepts its VNI,
a negative one rejects it, the first that names the VNI decides. A VNI that no entry names is
accepted if there is no entry at all or any negative one, else rejected. Entry 0 names nothing.

The walk is done once, here: the first entry for a VNI is its verdict, so a look-up costs the same
however long the list is.
"""

from __future__ import annotations

import re
from typing import Final

VNI_OCTETS: Final = 3
MAX_VNI: Final = 0xFFFFFF  # 24 bits (RFC 7348 §5, RFC 8926 §3.4)

_SEPARATOR: Final = re.compile(r"[,\s]+")
_ENTRY: Final = re.compile(r"-?0*[0-9]{1,8}", re.ASCII)


class VniSelection:
    """Verdicts by VNI; ``verdicts`` and ``default`` are for the one hot loop that reads them."""

    __slots__ = ("default", "verdicts")

    def __init__(self, entries: list[int]) -> None:
        self.verdicts: dict[bytes, bool] = {}
        self.default = not entries
        for entry in entries:
            if entry:
                self.verdicts.setdefault(abs(entry).to_bytes(VNI_OCTETS), entry > 0)
            if entry < 0:
                self.default = True

    @classmethod
    def parse(cls, text: str) -> VniSelection:
        """Read the setting. ValueError names the first entry that is not a VNI.

        >>> VniSelection.parse("1, -2").selects(3)
        True
        """
        entries = []
        for word in _SEPARATOR.split(text):
            if not word:
                continue
            if not _ENTRY.fullmatch(word) or abs(int(word)) > MAX_VNI:
                msg = f"{word!r} is not a VNI: -{MAX_VNI} to {MAX_VNI}, a negative number excludes"
                raise ValueError(msg)
            entries.append(int(word))
        return cls(entries)

    def selects(self, vni: int) -> bool:
        """Whether frames of this VNI (0..16777215) are wanted."""
        return self.verdicts.get(vni.to_bytes(VNI_OCTETS), self.default)
