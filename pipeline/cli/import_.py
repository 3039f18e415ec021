"""`shardlens import`."""

from __future__ import annotations

from typing import Annotated

from shardlens.pipeline.cli.console import Flat, Output, print_result, progress_bars
from shardlens.pipeline.import_coco import ImportConfig, import_coco


def import_(config: Annotated[ImportConfig, Flat], *, output: Annotated[Output, Flat] = Output()) -> None:  # noqa: B008
    """Import COCO results made elsewhere as a committed run, to evaluate and query it like any other."""
    with progress_bars() as progress:
        report = import_coco(config, progress)
    summary = f"run {report.run}: {report.predictions} predictions in {report.images} images of {report.dataset}"
    notes = [f"  {note}" for note in report.notes]
    empty = [f"  {report.empty_images} images have no predictions"] if report.empty_images else []
    print_result(report, output, [summary, *empty, f"  {report.uri}", *notes])
