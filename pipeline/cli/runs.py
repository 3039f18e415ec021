"""`shardlens runs`."""

from __future__ import annotations

from typing import Annotated

from shardlens.pipeline.cli.console import Flat, Output, print_json, print_table
from shardlens.pipeline.warehouse.layout import WarehouseRoot


def runs(*, warehouse: WarehouseRoot = "./warehouse", output: Annotated[Output, Flat] = Output()) -> None:  # noqa: B008
    """List the runs of prediction and of training, finished or not, with their figures; the latest last."""
    from shardlens.pipeline.runs import for_people, list_runs

    listed = list_runs(warehouse)
    if output.json:
        print_json(listed)
    else:
        print_table([for_people(run) for run in listed], output)
