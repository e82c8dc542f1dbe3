"""Lines of a batch -> a table of typed columns (docs/lake.md), and the folders its rows belong to.

Contract: one row a line, in order; every pair of a line is in exactly one column, a missing pair is null, and
nothing is invented: ``host``, ``path`` and the sizes come from what the rules have left. What no column can
hold as it is (an unknown key, a scalar's second value, a number that is none) is in ``other`` under its full
key; a line that is no message is kept whole in ``other`` under ``LINE``. ``pairs`` is the way back.

Bounds: sets of keys remembered ``PLANS``; Python objects of ``CHUNK`` octets of lines at a time. What is to
be done for a set of keys is worked out once, so a line costs its JSON, a look-up, a few list operations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from appliance.model import Message

LINE: Final = "line"
PLANS: Final = 4096  # attackers can invent any number
CHUNK: Final = 1 << 20  # octets of lines at a time, and one line: they stay in the cache
HOUR: Final = 3_600_000  # milliseconds

_MAP: Final = pa.map_(pa.string(), pa.list_(pa.string()))
SCHEMA: Final = pa.schema(
    [
        ("time", pa.timestamp("us", "UTC")),  # of all engines' reading; nanoseconds are not
        ("interval_ms", pa.int64()),
        ("method", pa.string()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("path", pa.string()),
        ("status", pa.int16()),
        ("request_headers", _MAP),
        ("response_headers", _MAP),
        ("request_params", _MAP),
        ("request_body", pa.string()),
        ("response_body", pa.string()),
        ("session_fields", _MAP),
        ("custom_fields", _MAP),
        ("flaws", pa.list_(pa.string())),
        ("client", pa.string()),
        ("server", pa.string()),
        ("vni", pa.int32()),
        ("sniffer_host", pa.string()),
        ("request_size", pa.int64()),
        ("response_size", pa.int64()),
        ("other", _MAP),
    ]
)

# Key, column, and for numbers the largest; places in a row.
_NUMBERS: Final = (
    ("now", "time", 9_999_999_999_999),
    ("interval", "interval_ms", 9_999_999_999_999),
    ("response_code", "status", 9_999),
    ("custom_field:vni", "vni", (1 << 24) - 1),
)
_TEXTS: Final = (
    ("request_method", "method"),
    ("request_url", "url"),
    ("request_body", "request_body"),
    ("response_body", "response_body"),
    ("custom_field:client", "client"),
    ("custom_field:server", "server"),
    ("host", "sniffer_host"),
    ("custom_field:flaws", "flaws"),
)
_SCALARS: Final = tuple(key for key, *_ in (*_NUMBERS, *_TEXTS))
_PAIRS: Final = (list, tuple)
_PLACES: Final = {key: at for at, key in enumerate(_SCALARS)}
_MAPS: Final = (
    ("request_header:", "request_headers"),
    ("response_header:", "response_headers"),
    ("request_param:", "request_params"),
    ("session_field:", "session_fields"),
    ("custom_field:", "custom_fields"),
    ("", "other"),
)
_OTHER: Final = len(_MAPS) - 1
_RAW: Final = pa.schema(
    [(column, pa.string()) for _, column, *_ in (*_NUMBERS, *_TEXTS)]
    + [(column, _MAP) for _, column in _MAPS]
)
_URL: Final = (
    r"^[A-Za-z][A-Za-z0-9+.\-]*://(?:[^/?#@]*@)?(?P<host>\[[^\]]*\]|[^/?#:*]*)(?::[0-9]*)?(?P<path>[^?#]*)"
)
_DIGITS: Final = r"^(?:0|[1-9][0-9]{0,12})$"  # RE2 and ours read it alike; fullmatch, for `$` and LF


class _Plan:
    """What becomes of the pairs of all messages with the same keys, as places of their values."""

    __slots__ = ("maps", "scalars")

    def __init__(self, keys: tuple[str, ...]) -> None:
        scalars = [len(keys)] * len(_SCALARS)  # there the caller puts a None
        found: list[dict[str, list[int]]] = [{} for _ in _MAPS]
        for at, key in enumerate(keys):
            place = _PLACES.get(key)
            if place is None:
                to, prefix = next(
                    (i, prefix) for i, (prefix, _) in enumerate(_MAPS) if key.startswith(prefix)
                )
                found[to].setdefault(key[len(prefix) :], []).append(at)
            elif scalars[place] == len(keys):
                scalars[place] = at
            else:
                found[_OTHER].setdefault(key, []).append(at)
        self.scalars = itemgetter(*scalars)
        self.maps = [
            (
                to,
                len(names),
                list(names),
                _getter([at for ats in names.values() for at in ats]),
                _lengths(names),
            )
            for to, names in enumerate(found)
            if names
        ]


def _getter(places: list[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    if len(places) > 1:
        return itemgetter(*places)
    at = places[0]  # itemgetter would give the value itself
    return lambda values: (values[at],)


def _lengths(names: dict[str, list[int]]) -> list[int] | None:
    """How many values each name has; None: all have one."""
    lengths = [len(places) for places in names.values()]
    return lengths if sum(lengths) > len(lengths) else None


def _chunks(payload: bytes) -> Iterator[bytes]:
    """Some lines each, without the last LF."""
    begin = 0
    while begin < len(payload):
        end = payload.find(b"\n", begin + CHUNK)
        end = len(payload) - payload.endswith(b"\n") if end < 0 else end
        yield payload[begin:end]
        begin = end + 1


class Rows:
    """Makes tables; remembers the keys, which repeat from call to call. For one thread at a time."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def table(self, *payloads: bytes) -> Any:  # noqa: ANN401  # pyarrow has no types
        """Of batches: lines, each ended by LF but perhaps the last."""
        chunks = [self._batch(chunk) for payload in payloads for chunk in _chunks(payload)]
        return _typed(pa.Table.from_batches(chunks, _RAW))

    def _batch(self, chunk: bytes) -> Any:  # noqa: ANN401
        try:
            return self._columns(
                orjson.loads(b"[%b]" % chunk.replace(b"\n", b","))
            )  # no LF inside JSON's strings
        except (ValueError, TypeError, AttributeError, pa.ArrowException):
            return self._columns([_message(line) for line in chunk.split(b"\n")])  # which one, with more care

    def _columns(self, messages: list[Message]) -> Any:  # noqa: ANN401
        plans = self._plans
        rows: list[tuple[Any, ...]] = []
        maps = [_Map() for _ in _MAPS]
        for message in messages:
            keys, values = zip(*message, strict=True) if message else ((), ())
            plan = plans.get(keys)
            if plan is None:
                if type(message) is not list or any(type(pair) not in _PAIRS for pair in message):
                    raise TypeError
                if len(plans) >= PLANS:
                    plans.clear()
                plan = plans[keys] = _Plan(keys)
            row = len(rows)
            rows.append(plan.scalars((*values, None)))  # where the plan points for what is not there
            for to, count, names, get, lengths in plan.maps:
                into = maps[to]
                into.counts[row] = count
                if lengths is not None:
                    into.repeated.append((len(into.names), lengths))
                into.names += names
                into.values += get(values)
        texts = zip(*rows, strict=True) if rows else [()] * len(_SCALARS)
        columns = [pa.array(column, pa.string()) for column in texts]
        return pa.RecordBatch.from_arrays(columns + [one.array(len(rows)) for one in maps], schema=_RAW)


