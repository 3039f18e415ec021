"""`shardlens runs`."""

from __future__ import annotations

from typing import Annotated

from shardlens.pipeline.cli.console import Flat, Output, print_table
from shardlens.pipeline.warehouse import runs as records
from shardlens.pipeline.warehouse.layout import Warehouse, WarehouseRoot


def runs(*, warehouse: WarehouseRoot = "./warehouse", output: Annotated[Output, Flat] = Output()) -> None:  # noqa: B008
    """List the runs of the warehouse, whole or not."""
    place = Warehouse(warehouse)
    place.check()
    rows = []
    for name in records.names(place):
        record = records.find(place, name)
        totals = (record.commit or {}).get("totals", {})
        rows.append(
            {
                "run": name,
                "dataset": f"{record.dataset}@{record.dataset_version}",
                "model": record.settings.get("model"),
                "state": "committed" if record.commit else "unfinished",
                "images": totals.get("images"),
                "predictions": totals.get("predictions"),
                "quarantined": totals.get("quarantined"),
            }
        )
    print_table(rows, output)
