"""Reassembly, phenomenon by phenomenon; what comes out is asserted after every segment."""

from __future__ import annotations

import pytest

from appliance.model import FIN, PSH, RST, SYN, Data
from appliance.stream.half import OVERHEAD, PIECES
from appliance.stream.reassembly import StreamLimits
from tests.stream.steps import CLIENT, Steps

WRAPS = [5000, 0, 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFA, 0x7FFFFFFF, 0x80000000]


@pytest.fixture(params=WRAPS, ids=hex)
def steps(request: pytest.FixtureRequest) -> Steps:
    """Every phenomenon is tried with the wrap of the sequence numbers at several places."""
    return Steps(base=request.param).open()


def test_in_order(steps: Steps) -> None:
    assert steps.c(0, b"abc") == ["c:abc"]
    assert steps.s(0, ack=3) == []
    assert steps.s(0, b"xyz", ack=3) == ["s:xyz"]
    assert steps.c(3, ack=3) == []
    assert steps.c(3, ack=3, flags=FIN) == ["c.fin"]
    assert steps.s(3, ack=4, flags=FIN) == ["s.fin"]
    assert steps.close() == []
    assert steps.ledger.tally["flow_fin"] == 1


def test_reordered_segments_come_out_in_order(steps: Steps) -> None:
    assert steps.c(6, b"ghi") == []
    assert steps.c(3, b"def") == []
    assert steps.c(0, b"abc") == ["c:abc", "c:def", "c:ghi"]


def test_retransmission_with_other_boundaries(steps: Steps) -> None:
    assert steps.c(0, b"abcd") == ["c:abcd"]
    assert steps.c(0, b"abcdef") == ["c:ef"]
    assert steps.c(2, b"cdefgh") == ["c:gh"]
    assert steps.c(0, b"abcdefgh") == []
    assert steps.ledger.tally["segment_duplicate_bytes"] == 4 + 4 + 8


def test_overlap_first_copy_wins_octet_by_octet(steps: Steps) -> None:
    assert steps.c(4, b"EF") == []
    assert steps.c(2, b"cdefgh") == []
    assert steps.c(0, b"abXX") == ["c:ab", "c:cd", "c:EF", "c:gh"]
    assert steps.ledger.tally["segment_duplicate_bytes"] == 2 + 2


def test_keep_alive_probe_is_no_data(steps: Steps) -> None:
    assert steps.c(0, b"abc") == ["c:abc"]
    assert steps.c(2, b"\0") == []
    assert steps.c(2, b"") == []
    assert steps.c(3, b"d") == ["c:d"]


def test_data_on_syn() -> None:
    steps = Steps()
    assert steps.c(-1, b"early", ack=None, flags=SYN) == ["c:early"]
    assert steps.s(-1, ack=5, flags=SYN) == []
    assert steps.c(5, b" late", ack=0) == ["c: late"]


def test_payload_of_zeros_is_kept(steps: Steps) -> None:
    assert steps.c(0, b"\0\0\0") == ["c:\0\0\0"]


def test_duplicate_syn_changes_nothing(steps: Steps) -> None:
    assert steps.c(0, b"abc") == ["c:abc"]
    assert steps.c(-1, ack=None, flags=SYN) == []
    assert steps.s(-1, ack=0, flags=SYN) == []
    assert steps.s(0, b"xyz", ack=3) == ["s:xyz"]
    assert steps.ledger.tally["flows"] == 1


# -- causal order


def test_response_before_its_request_waits_for_it(steps: Steps) -> None:
    assert steps.s(0, b"answer", ack=3) == []
    assert steps.c(0, b"ask") == ["c:ask", "s:answer"]


def test_response_before_handshake_and_request() -> None:
    steps = Steps()
    assert steps.c(-1, ack=None, flags=SYN) == []
    assert steps.s(0, b"answer", ack=3) == []
    assert steps.s(-1, ack=0, flags=SYN) == []
    assert steps.c(0, b"ask", ack=0) == ["c:ask", "s:answer"]