class _Map:
    """A map column of a chunk, flat."""

    __slots__ = ("counts", "names", "repeated", "values")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}  # names of a row, where it has any
        self.names: list[str] = []
        self.repeated: list[tuple[int, list[int]]] = []  # from that name on: how many values they have
        self.values: list[str] = []

    def array(self, rows: int) -> Any:  # noqa: ANN401
        if not self.counts:
            return pa.nulls(rows, _MAP)
        if not self.repeated:  # common case
            places = pa.arange(0, len(self.names) + 1).cast(pa.int32())
        else:
            lengths = [1] * len(self.names)
            for begin, some in self.repeated:
                lengths[begin : begin + len(some)] = some
            places = pa.array(accumulate(lengths, initial=0), pa.int32())
        values = pa.array(self.values, pa.string())
        if values.null_count:
            raise TypeError
        lists = pa.ListArray.from_arrays(places, values)
        if len(self.counts) == rows:
            counts, empty = list(self.counts.values()), None
        else:
            counts = [self.counts.get(row, 0) for row in range(rows)]
            empty = pa.array([not count for count in counts], pa.bool_())
        begins = pa.array(list(accumulate(counts, initial=0)), pa.int32())
        return pa.MapArray.from_arrays(begins, pa.array(self.names, pa.string()), lists, mask=empty)


