"""`shardlens verify`."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from shardlens.pipeline.cli.console import Flat, Output, print_result, progress_bars
from shardlens.pipeline.warehouse.layout import WarehouseRoot


def verify(
    run: Annotated[str, Parameter(help="Name of a committed run.")],
    *,
    warehouse: WarehouseRoot = "./warehouse",
    output: Annotated[Output, Flat] = Output(),  # noqa: B008 - frozen
) -> None:
    """Check all files of a run against the digests of its commit; exit status 1 if one is damaged."""
    from shardlens.pipeline.verify import verify as run_verify

    with progress_bars() as progress:
        report = run_verify(warehouse, run, progress)
    lines = [f"run {report.run}: {report.parts} files, {report.bytes} bytes, {len(report.damaged)} damaged"]
    lines += [f"  {damage.uri}: {damage.problem}" for damage in report.damaged]
    if report.damaged:
        lines.append("restore these files, or delete them and rerun the 'shardlens predict' command of the run")
    print_result(report, output, lines)
    sys.exit(int(bool(report.damaged)))