def test_two_fronts_that_wait_for_each_other_are_released(steps: Steps) -> None:
    assert steps.s(0, b"xyz", ack=3) == []  # a retransmission, its acknowledgment newer than its data
    assert steps.c(0, b"abc", ack=3) == ["s:xyz", "c:abc"]


# -- holes


def test_ack_beyond_hole_ends_the_wait(steps: Steps) -> None:
    assert steps.c(0, b"abc") == ["c:abc"]
    assert steps.c(6, b"ghi") == []
    assert steps.s(0, ack=9) == []
    for n in range(31):
        assert steps.c(9 + n, b"x") == []  # the capture may still bring it
        assert steps.c(9 + n, b"x") == []  # a copy is no sign of time
        assert steps.s(0, ack=9) == []
    assert steps.c(40, b"y") == ["c~3", "c:ghi", *["c:x"] * 31, "c:y"]
    assert steps.ledger.tally["gap_acked_bytes"] == 3


def test_acked_hole_is_given_up_at_once_without_reorder_allowance() -> None:
    steps = Steps(limits=StreamLimits(reorder_segments=0)).open()
    assert steps.c(3, b"def") == []
    assert steps.s(0, ack=6) == ["c~3", "c:def"]


def test_acked_hole_ends_after_a_while_without_segments(steps: Steps) -> None:
    assert steps.c(3, b"def") == []
    assert steps.s(0, ack=6) == []
    assert steps.tick(2.9) == []
    assert steps.tick(0.2) == ["c~3", "c:def"]


def test_late_octets_of_an_acked_hole_are_used_within_the_allowance(steps: Steps) -> None:
    assert steps.c(3, b"def") == []
    assert steps.s(0, ack=6) == []
    assert steps.c(0, b"abc") == ["c:abc", "c:def"]
    assert steps.ledger.tally["gaps"] == 0


def test_missing_tail_that_was_acknowledged_is_a_hole(steps: Steps) -> None:
    assert steps.c(0, b"abc") == ["c:abc"]
    assert steps.s(0, b"x", ack=8) == []
    assert steps.tick(3.1) == ["c~5", "s:x"]


def test_unacked_hole_waits_while_the_peer_does_not_acknowledge_it(steps: Steps) -> None:
    assert steps.c(3, b"def") == []
    assert steps.s(0, ack=0) == []
    assert steps.tick(60) == []
    assert steps.c(0, b"abc") == ["c:abc", "c:def"]


def test_unacked_hole_ends_after_gap_wait_when_the_peer_is_silent(steps: Steps) -> None:
    assert steps.c(3, b"def") == []
    assert steps.tick(9.9) == []
    assert steps.tick(0.2) == ["c~3", "c:def"]


def test_a_gap_is_final(steps: Steps) -> None:
    assert steps.c(3, b"def") == []
    assert steps.tick(10.1) == ["c~3", "c:def"]
    assert steps.c(0, b"abc") == []
    assert steps.ledger.tally["segment_late_bytes"] == 3


def test_hole_is_given_up_when_the_direction_holds_too_much() -> None:
    room = 3 * (10 + OVERHEAD)
    steps = Steps(limits=StreamLimits(stream_buffer=room)).open()
    assert steps.c(10, b"b" * 10) == []
    assert steps.c(20, b"c" * 10) == []
    assert steps.c(30, b"d" * 10) == []  # at the limit
    assert steps.c(40, b"e" * 10) == [
        "c~10",
        "c:" + "b" * 10,
        "c:" + "c" * 10,
        "c:" + "d" * 10,
        "c:" + "e" * 10,
    ]


def test_memory_of_all_connections_is_bounded() -> None:
    limits = StreamLimits(stream_memory=8 * (10 + OVERHEAD))
    steps = Steps(limits=limits)
    said = []
    for n in range(9):
        steps.route = CLIENT[:9] + bytes([n]) + CLIENT[10:]
        steps.open()
        said.append(steps.c(10, b"x" * 10))
    assert said[:8] == [[]] * 8  # at the limit
    assert said[8] == ["c~10", "c:xxxxxxxxxx"] * 2  # the two silent the longest, down to seven eighths


