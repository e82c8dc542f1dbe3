"""RFC 9112 §6.3 as a table, and what two parsers may read differently (§11.2)."""

from __future__ import annotations

import pytest

from appliance.decoders.http1.framing import (
    CHUNKED,
    CLOSE,
    LENGTH,
    MOST_DIGITS,
    NONE,
    TUNNEL,
    UNDEFINED,
    request_framing,
    response_framing,
)
from appliance.model import Field, Head

CL = b"Content-Length"
TE = b"Transfer-Encoding"


def request(fields: list[Field], version: bytes = b"HTTP/1.1") -> tuple[int, int, list[str]]:
    return request_framing(Head((b"POST", b"/", version), fields, [], 0))


def response(
    fields: list[Field], status: int = 200, method: bytes = b"GET", version: bytes = b"HTTP/1.1"
) -> tuple[int, int, list[str]]:
    return response_framing(Head((version, b"%d" % status, b""), fields, [], 0), status, method)


def test_neither_length_nor_coding() -> None:
    """§6.3 rules 7 and 8."""
    assert request([]) == (NONE, 0, [])
    assert response([]) == (CLOSE, 0, [])


# §6.3 rules 3 to 6: fields, mode, length, flaws without their side
SAME_ON_BOTH_SIDES = {
    "one length": ([(CL, b"5")], LENGTH, 5, []),
    "length zero": ([(CL, b"0")], NONE, 0, []),
    "leading zeros": ([(CL, b"005")], LENGTH, 5, []),
    "name in other letters": ([(b"CONTENT-length", b"5")], LENGTH, 5, []),
    "blanks behind the value": ([(CL, b"5 \t")], LENGTH, 5, []),
    "as long as a number may be": ([(CL, b"9" * MOST_DIGITS)], LENGTH, 10**MOST_DIGITS - 1, []),
    "longer than a number may be": ([(CL, b"9" * (MOST_DIGITS + 1))], UNDEFINED, 0, ["cl-invalid"]),
    "equal lengths in two fields": ([(CL, b"5"), (CL, b"5")], LENGTH, 5, ["cl-repeated"]),
    "equal lengths in one field": ([(CL, b"5, 5")], LENGTH, 5, ["cl-repeated"]),
    "equal numbers, other digits": ([(CL, b"5, 05")], LENGTH, 5, ["cl-repeated"]),
    "different lengths in two fields": ([(CL, b"5"), (CL, b"6")], UNDEFINED, 0, ["cl-conflict"]),
    "different lengths in one field": ([(CL, b"5,6")], UNDEFINED, 0, ["cl-conflict"]),
    "negative length": ([(CL, b"-5")], UNDEFINED, 0, ["cl-invalid"]),
    "length with a sign": ([(CL, b"+5")], UNDEFINED, 0, ["cl-invalid"]),
    "hexadecimal length": ([(CL, b"0x5")], UNDEFINED, 0, ["cl-invalid"]),
    "length with a blank inside": ([(CL, b"1 2")], UNDEFINED, 0, ["cl-invalid"]),
    "empty length": ([(CL, b"")], UNDEFINED, 0, ["cl-invalid"]),
    "one of two lengths is empty": ([(CL, b"5,")], UNDEFINED, 0, ["cl-invalid"]),
    "length in other scripts' digits": ([(CL, "٥".encode())], UNDEFINED, 0, ["cl-invalid"]),  # noqa: RUF001
    "one good and one bad length": ([(CL, b"5"), (CL, b"x")], UNDEFINED, 0, ["cl-invalid"]),
    "chunked": ([(TE, b"chunked")], CHUNKED, 0, []),
    "chunked in other letters": ([(TE, b"CHUNKED")], CHUNKED, 0, []),
    "chunked with blanks": ([(TE, b" chunked\t")], CHUNKED, 0, []),
    "gzip, then chunked": ([(TE, b"gzip, chunked")], CHUNKED, 0, []),
    "gzip, then chunked in a second field": ([(TE, b"gzip"), (TE, b"chunked")], CHUNKED, 0, []),
    "empty list elements": ([(TE, b", chunked,")], CHUNKED, 0, []),
    "chunked and a length": ([(TE, b"chunked"), (CL, b"5")], CHUNKED, 0, ["te-and-cl"]),
    "a length and chunked": ([(CL, b"5"), (TE, b"chunked")], CHUNKED, 0, ["te-and-cl"]),
    "chunked and two lengths": ([(CL, b"5"), (CL, b"6"), (TE, b"chunked")], CHUNKED, 0, ["te-and-cl"]),
    "chunked twice": ([(TE, b"chunked, chunked")], CHUNKED, 0, ["te-malformed"]),
    "an unknown coding, then chunked": ([(TE, b"x, chunked")], CHUNKED, 0, ["te-malformed"]),
    "hidden by a control character": ([(TE, b"\x0bchunked"), (TE, b"chunked")], CHUNKED, 0, ["te-malformed"]),
}


