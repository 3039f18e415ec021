"""Rows as text for people, or as CSV, JSON or Parquet for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, get_args

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, QueryError, printable

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["table", "csv", "json", "parquet"]
SUFFIXES: dict[str, Format] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
SHOWN_ROWS = 200
"""Rows of a table for people, at most."""
LONG = 32
"""Characters from which on a text is long: its column comes last, and is cut where there is no room for it."""
SHORTEST = 12
"""Characters that a long text is cut to, at least; with less room its column is left out, and named."""
NARROWEST = 12
"""Characters to which a name is folded, at least, where there is not enough room."""
NAMES = {"run", "dataset", "model", "category", "file_name", "name", "recipe", "checkpoint", "metric", "task", "state"}
"""Columns whose texts are never cut."""


def render(table: pa.Table, form: Format) -> str | bytes:
    """Write `table` in a format: bytes for parquet, else text that ends in a newline.

    CSV has nested values as JSON and null as nothing; JSON is a list of objects, one a line, with null for what is not
    a finite number; the table shows at most 200 rows.

    Raises:
        ConfigError: there is no such format.
        QueryError: two columns have one name, which JSON and Parquet cannot hold.
    """
    if form not in get_args(Format):
        raise ConfigError(f"format {form!r}: expected one of {', '.join(get_args(Format))}")
    names = table.column_names
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice and form in {"json", "parquet"}:
        raise QueryError(
            f"the result has several columns called {twice[0]!r}, which {form} cannot hold: "
            f'name them apart, as in SELECT a.{twice[0]} AS "first", b.{twice[0]} AS "second"'
        )
    if form == "parquet":
        from shardlens.pipeline.warehouse import tables

        try:
            return tables.to_bytes(table)
        except (ValueError, NotImplementedError) as error:  # what pyarrow's errors are
            raise QueryError(
                f"Parquet cannot hold the result ({error}): cast the column to text, as in x::VARCHAR"
            ) from None
    if form == "table":
        shown = table.slice(0, SHOWN_ROWS)
        return draw(names, _rows(shown), table.num_rows)
    return _csv(names, _rows(table)) if form == "csv" else _json(names, _rows(table))


def format_of(uri: str) -> Format:
    """Return the format that the suffix of a file's name stands for.

    Raises:
        ConfigError: it stands for none.
    """
    name = uri.rpartition("/")[2]
    suffix = f".{name.rpartition('.')[2].lower()}" if "." in name else ""
    if suffix not in SUFFIXES:
        raise ConfigError(
            f"{uri}: the suffix {suffix!r} stands for no format: expected {', '.join(SUFFIXES)}, or give --format"
        )
    return SUFFIXES[suffix]


def write(table: pa.Table, uri: str, form: Format) -> None:
    """Publish `table` at a URI in a format.

    Raises:
        ConfigError: there is no such format, or it is the table for people, which is cut.
    """
    if form == "table":
        raise ConfigError(f"{uri}: a table is for people, and is cut: expected {', '.join(SUFFIXES.values())}")
    data = render(table, form)
    storage.publish(storage.normalize(uri), data.encode() if isinstance(data, str) else data)


def _rows(table: pa.Table) -> list[tuple[Any, ...]]:
    """Python values by row; columns may share a name.

    Raises:
        QueryError: a value is none that Python has, such as a date of the year 100,000.
    """
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            columns.append(column.to_pylist())
        except (ValueError, OverflowError, NotImplementedError) as error:
            raise QueryError(
                f"column {name!r} holds a value that cannot be shown ({error}): cast it to text, as in x::VARCHAR"
            ) from None
    return list(zip(*columns, strict=True))


def _csv(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_flat(value) for value in row] for row in rows)
    return sink.getvalue()


def _json(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    lines = [_as_json(dict(zip(names, row, strict=True))) for row in rows]
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


def draw(names: Sequence[str], rows: Sequence[Sequence[Any]], total: int | None = None) -> str:
    """Draw a table for people, as wide as the terminal.

    Numbers are rounded and stand to the right; long texts come last and are cut; names are never cut, but folded. Columns
    for which there is no room are left out and named below.

    Args:
        total: rows that there are, if only the first ones are given.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [_numeric([row[i] for row in rows]) for i in range(len(names))]
    width = shutil.get_terminal_size((160, 50)).columns
    heads = [_cell(name) for name in names]
    natural = [max(cell_len(text) for text in (head, *(row[i] for row in cells))) for i, head in enumerate(heads)]
    if sum(natural) + 2 * len(natural) > width:
        heads = [head.replace("_", "\n_") for head in heads]
        folded = [head.split("\n") for head in heads]
        natural = [max(cell_len(text) for text in (*folded[i], *(row[i] for row in cells))) for i in range(len(heads))]
    widths, left_out = _layout(names, natural, numeric, width)
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for i, columns in widths.items():
        side: Literal["left", "right"] = "right" if numeric[i] else "left"
        cut: Literal["fold", "ellipsis"] = "ellipsis" if _is_long(names[i], natural[i]) else "fold"
        drawn.add_column(Text(heads[i]), justify=side, no_wrap=cut == "ellipsis", overflow=cut, width=columns)
    for row in cells:
        drawn.add_row(*(Text(row[i]) for i in widths))
    sink = io.StringIO()
    wide = max(width, sum(widths.values()) + 2 * len(widths))
    Console(file=sink, width=wide, color_system=None).print(drawn)
    lines = [line.rstrip() for line in sink.getvalue().splitlines()]
    return _plain("\n".join([*lines, *_notes(names, len(rows), total, left_out)]) + "\n")


