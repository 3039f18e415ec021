"""`shardlens query`."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from shardlens.pipeline.cli.render import render, write
from shardlens.pipeline.query import query as run_query
from shardlens.pipeline.storage import normalize
from shardlens.pipeline.warehouse.layout import WarehouseRoot


def query(
    sql: Annotated[str, Parameter(help="A SELECT over the views: runs, predictions, outcomes, metrics, images, ...")],
    *,
    warehouse: WarehouseRoot = "./warehouse",
    format: Annotated[
        Literal["table", "csv", "json", "parquet"], Parameter(help="How the rows are written.")
    ] = "table",
    output: Annotated[str | None, Parameter(help="URI to write the rows to; none = standard output.")] = None,
    json: Annotated[bool, Parameter(help="The same as --format json.", negative="")] = False,
) -> None:
    """Run SQL over the tables of the warehouse, committed runs only; it can read nothing else and write nothing."""
    form = "json" if json else format
    rows = run_query(warehouse, sql)
    if output is not None:
        write(rows, normalize(output), form)
        print(f"{rows.num_rows} rows written to {normalize(output)}", file=sys.stderr)
        return
    text = render(rows, form)
    if isinstance(text, bytes):
        sys.stdout.buffer.write(text)
    else:
        print(text.rstrip("\n"))