def _typed(raw: Any) -> Any:  # noqa: ANN401
    """The columns of SCHEMA from those of RAW: what is worked out by column, for all rows at once."""
    columns: dict[str, Any] = {column: raw[column] for _, column in (*_TEXTS, *_MAPS)}
    odd: dict[int, list[tuple[str, str]]] = {}
    for key, column, most in _NUMBERS:
        columns[column] = _numbers(key, raw[column], most, odd)
    if odd:
        columns["other"] = _kept(columns["other"].to_pylist(), odd)
    columns["time"] = pc.multiply(columns["time"], 1000)
    columns["flaws"] = pc.split_pattern(columns["flaws"], ",")
    parts = pc.extract_regex(columns["url"], _URL)
    for name in ("host", "path"):
        part = pc.struct_field(parts, name)
        columns[name] = pc.if_else(pc.equal(part, ""), None, part)
    for side in ("request", "response"):
        columns[f"{side}_size"] = pc.binary_length(columns[f"{side}_body"])
    return pa.Table.from_arrays([columns[field.name].cast(field.type) for field in SCHEMA], schema=SCHEMA)


def _numbers(key: str, texts: Any, most: int, odd: dict[int, list[tuple[str, str]]]) -> Any:  # noqa: ANN401
    """As integers; what is none in its shortest form, or too large, goes to ``odd`` by its row."""
    good = pc.all(pc.match_substring_regex(texts, _DIGITS)).as_py()  # None: there are none
    if good is False or (good and pc.max(texts.cast(pa.int64())).as_py() > most):
        found = texts.to_pylist()
        for row, text in enumerate(found):
            if text is not None and not (re.fullmatch(_DIGITS, text) and int(text) <= most):
                odd.setdefault(row, []).append((key, text))
                found[row] = None
        texts = pa.array(found, pa.string())
    return texts.cast(pa.int64())


def _kept(other: list[Any], odd: dict[int, list[tuple[str, str]]]) -> Any:  # noqa: ANN401
    """``other`` with more pairs in some rows."""
    for row, kept in odd.items():
        found = dict(other[row] or ())
        for key, value in kept:
            found.setdefault(key, []).insert(0, value)  # a second value of the key is there already
        other[row] = list(found.items())
    return pa.array(other, _MAP)


def _message(line: bytes) -> Message:
    """What is no message, whole."""
    try:
        found = orjson.loads(line)
    except ValueError:
        found = None
    if isinstance(found, list) and all(
        isinstance(pair, list)
        and len(pair) == len(("key", "value"))
        and all(isinstance(x, str) for x in pair)
        for pair in found
    ):
        return [(key, value) for key, value in found]
    return [(LINE, line.decode("utf-8", "backslashreplace"))]


def pairs(row: dict[str, Any]) -> Message:
    """The pairs of a row as ``to_pylist(maps_as_pydicts=None)`` gives it; not in the line's order."""
    found: Message = []
    for key, column, *_ in (*_NUMBERS, *_TEXTS):
        value = row[column]
        if value is not None:
            if column == "time":
                value = int(value.timestamp() * 1000 + 0.5)
            found.append((key, ",".join(value) if column == "flaws" else str(value)))
    for prefix, column in _MAPS:
        for name, values in row[column] or ():
            found += [(prefix + name, value) for value in values]
    return found


def by_hour(table: Any, otherwise: int) -> list[tuple[int, Any]]:  # noqa: ANN401
    """(hours since the epoch, its rows). ``otherwise``: milliseconds, for calls whose time a rule removed."""
    micros = pc.fill_null(table["time"].cast(pa.int64()), otherwise * 1000)
    hours = pc.divide(micros, HOUR * 1000)
    found = sorted(pc.unique(hours).to_pylist())
    if len(found) == 1:  # common case
        return [(found[0], table)]
    return [(hour, table.filter(pc.equal(hours, hour))) for hour in found]
