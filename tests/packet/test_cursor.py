"""Verdicts and where they lead."""

from __future__ import annotations

from appliance.ledger import TABLE
from appliance.packet import cursor
from appliance.packet.cursor import CUT, MALFORMED, REASONS, UNREGISTERED, Cursor, short


def test_every_verdict_is_counted_under_a_name_of_the_ledger() -> None:
    assert set(REASONS.values()) <= set(TABLE)
    assert len(set(REASONS.values())) == len(REASONS)
    assert all(verdict < 0 for verdict in REASONS)


def test_every_space_of_numbers_has_a_verdict_for_what_is_unknown() -> None:
    spaces = (cursor.ETHERTYPE, cursor.PROTOCOL, cursor.UDP_PORT, cursor.TUNNEL)
    assert [space >> 16 for space in spaces] == list(range(len(UNREGISTERED)))


def test_a_header_that_was_on_the_wire_is_cut_and_one_that_was_not_is_malformed() -> None:
    at = Cursor()
    at.start(b"12345678", 20, 0)
    assert short(at, 20) == CUT
    assert short(at, 21) == MALFORMED


def test_a_wire_length_less_than_what_is_there_is_not_believed() -> None:
    at = Cursor()
    at.start(b"12345678", 3, 0)
    assert at.end == 8
