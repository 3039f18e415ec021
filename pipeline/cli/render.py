"""A table as text for people, or as CSV, JSON or Parquet for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from decimal import Decimal
from typing import Any, Literal, get_args

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.warehouse import tables

Format = Literal["table", "csv", "json", "parquet"]
SHOWN_ROWS = 200
"""Rows of a table for people, at most."""


def render(table: pa.Table, form: Format) -> str | bytes:
    """Write `table` in a format: bytes for parquet, else text that ends in a newline.

    CSV has nested values as JSON and null as nothing; JSON is a list of objects, one a line, with null for what is not
    a finite number; the table shows at most 200 rows.

    Raises:
        ConfigError: there is no such format.
    """
    if form == "parquet":
        return tables.to_bytes(table)
    writers = {"table": _for_people, "csv": _csv, "json": _json}
    if form not in writers:
        raise ConfigError(f"format {form!r}: expected one of {', '.join(get_args(Format))}")
    return writers[form](table)


def write(table: pa.Table, uri: str, form: Format) -> None:
    """Publish `table` at a URI in a format."""
    data = render(table, form)
    storage.publish(storage.normalize(uri), data.encode() if isinstance(data, str) else data)


def _rows(table: pa.Table) -> list[tuple[Any, ...]]:
    """Python values by row; columns may share a name."""
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _csv(table: pa.Table) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows([_flat(value) for value in row] for row in _rows(table))
    return sink.getvalue()


def _json(table: pa.Table) -> str:
    names = table.column_names
    lines = [_as_json(dict(zip(names, row, strict=True))) for row in _rows(table)]
    return "[" + ",\n ".join(lines) + "]\n"


def _flat(value: Any) -> Any:
    """A value as one cell."""
    if isinstance(value, bool | dict | list | tuple):
        return _as_json(value)
    return value


def _as_json(value: Any) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    """The value with null for each number that JSON cannot write; DuckDB's wide integers come as decimals."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _for_people(table: pa.Table) -> str:
    """A drawn table as wide as the terminal, long values cut; numbers to the right, six digits of each."""
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for field in table.schema:
        numeric = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        drawn.add_column(Text(field.name), justify="right" if numeric else "left", no_wrap=True, overflow="ellipsis")
    for row in _rows(table.slice(0, SHOWN_ROWS)):
        drawn.add_row(*(Text(_cell(value)) for value in row))
    sink = io.StringIO()
    Console(file=sink, width=shutil.get_terminal_size((160, 50)).columns).print(drawn)
    left = table.num_rows - SHOWN_ROWS
    count = f"{table.num_rows} row{'' if table.num_rows == 1 else 's'}"
    return (
        sink.getvalue() + count + (f", the first {SHOWN_ROWS} shown: csv and json hold all" if left > 0 else "") + "\n"
    )


def _cell(value: Any) -> str:
    """A value in one line of printable characters: a name in the data must not steer the terminal."""
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(_flat(value))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
