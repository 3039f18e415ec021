"""`shardlens datasets`."""

from __future__ import annotations

from typing import Annotated

from shardlens.pipeline.cli.console import Flat, Output, print_table
from shardlens.pipeline.warehouse.datasets import list_datasets
from shardlens.pipeline.warehouse.layout import Warehouse, WarehouseRoot


def datasets(*, warehouse: WarehouseRoot = "./warehouse", output: Annotated[Output, Flat] = Output()) -> None:  # noqa: B008
    """List the datasets of the warehouse, in their latest version."""
    place = Warehouse(warehouse)
    place.check()
    rows = []
    for dataset in list_datasets(place):
        document = dataset.document
        held = ", ".join(f"{split['split'] or '(none)'} {split['images']}" for split in document["splits"])
        counts = {kind: document[kind] for kind in ("images", "annotations")}
        rows.append({"dataset": dataset.name, "version": dataset.version, **counts, "splits": held})
    print_table(rows, output)
