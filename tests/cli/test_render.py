from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from shardlens.pipeline.cli.render import Format, format_of, render, rounded, write
from shardlens.pipeline.errors import ConfigError, QueryError
from shardlens.pipeline.warehouse import tables

TABLE = pa.table(
    {
        "run": ["a", 'b "quoted",\nline', None],
        "score": [0.1, float("nan"), None],
        "bbox": pa.array([{"x": 0.1, "y": float("inf")}, None, {"x": None, "y": 2.0}]),
        "count": pa.array([decimal.Decimal(2**70), decimal.Decimal(1), None], pa.decimal128(38, 0)),
        "ok": [True, False, None],
        "day": pa.array([datetime.date(2024, 2, 29), None, None]),
    }
)


def test_json_is_valid_and_a_row_a_line() -> None:
    text = render(TABLE, "json")
    assert isinstance(text, str)
    assert text.count("\n ") == 2
    rows = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert rows[0] == {
        "run": "a",
        "score": 0.1,
        "bbox": {"x": 0.1, "y": None},
        "count": 2**70,
        "ok": True,
        "day": "2024-02-29",
    }
    assert rows[1]["score"] is None
    assert rows[2]["bbox"] == {"x": None, "y": 2.0}


def test_csv_reads_back() -> None:
    text = render(TABLE, "csv")
    header, first, second, third = csv.reader(io.StringIO(str(text)))
    assert header == ["run", "score", "bbox", "count", "ok", "day"]
    assert first == ["a", "0.1", '{"x": 0.1, "y": null}', str(2**70), "true", "2024-02-29"]
    assert second[:3] == ['b "quoted",\nline', "nan", ""]
    assert third == ["", "", '{"x": null, "y": 2.0}', "", "", ""]


def test_parquet_reads_back() -> None:
    data = render(TABLE, "parquet")
    assert isinstance(data, bytes)
    assert tables.from_bytes(data).schema == TABLE.schema


def test_a_table_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    table = pa.table({"category": ["dog", "[red]cat[/]"], "AP": [0.123456789, None], "n": [5, 12345]})
    lines = [line.rstrip() for line in str(render(table, "table")).splitlines()]
    assert lines[0].split() == ["category", "AP", "n"]
    assert lines[2].split() == ["dog", "0.1235", "5"]
    assert lines[3].split() == ["[red]cat[/]", "12345"]
    assert lines[2].endswith("    5")
    assert lines[3].endswith("12345")
    assert lines[-1] == "2 rows"


def test_a_table_for_people_is_cut_in_width_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = str(render(pa.table({"counts": ["x" * 500] * 300}), "table"))
    assert max(map(len, text.splitlines()[:-1])) <= 40
    assert "…" in text
    assert text.count("xxx…") == 200
    assert text.endswith("300 rows, the first 200 shown: csv and json hold all\n")


def test_names_in_the_data_do_not_steer_the_terminal() -> None:
    text = str(render(pa.table({"category": ["\x1b[2Jgone\r\n", "Ente\u202e"]}), "table"))
    assert r"\x1b[2Jgone\r\n" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_no_rows() -> None:
    empty = TABLE.slice(0, 0)
    assert render(empty, "json") == "[]\n"
    assert render(empty, "csv") == "run,score,bbox,count,ok,day\n"
    assert str(render(empty, "table")).endswith("0 rows\n")


def test_columns_of_one_name_stay_apart_in_csv() -> None:
    assert render(pa.table([[1], [2]], names=["a", "a"]), "csv") == "a,a\n1,2\n"


def test_an_unknown_format_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format 'xml': expected one of table, csv, json, parquet"):
        write(TABLE, str(tmp_path / "out"), "xml")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_written_to_a_place(tmp_path: Path, form: str) -> None:
    write(TABLE, (tmp_path / "new" / "out").as_uri(), form)  # type: ignore[arg-type]
    written = (tmp_path / "new" / "out").read_bytes()
    expected = render(TABLE, form)  # type: ignore[arg-type]
    assert written == (expected.encode() if isinstance(expected, str) else expected)


WIDE = {
    "dataset": ["shapes"] * 2,
    "run": ["fcos-small-on-shapes-with-a-very-long-name-01", "r"],
    "settings": ['{"model": "fcos", "labels": ["a", "b"]}' * 5] * 2,
    "score": [0.12345678901234567, 123456.789],
    "x": [0.000012345, 43.123456789],
    "fingerprint": ["f" * 64] * 2,
}


@pytest.mark.parametrize("width", [80, 120])
def test_names_are_complete_and_long_texts_come_last(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = str(render(pa.table(WIDE), "table"))
    header, _, first, second, *_ = text.splitlines()
    assert header.split()[:4] == ["dataset", "run", "score", "x"]
    assert first.split()[:4] == ["shapes", WIDE["run"][0], "0.1235", "1.23e-05"]
    assert second.split()[:4] == ["shapes", "r", "123456.8", "43.12"]
    assert max(map(len, text.splitlines())) <= width
    assert ("no room for: settings, fingerprint (csv" in text) == (width == 80)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (1.0, "1"),
        (0.0, "0"),
        (-3.14159, "-3.142"),
        (99.999, "100"),
        (float("nan"), "nan"),
        (1e20, "1" + "0" * 20),
    ],
)
def test_numbers_are_rounded(value: float, text: str) -> None:
    assert rounded(value) == text


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_columns_of_one_name_are_refused_where_one_would_be_lost(form: str) -> None:
    with pytest.raises(QueryError, match=r"several columns called 'a'.*AS"):
        render(pa.table([[1], [2]], names=["a", "a"]), form)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("uri", "form"), [("x.csv", "csv"), ("s3://b/a.b/X.PARQUET", "parquet"), ("/a.csv/x.json", "json")]
)
def test_the_format_follows_the_suffix(uri: str, form: str) -> None:
    assert format_of(uri) == form


@pytest.mark.parametrize("uri", ["x.txt", "x", "/a.csv/x", "s3://b/x.xlsx"])
def test_an_unknown_suffix_is_an_error(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"expected \.csv, \.json, \.parquet, or give --format"):
        format_of(uri)


def test_a_table_for_people_is_never_written_to_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a table is for people"):
        write(TABLE, str(tmp_path / "out"), "table")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sql", "form", "message"),
    [
        ("SELECT interval 1 year AS x", "parquet", r"Parquet cannot hold the result .*: cast the column to text"),
        (
            "SELECT timestamp 'infinity' AS x",
            "json",
            r"column 'x' holds a value that cannot be shown .*: cast it to text",
        ),
    ],
)
def test_values_that_a_format_has_not_are_explained(sql: str, form: Format, message: str) -> None:
    with duckdb.connect() as connection, pytest.raises(QueryError, match=message):
        render(connection.sql(sql).to_arrow_table(), form)
