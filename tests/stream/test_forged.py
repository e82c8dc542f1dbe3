"""Control numbers that the endpoints did not believe: what follows them decides, not they."""

from __future__ import annotations

import pytest

from appliance.model import ACK, FIN, RST, Segment
from appliance.stream.connection import FOREIGN
from appliance.stream.reassembly import StreamLimits
from tests.stream.steps import Steps
from tests.support.run import Stages
from tests.support.tcp import MASK, MS, Conversation

CALLS = 100
FORGED_AT = 3


def talk(seq: int, ack: int, flags: int, copies: int = 1, pause: int = 0) -> tuple[Stages, int, list[str]]:
    """A hundred calls; after the third, segments of the client that are ``seq`` and ``ack`` ahead, and a
    pause in ms. The stages, the calls that were paired, and the flaws of all.
    """
    stages = Stages()
    both = Conversation().handshake()
    for n in range(CALLS):
        if n == FORGED_AT:
            for _ in range(copies):
                both.now += MS
                numbers = ((both.next[0] + seq) & MASK, (both.next[1] + ack) & MASK)
                both.out.append(Segment(both.routes[0], both.now, *numbers, flags, b"", 0))
            both.now += pause * MS
        both.ask(b"GET /%d HTTP/1.1\r\n\r\n" % n)
        both.answer(b"HTTP/1.1 200 OK\r\nX: /%d\r\nContent-Length: 2\r\n\r\nok" % n)
    found = stages.feed(both.out) + stages.close()
    paired = 0
    for x in found:
        if x.request is not None and x.response is not None:
            paired += 1
            assert x.request.head.start[1] == x.response.head.fields[0][1]
    return stages, paired, [name for x in found for name in x.flaws]


@pytest.mark.parametrize("pause", [0, 900])
@pytest.mark.parametrize("ahead", [0, 5, 100_000, FOREIGN - 1])
def test_reset_that_its_sender_ignores_costs_nothing(ahead: int, pause: int) -> None:
    assert talk(ahead, 0, RST, pause=pause)[1:] == (CALLS, [])


@pytest.mark.parametrize("ahead", [0, 5, 100_000, FOREIGN - 1])
def test_connection_that_goes_on_long_after_a_reset_is_joined_again(ahead: int) -> None:
    assert talk(ahead, 0, RST, pause=4000)[1:] == (CALLS, ["resynchronised"])


@pytest.mark.parametrize("pause", [0, 4000, 20_000])
@pytest.mark.parametrize("copies", [1, 3])
def test_acknowledgment_of_what_was_never_sent_is_no_hole(copies: int, pause: int) -> None:
    stages, paired, flaws = talk(0, 20_000, ACK, copies, pause)
    assert (paired, flaws) == (CALLS, [])
    assert stages.ledger.tally["gap_bytes"] == 0


@pytest.mark.parametrize("pause", [0, 4000])
@pytest.mark.parametrize("ahead", [1, 5, 60, 100_000])
@pytest.mark.parametrize("ack", [0, 400_000_000])
def test_fin_that_its_sender_goes_beyond_costs_nothing(ahead: int, ack: int, pause: int) -> None:
    assert talk(ahead, ack, FIN | ACK, pause=pause)[1:] == (CALLS, [])


@pytest.mark.parametrize("pause", [0, 4000])
def test_forged_fin_at_the_right_number_costs_one_request_and_says_so(pause: int) -> None:
    """Nothing tells it from a true one until the peer acknowledges octets from beyond it."""
    stages, paired, flaws = talk(0, 0, FIN | ACK, pause=pause)
    assert (paired, flaws) == (CALLS - 1, ["orphan", "resynchronised"])
    assert stages.ledger.tally["segment_late_bytes"] == len(b"GET /3 HTTP/1.1\r\n\r\n")


def test_hole_that_one_bare_acknowledgment_claims_waits_for_a_second_sign() -> None:
    steps = Steps().open()
    assert steps.s(0, ack=50) == []
    assert steps.tick(60) == []
    assert steps.s(0, b"answer", ack=50) == ["c~50", "s:answer"]


def test_one_excused_number_below_a_bare_claim_comes_to_an_end() -> None:
    """What was FIN perhaps is given up once; then the claim beyond it counts."""
    steps = Steps().open()
    assert steps.c(30, flags=FIN) == []
    assert steps.s(0, b"x", ack=1) == []
    assert steps.s(1, ack=31) == []
    assert steps.tick(20) == ["s:x", "c~30", "c.fin"]


def test_octets_after_fin_are_used_if_the_peer_acknowledges_them() -> None:
    steps = Steps().open()
    assert steps.c(3, flags=FIN) == []
    assert steps.c(0, b"abcdef") == []
    assert steps.s(0, b"x", ack=6) == ["c:abcdef", "s:x"]


def test_octets_after_fin_are_let_go_if_the_peer_acknowledges_it() -> None:
    steps = Steps().open()
    assert steps.c(3, flags=FIN) == []
    assert steps.c(0, b"abcdef") == []
    assert steps.s(0, b"x", ack=4) == ["c:abc", "c.fin", "s:x"]
    assert steps.ledger.tally["segment_implausible_bytes"] == 3


def test_fin_that_nobody_confirms_gives_way_to_octets() -> None:
    steps = Steps().open()
    assert steps.c(3, flags=FIN) == []
    assert steps.c(0, b"abcdef") == []
    assert steps.tick(10.1) == ["c:abcdef"]


def test_octets_held_against_a_fin_are_bounded() -> None:
    steps = Steps(limits=StreamLimits(stream_buffer=4000)).open()
    assert steps.c(3, flags=FIN) == []
    assert steps.c(0, b"abcdef") == []
    said = [text for n in range(50) for text in steps.c(6 + 100 * n, b"x" * 100)]
    assert said[0] == "c:abcdef"
    assert len(said) == 51
