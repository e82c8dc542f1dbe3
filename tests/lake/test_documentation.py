"""docs/lake.md and the README: their queries run, and its columns are the schema's."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import orjson
import pytest

from appliance.lake.files import Files, encode, folder
from appliance.lake.rows import SCHEMA, Rows
from tests.lake.test_rows import MESSAGE

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "lake.md").read_text()
README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
QUERIES = re.findall(r"^```sql DuckDB\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
QUERIES += re.findall(r'^ +duckdb -c "(.*)"$', README, re.MULTILINE)


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {"response_code": "500", "response_body": '{"error":"no"}', "custom_field:client": "10.0.0.1:2"}
    messages = [MESSAGE, [(key, changed.get(key, value)) for key, value in MESSAGE]]
    unanswered = [pair for pair in MESSAGE if not pair[0].startswith("response")]
    table = Rows().table(b"\n".join(map(orjson.dumps, [*messages, unanswered])))
    Files(tmp_path / "lake", 0).publish([(folder(472_222), "h-1-x-1.parquet", encode(table))])
    monkeypatch.chdir(tmp_path)


def test_there_are_queries() -> None:
    assert len(QUERIES) >= 6


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.usefixtures("lake")
def test_query_finds_something(query: str) -> None:
    found = duckdb.connect().sql(query)
    assert found is not None
    assert len(found.to_arrow_table())


@pytest.mark.usefixtures("lake")
def test_plain_glob_works_too() -> None:
    query = "SELECT count(*) FROM read_parquet('lake/**/*.parquet', hive_partitioning=true)"
    found = duckdb.connect().execute(query).fetchall()
    assert found == [(3,)]


def test_tables_name_all_columns() -> None:
    listed = PAGE.partition("## Columns")[2].partition("##")[0]
    athena = PAGE.partition("CREATE EXTERNAL TABLE")[2].partition("PARTITIONED")[0]
    cells = " ".join(line.split("|")[1] for line in listed.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", cells)) == {*SCHEMA.names, "date", "hour"}
    assert re.findall(r"`(\w+)`", athena) == SCHEMA.names