def _notes(names: Sequence[str], shown: int, total: int | None, left_out: Sequence[int]) -> list[str]:
    count = shown if total is None else total
    rows = f"{count} row{'' if count == 1 else 's'}"
    notes = [rows + (f", the first {shown} shown: csv and json hold all" if count > shown else "")]
    if left_out:
        notes.append(f"no room for: {', '.join(_cell(names[i]) for i in left_out)} (csv and json hold all)")
    return notes


def _is_long(name: str, width: int) -> bool:
    return width > LONG and name not in NAMES


def _layout(
    names: Sequence[str], natural: Sequence[int], numeric: Sequence[bool], width: int
) -> tuple[dict[int, int], list[int]]:
    """Widths of the columns that are shown, in their order, and those that there is no room for."""
    long = [i for i, wide in enumerate(natural) if _is_long(names[i], wide)]
    short = {i: wide for i, wide in enumerate(natural) if i not in long}
    gaps = 2 * max(0, len(short) - 1)
    while sum(short.values()) + gaps > width:  # fold the widest texts
        widest = max((i for i in short if not numeric[i]), key=lambda i: short[i], default=None)
        if widest is None or short[widest] <= NARROWEST:
            break
        short[widest] -= 1
    widths: dict[int, int] = {}
    left_out = []
    room = width
    for i, wide in short.items():
        if widths and wide > room:
            left_out.append(i)
            continue
        widths[i] = wide
        room -= wide + 2
    for at, i in enumerate(long):
        share = min(natural[i], max(SHORTEST, room // (len(long) - at) - 2)) if widths else min(natural[i], width)
        if widths and share > room:
            left_out.append(i)
            continue
        widths[i] = share
        room -= share + 2
    return widths, left_out


def _numeric(values: Sequence[Any]) -> bool:
    there = [value for value in values if value is not None]
    return bool(there) and all(isinstance(v, int | float | Decimal) and not isinstance(v, bool) for v in there)


def _cell(value: Any) -> str:
    """A value in one line of printable characters: a name in the data must not steer the terminal."""
    if value is None:
        return ""
    if isinstance(value, float):
        return rounded(value)
    if isinstance(value, dict | list | tuple):
        return printable(_short(value))
    return printable(str(_flat(value)))


def _short(value: Any) -> str:
    """A nested value with rounded numbers."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_short(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_short, value)) + "]"
    return rounded(value) if isinstance(value, float) else "null" if value is None else str(_flat(value))


def rounded(value: float) -> str:
    """A number for people: four digits after the point below 1, fewer above."""
    size = abs(value)
    if not math.isfinite(value) or (0 < size < 1e-3):
        return f"{value:.3g}"
    digits = 4 if size < 1 else 3 if size < 10 else 2 if size < 1000 else 1
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _plain(text: str) -> str:
    """The text in characters that the terminal's encoding has."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if encoding.lower().replace("-", "").startswith("utf"):
        return text
    return text.replace("─", "-").replace("…", "~")
