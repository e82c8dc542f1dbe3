"""What the log says of the traffic: who begins, who arrives uninvited, what was lost; each once.

Contract: a mirror session is named when its first frames come, and when it is not selected; of losses the
difference to the last report is told, by name, with the sessions that it hit most. Nothing is counted here.

Bounds: NAMED sessions of either kind; MOST with a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from appliance.ledger import BY_SESSION, OTHER_SESSIONS, TABLE, Ledger

MOST: Final = 5
NAMED: Final = 256
NOT_DELIVERED: Final = ("message_rejected", "message_shed", "message_worker_lost", "message_undelivered")


class News:
    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._begun: set[int] = set()
        self._strangers: set[int] = set()
        self._lost: dict[str, int] = dict.fromkeys(TABLE, 0)
        self._lost_by: dict[int, dict[str, int]] = {}

    def sessions(self, found: Iterable[tuple[int, bool]]) -> None:
        """By VNI, and whether anything of it was selected."""
        for vni, selected in found:
            if not selected:
                self.stranger(vni)
            elif vni not in self._begun and vni != OTHER_SESSIONS and len(self._begun) < NAMED:
                self._begun.add(vni)
                self._say(f"VNI {vni}: the first frames have come")

    def stranger(self, vni: int) -> None:
        if vni not in self._strangers and vni != OTHER_SESSIONS and len(self._strangers) < NAMED:
            self._strangers.add(vni)
            self._say(f"VNI {vni} arrives and is not selected (SNIFFER_MIRROR_VNIS)")

    def selected_anew(self) -> None:
        """Who is a stranger from now on is said, again if need be."""
        self._strangers.clear()

    def losses(self, total: Ledger) -> None:
        """Since the last time."""
        new = {
            name: total.tally[name] - self._lost[name]
            for name, entry in TABLE.items()
            if entry.lost and total.tally[name] > self._lost[name]
        }
        for name, n in new.items():
            where = self._where(name, total)
            self._say(f"lost: {n} {TABLE[name].unit} ({name}): {TABLE[name].meaning}{where}")
        self._lost = dict(total.tally)
        self._lost_by = {vni: dict(counts) for vni, counts in total.sessions.items()}

    def _where(self, name: str, total: Ledger) -> str:
        if name not in BY_SESSION:
            return ""
        lost = {vni: n[name] - self._lost_by.get(vni, {}).get(name, 0) for vni, n in total.sessions.items()}
        most = sorted((vni for vni, n in lost.items() if n), key=lambda vni: -lost[vni])[:MOST]
        return "; VNI " + ", ".join(f"{vni}: {lost[vni]}" for vni in most) if most else ""


def farewell(total: Ledger) -> str:
    """What came, and what became of it, in a line."""
    tally = total.tally
    lost = tally["frame_kernel_dropped"] + tally["frame_worker_lost"] + tally["frame_undrained"]
    rows = {f"{sink}: ": row for sink, row in total.sinks.items()} if len(total.sinks) > 1 else {"": tally}
    outcomes = [
        f"{sink}{row['message_delivered']} delivered, {row['message_spooled']} in the spool, "
        f"{sum(row[name] for name in NOT_DELIVERED)} not delivered"
        for sink, row in rows.items()
    ]
    came = f"{tally['frames']} frames, {lost} of them lost; {tally['exchanges']} calls, "
    return came + "; ".join(outcomes)