def test_truncated_packet_is_a_hole_of_known_size(steps: Steps) -> None:
    assert steps.c(0, b"abc", missing=4) == ["c:abc", "c~4cut"]
    assert steps.c(7, b"hij") == ["c:hij"]
    assert steps.ledger.tally["gap_truncated_bytes"] == 4


def test_fin_not_captured_is_no_hole(steps: Steps) -> None:
    assert steps.c(0, b"abc") == ["c:abc"]
    assert steps.s(0, b"xyz", ack=4, flags=FIN) == []
    assert steps.tick(3.1) == ["s:xyz", "s.fin"]
    assert steps.close() == ["c.shutdown"]
    assert steps.ledger.tally["gaps"] == 0


def test_forged_segment_far_ahead_opens_no_hole_while_the_peer_talks(steps: Steps) -> None:
    assert steps.c(500_000_000, b"forged") == []
    for n in range(40):
        assert steps.c(3 * n, b"abc", ms=1000) == ["c:abc"]
        assert steps.s(0, ack=3 * n + 3) == []
    assert steps.ledger.tally["gaps"] == 0


def test_implausible_sequence_number_is_counted(steps: Steps) -> None:
    assert steps.c(0x7FFF0000, b"forged") == []
    assert steps.ledger.tally["segment_implausible_bytes"] == 6
    assert steps.c(0, b"abc") == ["c:abc"]


# -- joined in the middle, one direction only


def test_mid_stream_start_waits_for_what_came_before() -> None:
    steps = Steps()
    assert steps.c(1003, b"def", ack=2000) == []
    assert steps.c(1000, b"abc", ack=2000) == []
    assert steps.s(2000, b"xyz", ack=1006) == []
    assert steps.tick(3.1) == ["c~?", "c:abc", "c:def", "s~?", "s:xyz"]
    assert steps.c(1006, b"ghi", ack=2003) == ["c:ghi"]


def test_mid_stream_start_ends_after_some_segments() -> None:
    steps = Steps()
    for n in range(32):
        assert steps.c(1000 + n, b"x", ack=2000, flags=PSH) == []
    assert steps.c(1032, b"y", ack=2000, flags=PSH) == ["c~?", *["c:x"] * 32, "c:y"]


def test_syn_after_its_data_still_gives_the_start() -> None:
    steps = Steps()
    assert steps.c(0, b"abc", ack=0) == []
    assert steps.c(-1, ack=None, flags=SYN) == ["c:abc"]
    assert steps.s(-1, ack=0, flags=SYN) == []
    assert steps.s(0, b"xyz", ack=3) == ["s:xyz"]
    assert steps.ledger.tally["midstream"] == 0


def test_one_directional_flow() -> None:
    steps = Steps()
    assert steps.c(-1, ack=None, flags=SYN) == []
    assert steps.c(0, b"abc", ack=0) == ["c:abc"]
    assert steps.c(3, b"def", ack=500) == []  # the server may still come
    assert steps.tick(3.1) == ["c:def"]
    assert steps.c(6, b"ghi", ack=900) == ["c:ghi"]
    assert steps.c(9, ack=900, flags=FIN) == ["c.fin"]
    assert steps.tick(1.1) == ["s.fin"]
    assert steps.ledger.tally["flow_fin"] == 1


def test_direction_of_the_server_only() -> None:
    steps = Steps()
    assert steps.s(-1, ack=0, flags=SYN) == []
    assert steps.s(0, b"answer", ack=3) == []  # the client may still come
    assert steps.tick(3.1) == ["c:answer"]  # side 0 is who was seen first
    assert steps.s(6, b"more", ack=9) == ["c:more"]
    assert steps.ledger.tally["gaps"] == 0