@pytest.mark.parametrize("name", SAME_ON_BOTH_SIDES)
def test_framing_that_is_the_same_on_both_sides(name: str) -> None:
    fields, mode, length, flaws = SAME_ON_BOTH_SIDES[name]
    assert request(fields) == (mode, length, ["request-" + f for f in flaws])
    assert response(fields) == (mode, length, ["response-" + f for f in flaws])


# chunked is not the last coding: a request's end is not defined, a response ends with the connection
NOT_CHUNKED: dict[str, tuple[list[Field], list[str]]] = {
    "gzip alone": ([(TE, b"gzip")], ["te-not-chunked"]),
    "identity": ([(TE, b"identity")], ["te-not-chunked"]),
    "chunked, then gzip": ([(TE, b"chunked, gzip")], ["te-not-chunked"]),
    "nothing": ([(TE, b"")], ["te-not-chunked"]),
    "something else": ([(TE, b"xchunked")], ["te-malformed", "te-not-chunked"]),
    "with a length": ([(TE, b"gzip"), (CL, b"5")], ["te-and-cl", "te-not-chunked"]),
}


@pytest.mark.parametrize("name", NOT_CHUNKED)
def test_transfer_coding_that_does_not_end_in_chunked(name: str) -> None:
    fields, flaws = NOT_CHUNKED[name]
    assert request(fields) == (UNDEFINED, 0, ["request-" + f for f in flaws])
    assert response(fields) == (CLOSE, 0, ["response-" + f for f in flaws])


def test_transfer_coding_in_http_1_0() -> None:
    """§6.1: its framing must be taken for faulty."""
    fields = [(TE, b"chunked")]
    assert request(fields, b"HTTP/1.0") == (CHUNKED, 0, ["request-te-in-http10"])
    assert response(fields, version=b"HTTP/1.0") == (CHUNKED, 0, ["response-te-in-http10"])


@pytest.mark.parametrize("status", [100, 102, 103, 199, 204, 304])
def test_statuses_without_body(status: int) -> None:
    """§6.3 rule 1."""
    assert response([], status) == (NONE, 0, [])


@pytest.mark.parametrize("fields", [[], [(CL, b"5")], [(TE, b"chunked")], [(CL, b"5"), (CL, b"6")]])
def test_a_response_to_head_has_no_body_whatever_it_announces(fields: list[Field]) -> None:
    """§6.3 rule 1; RFC 9110 §9.3.2 asks for the length that GET would give."""
    assert response(fields, method=b"HEAD") == (NONE, 0, [])
    assert response(fields, 404, b"HEAD") == (NONE, 0, [])


def test_a_304_may_announce_the_length_of_what_it_leaves_out() -> None:
    assert response([(CL, b"5")], 304) == (NONE, 0, [])


@pytest.mark.parametrize("fields", [[(CL, b"5")], [(TE, b"chunked")]])
def test_a_length_in_a_204_is_ignored_and_flagged(fields: list[Field]) -> None:
    assert response(fields, 204) == (NONE, 0, ["response-no-body-expected"])


def test_length_zero_in_a_204_is_common_and_harmless() -> None:
    assert response([(CL, b"0")], 204) == (NONE, 0, [])


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_connect_becomes_a_tunnel(status: int) -> None:
    """§6.3 rule 2: lengths are ignored."""
    assert response([], status, b"CONNECT") == (TUNNEL, 0, [])
    assert response([(CL, b"5"), (TE, b"chunked")], status, b"CONNECT") == (TUNNEL, 0, [])


def test_connect_that_is_refused_has_a_body() -> None:
    assert response([(CL, b"5")], 407, b"CONNECT") == (LENGTH, 5, [])


def test_switching_protocols_becomes_a_tunnel() -> None:
    assert response([], 101) == (TUNNEL, 0, [])
    assert response([(CL, b"5")], 101) == (TUNNEL, 0, [])


def test_methods_are_case_sensitive() -> None:
    """RFC 9110 §9.1."""
    assert response([(CL, b"5")], method=b"head") == (LENGTH, 5, [])
    assert response([(CL, b"5")], method=b"connect") == (LENGTH, 5, [])


def test_a_response_without_known_request_is_read_by_its_fields() -> None:
    assert response([(CL, b"5")], method=b"") == (LENGTH, 5, [])
    assert response([], method=b"") == (CLOSE, 0, [])
