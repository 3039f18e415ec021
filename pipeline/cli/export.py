"""`shardlens export`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from shardlens.pipeline.cli.console import Flat, Output, print_result
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.export_coco import Chosen, export_coco
from shardlens.pipeline.storage import normalize
from shardlens.pipeline.warehouse.layout import Warehouse, WarehouseRoot
from shardlens.pipeline.warehouse.runs import open_committed


def export(
    run: Annotated[str, Parameter(help="Name of a committed run; of a training run for darknet.")],
    *,
    output: Annotated[str, Parameter(help="URI of the file to write.")],
    format: Annotated[Literal["coco", "darknet"], Parameter(help="Format of the file.")] = "coco",
    chosen: Annotated[Chosen, Flat] = Chosen(),  # noqa: B008 - frozen
    warehouse: WarehouseRoot = "./warehouse",
    printed: Annotated[Output, Flat] = Output(),  # noqa: B008 - frozen
) -> None:
    """Write a run's predictions as a COCO results file, or a trained YOLO as Darknet's .weights, .cfg and .names."""
    if format == "darknet" and chosen != Chosen():
        raise ConfigError(
            "--score-threshold, --split and --where are for predictions: leave them out with --format darknet"
        )
    if format == "darknet":
        from shardlens.pipeline.export_darknet import export_darknet  # loads torch: not before the options are read

        files = export_darknet(Warehouse(warehouse), run, normalize(output))
        print_result(files, printed, [f"written: {files.weights}, {files.cfg}, {files.names}"])
        return
    report = export_coco(open_committed(Warehouse(warehouse), run), normalize(output), chosen)
    lines = [f"{report.rows} predictions written to {report.uri}"]
    if report.left_out:
        lines.append(f"{report.left_out} left out: their labels are no category of the dataset")
    if report.not_chosen:
        lines.append(f"{report.not_chosen} not chosen by --score-threshold, --split or --where")
    print_result(report, printed, lines)