def test_late_copy_does_not_turn_back_the_clock() -> None:
    steps = Steps()
    assert steps.c(-1, ack=None, flags=SYN) == []
    assert steps.c(0, b"abc", ack=0) == ["c:abc"]
    assert steps.c(3, ack=500, flags=FIN, ms=5000) == ["c.fin"]
    steps.now -= 4_900_000_000
    assert steps.c(0, b"abc", ack=0) == []
    steps.now += 4_900_000_000
    assert steps.c(4, ack=500) == []  # a second after FIN has not passed
    assert steps.tick(1.1) == ["s.fin"]


def test_syn_ack_first_tells_both_starts() -> None:
    steps = Steps()
    assert steps.s(-1, ack=0, flags=SYN) == []
    assert steps.s(0, b"banner", ack=0) == ["c:banner"]  # side 0 is who was seen first
    assert steps.c(0, b"abc", ack=6) == ["s:abc"]


# -- the end


def test_fin_before_the_last_octets(steps: Steps) -> None:
    assert steps.c(3, b"def", flags=FIN) == []
    assert steps.c(0, b"abc") == ["c:abc", "c:def", "c.fin"]


def test_octets_beyond_fin_are_implausible(steps: Steps) -> None:
    assert steps.c(3, b"def", ack=0) == []
    assert steps.c(0, b"", ack=0, flags=FIN) == []
    assert steps.s(0, ack=1) == ["c.fin"]
    assert steps.ledger.tally["segment_implausible_bytes"] == 3


def test_half_closed_connection_goes_on_in_the_other_direction(steps: Steps) -> None:
    assert steps.c(0, b"ask", flags=FIN) == ["c:ask", "c.fin"]
    assert steps.s(0, b"answer", ack=4) == ["s:answer"]
    assert steps.s(6, ack=4, flags=FIN) == ["s.fin"]


def test_reset_waits_for_what_the_capture_reordered(steps: Steps) -> None:
    assert steps.c(0, b"ask") == ["c:ask"]
    assert steps.c(3, ack=0, flags=RST) == []
    assert steps.s(0, b"answer", ack=3) == ["s:answer"]
    assert steps.tick(1.1) == ["c.rst", "s.rst"]
    assert steps.ledger.tally["flow_rst"] == 1


def test_reset_that_its_sender_ignores_ends_nothing(steps: Steps) -> None:
    assert steps.c(0, ack=0, flags=RST) == []  # forged
    assert steps.c(0, b"abc") == ["c:abc"]
    assert steps.tick(5) == []
    assert steps.c(3, b"def") == ["c:def"]


def test_reset_far_outside_the_window_ends_nothing(steps: Steps) -> None:
    assert steps.c(100_000_000, ack=0, flags=RST) == []
    assert steps.tick(5) == []
    assert steps.c(0, b"abc") == ["c:abc"]


def test_retransmission_after_the_end_opens_nothing(steps: Steps) -> None:
    steps.c(0, b"ask", flags=FIN)
    steps.s(0, b"answer", ack=4, flags=FIN)
    assert steps.c(0, b"ask", flags=FIN) == []
    assert steps.s(0, b"answer", ack=4, flags=FIN) == []
    assert steps.close() == []
    assert steps.ledger.tally["flows"] == 1


def test_port_reuse_after_the_end(steps: Steps) -> None:
    steps.c(0, b"ask", flags=FIN)
    steps.s(0, b"answer", ack=4, flags=FIN)
    steps.base += 3_000_000
    steps.open()
    assert steps.c(0, b"again") == ["c:again"]
    assert steps.ledger.tally["flows"] == 2


def test_port_reuse_of_a_living_connection_needs_confirmation(steps: Steps) -> None:
    assert steps.c(0, b"ask") == ["c:ask"]
    old = steps.base
    steps.base += 3_000_000_000
    assert steps.c(-1, ack=None, flags=SYN) == []  # may be forged
    assert steps.s(-1, ack=0, flags=SYN) == ["c.reused", "s.reused"]
    assert steps.c(0, b"again") == ["c:again"]
    assert steps.ledger.tally["flow_reused"] == 1
    assert old != steps.base


