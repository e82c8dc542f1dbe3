"""Heads: what llhttp reads, we read alike; what it refuses, we read and name."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decoders.http1.head import HeadParser, is_start_line
from appliance.model import REQUEST, RESPONSE, Field, Head

KINDS = {"request": REQUEST, "response": RESPONSE}


def parse(kind: int, octets: bytes) -> Head:
    head = HeadParser().parse(kind, octets, 0, len(octets))
    assert head is not None
    assert head.size == len(octets)
    return head


# -- the property: llhttp as the oracle


class Found:
    """What httptools finds in one message by itself, with its own start line."""

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[Field] = []
        self.over = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.over = True


def by_llhttp(kind: int, octets: bytes) -> tuple[tuple[bytes, ...], list[Field]] | None:
    """Start line (without a reason) and fields, or None where llhttp refuses the head."""
    found = Found()
    parser = (httptools.HttpRequestParser if kind == REQUEST else httptools.HttpResponseParser)(found)
    try:
        parser.feed_data(octets)
    except httptools.HttpParserUpgrade:
        pass  # the head is read
    except httptools.HttpParserError:
        return None
    if not found.over:
        return None
    version = b"HTTP/" + parser.get_http_version().encode()
    if isinstance(parser, httptools.HttpRequestParser):
        return (parser.get_method(), found.target, version), found.fields
    return (version, b"%d" % parser.get_status_code()), found.fields


token = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12).map(str.encode)
value = st.one_of(
    st.binary(max_size=20).map(lambda b: bytes(c for c in b if c >= 0x20 and c != 0x7F).strip()),
    st.sampled_from([b"", b"a b", b"a\tb", b'"q"', b"\xe4\xff", b"close", b"upgrade", b"0", b"chunked"]),
)
blank = st.sampled_from([b" ", b"", b"\t", b"  "])
name = st.one_of(
    token, st.sampled_from([b"Host", b"Connection", b"Upgrade", b"Content-Length", b"Transfer-Encoding"])
)
field_line = st.builds(lambda n, a, v, b: n + b":" + a + v + b + b"\r\n", name, blank, value, blank)
methods = st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"PROPFIND", b"M-SEARCH", b"CONNECT"])
targets = st.sampled_from([b"/", b"*", b"/a?b=c&d", b"http://h.test/x", b"/%zz", b"/\xc3\xa4", b"h.test:443"])
versions = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0"])
request_line = st.builds(lambda m, t, v: m + b" " + t + b" " + v + b"\r\n", methods, targets, versions)
status_line = st.builds(
    lambda v, s, r: v + b" %d " % s + r + b"\r\n",
    versions,
    st.integers(100, 999),
    st.sampled_from([b"", b"OK", b"Not Found", b"a\tb", b"\xe4"]),
)


@st.composite
def heads(draw: st.DrawFn, kind: int) -> bytes:
    start: bytes = draw(request_line if kind == REQUEST else status_line)
    return start + b"".join(draw(st.lists(field_line, max_size=5))) + b"\r\n"


@st.composite
def damaged(draw: st.DrawFn, kind: int) -> bytes:
    """A head with a few octets changed, put in or taken out; its blank line stays."""
    head = bytearray(draw(heads(kind))[:-2])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(head)))
        what = draw(st.sampled_from([b"", b" ", b"\r", b"\n", b"\t", b":", b"\0", b"\x7f", b"x", b"\r\n "]))
        head[at : at + draw(st.integers(0, 1))] = what
    return bytes(head) + b"\r\n"


def assert_as_llhttp(kind: int, octets: bytes) -> bool:
    """Whether llhttp reads it; where it does, so do we."""
    want = by_llhttp(kind, octets)
    if want is None:
        return False
    head = parse(kind, octets)
    assert head.start[: len(want[0])] == want[0]
    assert [(n, v.rstrip(b" \t")) for n, v in head.fields] == [(n, v.rstrip(b" \t")) for n, v in want[1]]
    return True


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(data=st.data())
def test_what_llhttp_reads_is_read_alike(kind: int, data: st.DataObject) -> None:
    octets = data.draw(heads(kind))
    if assert_as_llhttp(kind, octets):
        assert parse(kind, octets).flaws == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(data=st.data())
def test_damaged_heads_are_read_alike_or_flagged(kind: int, data: st.DataObject) -> None:
    octets = data.draw(damaged(kind))
    if octets.find(b"\n\r\n") + 3 < len(octets) or b"\n\n" in octets or octets[:1] in b"\r\n":
        return  # a blank line inside: the reader ends the head there
    assert_as_llhttp(kind, octets)
    head = HeadParser().parse(kind, octets, 0, len(octets))
    if head is not None and not head.flaws:
        rebuilt = b"".join(n + b":" + v.strip(b" \t") + b"\r\n" for n, v in head.fields)
        lines = octets.split(b"\r\n", 1)[1][:-2].split(b"\r\n")[:-1]
        given_lines = b"".join(
            n + b":" + v.strip(b" \t") + b"\r\n" for n, _, v in (line.partition(b":") for line in lines)
        )
        assert rebuilt == given_lines, "nothing is left out of a head without flaws"


@given(first=st.one_of(heads(RESPONSE), damaged(RESPONSE)), second=heads(REQUEST), third=heads(RESPONSE))
def test_a_head_is_read_the_same_whatever_came_before(first: bytes, second: bytes, third: bytes) -> None:
    """One llhttp parser serves all; ``Connection: close``, an upgrade or an error must not kill it."""
    used = HeadParser()
    used.parse(RESPONSE, first, 0, len(first))
    for kind, octets in ((REQUEST, second), (RESPONSE, third)):
        got = used.parse(kind, octets, 0, len(octets))
        want = parse(kind, octets)
        assert got is not None
        assert (got.start, got.flaws) == (want.start, want.flaws)
        assert got.texts() == want.texts()


@given(st.sampled_from([REQUEST, RESPONSE]), st.binary(max_size=80))
def test_any_octets_are_a_head_or_none(kind: int, octets: bytes) -> None:
    head = HeadParser().parse(kind, octets + b"\r\n\r\n", 0, len(octets) + 4)
    if head is None:
        assert not is_start_line(kind, octets.split(b"\n")[0].removesuffix(b"\r"))
    else:
        assert head.size == len(octets) + 4


def test_a_head_inside_other_octets() -> None:
    octets = b"xxGET / HTTP/1.1\r\nA: b\r\n\r\nyy"
    head = HeadParser().parse(REQUEST, octets, 2, len(octets) - 2)
    assert head is not None
    assert (head.start, head.fields, head.size) == ((b"GET", b"/", b"HTTP/1.1"), [(b"A", b"b")], 24)


# -- start lines: octets, what is read, flaws without their side

REQUEST_LINES = {
    "usual": (b"GET / HTTP/1.1", (b"GET", b"/", b"HTTP/1.1"), []),
    "HTTP/1.0": (b"GET / HTTP/1.0", (b"GET", b"/", b"HTTP/1.0"), []),
    "method that llhttp does not know": (b"BREW / HTTP/1.1", (b"BREW", b"/", b"HTTP/1.1"), []),
    "method in small letters": (b"get / HTTP/1.1", (b"get", b"/", b"HTTP/1.1"), []),
    "method of odd token characters": (
        b"!#$%&'*+-.^_`|~9z / HTTP/1.1",
        (b"!#$%&'*+-.^_`|~9z", b"/", b"HTTP/1.1"),
        [],
    ),
    "asterisk": (b"OPTIONS * HTTP/1.1", (b"OPTIONS", b"*", b"HTTP/1.1"), []),
    "authority": (b"CONNECT h:443 HTTP/1.1", (b"CONNECT", b"h:443", b"HTTP/1.1"), []),
    "absolute": (b"GET http://h/ HTTP/1.1", (b"GET", b"http://h/", b"HTTP/1.1"), []),
    "octets above 127": (b"GET /\xe4 HTTP/1.1", (b"GET", b"/\xe4", b"HTTP/1.1"), []),
    "blank in the target": (b"GET /a b HTTP/1.1", (b"GET", b"/a b", b"HTTP/1.1"), ["start-line"]),
    "two blanks": (b"GET  / HTTP/1.1", (b"GET", b"/", b"HTTP/1.1"), ["start-line"]),
    "tab": (b"GET\t/ HTTP/1.1", (b"GET", b"/", b"HTTP/1.1"), ["start-line"]),
    "blank behind": (b"GET / HTTP/1.1 ", (b"GET", b"/", b"HTTP/1.1"), ["start-line"]),
    "no target": (b"GET HTTP/1.1", (b"GET", b"", b"HTTP/1.1"), ["start-line"]),
    "empty target": (b"GET  HTTP/1.1", (b"GET", b"", b"HTTP/1.1"), ["start-line"]),
    "control character in the target": (
        b"GET /\x01 HTTP/1.1",
        (b"GET", b"/\x01", b"HTTP/1.1"),
        ["start-line"],
    ),
    "later minor version": (b"GET / HTTP/1.2", (b"GET", b"/", b"HTTP/1.2"), ["version"]),
    "version in small letters": (b"GET / http/1.1", (b"GET", b"/", b"http/1.1"), ["version"]),
}
NO_REQUEST_LINES = {
    "HTTP/0.9": b"GET /",
    "HTTP/2.0": b"GET / HTTP/2.0",
    "two digits": b"GET / HTTP/1.10",
    "no method": b" / HTTP/1.1",
    "method that is no token": b"G(T / HTTP/1.1",
    "a response": b"HTTP/1.1 200 OK",
    "empty": b"",
}
STATUS_LINES = {
    "usual": (b"HTTP/1.1 200 OK", (b"HTTP/1.1", b"200", b"OK"), []),
    "HTTP/1.0": (b"HTTP/1.0 404 Not Found", (b"HTTP/1.0", b"404", b"Not Found"), []),
    "empty reason": (b"HTTP/1.1 200 ", (b"HTTP/1.1", b"200", b""), []),
    "no reason and no blank": (b"HTTP/1.1 200", (b"HTTP/1.1", b"200", b""), []),
    "lowest status": (b"HTTP/1.1 100 x", (b"HTTP/1.1", b"100", b"x"), []),
    "highest status": (b"HTTP/1.1 999 x", (b"HTTP/1.1", b"999", b"x"), []),
    "reason beyond ASCII": (b"HTTP/1.1 200 \xc3\xa4", (b"HTTP/1.1", b"200", b"\xc3\xa4"), []),
    "two blanks": (b"HTTP/1.1  200 OK", (b"HTTP/1.1", b"200", b"OK"), ["start-line"]),
    "control character in the reason": (b"HTTP/1.1 200 a\0b", (b"HTTP/1.1", b"200", b"a\0b"), ["start-line"]),
    "later minor version": (b"HTTP/1.2 200 OK", (b"HTTP/1.2", b"200", b"OK"), ["version"]),
    "version in small letters": (b"http/1.1 200 OK", (b"http/1.1", b"200", b"OK"), ["version"]),
}
NO_STATUS_LINES = {
    "status of two digits": b"HTTP/1.1 20 OK",
    "status of four digits": b"HTTP/1.1 2000 OK",
    "status that starts with 0": b"HTTP/1.1 099 OK",
    "status that is no number": b"HTTP/1.1 2x0 OK",
    "reason without a blank": b"HTTP/1.1 200OK",
    "ICY": b"ICY 200 OK",
    "HTTP/2": b"HTTP/2 200",
    "a request": b"GET / HTTP/1.1",
    "empty": b"",
}


@pytest.mark.parametrize("name", REQUEST_LINES)
def test_request_line(name: str) -> None:
    line, start, flaws = REQUEST_LINES[name]
    head = parse(REQUEST, line + b"\r\nA: b\r\n\r\n")
    assert (head.start, head.fields) == (start, [(b"A", b"b")])
    assert head.flaws == ["request-" + f for f in flaws]
    assert is_start_line(REQUEST, line)


@pytest.mark.parametrize("name", NO_REQUEST_LINES)
def test_no_request_line(name: str) -> None:
    line = NO_REQUEST_LINES[name]
    octets = line + b"\r\nA: b\r\n\r\n"
    assert HeadParser().parse(REQUEST, octets, 0, len(octets)) is None
    assert not is_start_line(REQUEST, line)


@pytest.mark.parametrize("name", STATUS_LINES)
def test_status_line(name: str) -> None:
    line, start, flaws = STATUS_LINES[name]
    head = parse(RESPONSE, line + b"\r\nA: b\r\n\r\n")
    assert (head.start, head.fields) == (start, [(b"A", b"b")])
    assert head.flaws == ["response-" + f for f in flaws]
    assert is_start_line(RESPONSE, line)


@pytest.mark.parametrize("name", NO_STATUS_LINES)
def test_no_status_line(name: str) -> None:
    line = NO_STATUS_LINES[name]
    octets = line + b"\r\nA: b\r\n\r\n"
    assert HeadParser().parse(RESPONSE, octets, 0, len(octets)) is None
    assert not is_start_line(RESPONSE, line)


# -- field lines

FIELDS: dict[str, tuple[bytes, list[Field], list[str]]] = {
    "none": (b"", [], []),
    "usual": (b"A: b\r\n", [(b"A", b"b")], []),
    "order and repetition stay": (
        b"B: 1\r\na: 2\r\nB: 3\r\n",
        [(b"B", b"1"), (b"a", b"2"), (b"B", b"3")],
        [],
    ),
    "no blank": (b"A:b\r\n", [(b"A", b"b")], []),
    "blanks around": (b"A: \t b c \t\r\n", [(b"A", b"b c")], []),
    "empty value": (b"A:\r\nB: \r\n", [(b"A", b""), (b"B", b"")], []),
    "colons in the value": (b"A: b:c:d\r\n", [(b"A", b"b:c:d")], []),
    "octets above 127": (b"A: \xff\r\n", [(b"A", b"\xff")], []),
    "chunked and a length": (
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"3")],
        [],  # framing says it
    ),
    "length that is no number": (b"Content-Length: x\r\n", [(b"Content-Length", b"x")], []),
    "upgrade": (
        b"Connection: upgrade\r\nUpgrade: x\r\n",
        [(b"Connection", b"upgrade"), (b"Upgrade", b"x")],
        [],
    ),
    "folded": (b"A: b\r\n c\r\n", [(b"A", b"b c")], ["obs-fold"]),
    "folded twice, with a tab": (
        b"A: b\r\n\tc\r\n  d\r\nE: f\r\n",
        [(b"A", b"b c d"), (b"E", b"f")],
        ["obs-fold"],
    ),
    "folded from an empty value": (b"A:\r\n b\r\n", [(b"A", b"b")], ["obs-fold"]),
    "bare line feed": (b"A: b\nC: d\r\n", [(b"A", b"b"), (b"C", b"d")], ["bare-lf"]),
    "no colon": (b"A b\r\nC: d\r\n", [(b"A b", b""), (b"C", b"d")], ["field-malformed"]),
    "empty name": (b": b\r\n", [(b"", b"b")], ["field-malformed"]),
    "name that is no token": (b"A(: b\r\n", [(b"A(", b"b")], ["field-malformed"]),
    "blank before the colon": (b"A : b\r\n", [(b"A", b"b")], ["field-space"]),
    "zero octet in the value": (b"A: b\0c\r\n", [(b"A", b"b\0c")], ["field-control"]),
    "carriage return in the value": (b"A: b\rc\r\n", [(b"A", b"b\rc")], ["field-control"]),
    "each flaw once": (b"A : b\r\nC : d\r\n", [(b"A", b"b"), (b"C", b"d")], ["field-space"]),
    "several flaws": (
        b"A : b\n\0: \0\r\n",
        [(b"A", b"b"), (b"\0", b"\0")],
        ["bare-lf", "field-space", "field-malformed", "field-control"],
    ),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", FIELDS)
def test_field_lines(name: str, kind: int) -> None:
    lines, fields, flaws = FIELDS[name]
    start = b"GET / HTTP/1.1\r\n" if kind == REQUEST else b"HTTP/1.1 200 OK\r\n"
    head = parse(kind, start + lines + b"\r\n")
    assert [(n, v.rstrip(b" \t")) for n, v in head.fields] == fields
    assert head.flaws == [("request-" if kind == REQUEST else "response-") + f for f in flaws]


def test_bare_line_feeds_only() -> None:
    head = parse(REQUEST, b"GET / HTTP/1.1\nA: b\n\n")
    assert (head.start, head.fields) == ((b"GET", b"/", b"HTTP/1.1"), [(b"A", b"b")])
    assert head.flaws == ["request-bare-lf"]


def test_fold_before_the_first_field_is_no_field() -> None:
    """RFC 9112 §2.2: white space between the start line and the first field."""
    head = parse(REQUEST, b"GET / HTTP/1.1\r\n A: b\r\n\r\n")
    assert head.flaws == ["request-field-malformed"]


def test_a_head_of_which_the_rest_is_missing() -> None:
    """The reader cuts at the last whole line."""
    octets = b"GET / HTTP/1.1\r\nA: b\r\n"
    head = HeadParser().parse(REQUEST, octets, 0, len(octets))
    assert head is not None
    assert (head.start, head.fields, head.flaws) == ((b"GET", b"/", b"HTTP/1.1"), [(b"A", b"b")], [])


def test_texts_are_readable_whatever_the_octets() -> None:
    head = Head((b"", b"", b""), [(b"A\xff", b"b\xc3\xa4\xff \t")], [], 0)
    assert head.texts() == [("A�", "bä�")]
    assert head.get(b"a\xff") == b"b\xc3\xa4\xff"
    assert head.get(b"b") is None
