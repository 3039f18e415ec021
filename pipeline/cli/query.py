"""`shardlens query`."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from shardlens.pipeline.cli.render import Format, format_of, render, write
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.storage import normalize
from shardlens.pipeline.warehouse.layout import WarehouseRoot


def query(
    sql: Annotated[str, Parameter(help="A SELECT over the views: runs, predictions, outcomes, metrics, images, ...")],
    *,
    warehouse: WarehouseRoot = "./warehouse",
    format: Annotated[
        Format | None,
        Parameter(help="How the rows are written; default: by the suffix of --output, else a table."),
    ] = None,
    output: Annotated[str | None, Parameter(help="URI to write the rows to; default: standard output.")] = None,
    json: Annotated[bool, Parameter(help="The same as --format json.", negative="")] = False,
    timeout: Annotated[
        float | None, Parameter(help="Seconds after which the query is stopped; default: no limit.")
    ] = None,
    memory_limit: Annotated[
        str, Parameter(help="Memory that the query may use, such as 2GB, or a share of this machine's.")
    ] = "50%",
) -> None:
    """Run SQL over the tables of the warehouse, committed runs only; it can read nothing else and write nothing."""
    form: Format = format or ("json" if json else "table" if output is None else format_of(output))
    if output is not None and form == "table":
        raise ConfigError(
            f"--output {output}: a table is for people, and is cut: expected --format csv, json or parquet"
        )
    from shardlens.pipeline.query import query as run_query

    rows = run_query(warehouse, sql, timeout=timeout, memory_limit=memory_limit)
    if output is not None:
        write(rows, normalize(output), form)
        print(f"{rows.num_rows} rows written to {normalize(output)}", file=sys.stderr)
        return
    text = render(rows, form)
    if isinstance(text, bytes):
        sys.stdout.buffer.write(text)
    else:
        print(text.rstrip("\n"))