def test_forged_syn_does_not_end_a_living_connection(steps: Steps) -> None:
    assert steps.c(0, b"ask") == ["c:ask"]
    steps.base += 3_000_000_000
    assert steps.c(-1, ack=None, flags=SYN) == []
    steps.base -= 3_000_000_000
    assert steps.s(0, b"answer", ack=3) == ["s:answer"]
    assert steps.c(3, b"more", ack=6) == ["c:more"]


def test_new_connection_whose_syn_was_not_captured(steps: Steps) -> None:
    assert steps.c(0, b"ask") == ["c:ask"]
    steps.base += 2_000_000_000
    assert steps.c(0, b"other") == ["c.reused", "s.reused"]
    assert steps.tick(3.1) == ["c~?", "c:other"]


def test_idle_connection_ends(steps: Steps) -> None:
    assert steps.c(0, b"abc") == ["c:abc"]
    assert steps.tick(598) == []
    assert steps.tick(3) == ["c.idle", "s.idle"]
    assert steps.ledger.tally["flow_idle"] == 1


def test_number_of_connections_is_bounded_and_the_longest_silent_goes_first() -> None:
    steps = Steps(limits=StreamLimits(max_flows=3))
    for n in range(3):
        steps.route = CLIENT[:9] + bytes([n]) + CLIENT[10:]
        steps.open()
    steps.route = CLIENT[:9] + bytes([0]) + CLIENT[10:]
    assert steps.c(0, b"abc", ms=2000) == ["c:abc"]  # the first is no longer the longest silent
    steps.route = CLIENT[:9] + bytes([3]) + CLIENT[10:]
    assert steps.c(-1, ack=None, flags=SYN) == ["c.evicted", "s.evicted"]
    steps.route = CLIENT[:9] + bytes([0]) + CLIENT[10:]
    assert steps.c(3, b"def") == ["c:def"]
    assert steps.ledger.tally["flow_evicted"] == 1


def test_a_flood_of_acknowledgments_opens_no_connection() -> None:
    steps = Steps()
    for n in range(100):
        steps.route = CLIENT[:9] + bytes([n]) + CLIENT[10:]
        assert steps.c(0, ack=0) == []
    assert steps.ledger.tally["flows"] == 0


def test_capture_ends_with_holes(steps: Steps) -> None:
    assert steps.c(0, b"abc") == ["c:abc"]
    assert steps.c(6, b"ghi") == []
    assert steps.close() == ["c~3", "c:ghi", "c.shutdown", "s.shutdown"]


def test_positions_and_acknowledgments(steps: Steps) -> None:
    """Offsets count holes; ``acked`` is how much of the other side the sender had."""
    steps.c(0, b"abc", ack=0)
    steps.s(0, b"vwxyz", ack=3)
    steps.c(3, b"def", ack=5, missing=4)
    steps.c(10, b"g", ack=5)
    seen = [(e.side, e.offset, e.acked) for e in steps.events if isinstance(e, Data)]
    assert seen == [(0, 0, 0), (1, 0, 3), (0, 3, 5), (0, 10, 5)]


def test_number_of_pieces_is_bounded() -> None:
    steps = Steps(limits=StreamLimits(stream_buffer=1 << 30)).open()
    for n in range(PIECES):
        assert steps.c(2 * n + 1, b"x") == []  # at the limit: 4096 holes
    said = steps.c(2 * PIECES + 1, b"x")
    assert said[:2] == ["c~1", "c:x"]
    assert steps.ledger.tally["gaps"] == 1


def test_a_segment_over_many_pieces_fills_their_holes() -> None:
    steps = Steps().open()
    for n in range(50):
        steps.c(2 * n + 1, b"x")
    assert "".join(part[2:] for part in steps.c(0, b"y" * 100)) == "yx" * 50
    assert steps.ledger.tally["segment_duplicate_bytes"] == 50
