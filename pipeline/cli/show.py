"""`shardlens show`."""

from __future__ import annotations

from typing import Annotated

from shardlens.pipeline.cli.console import Flat, Output, print_result
from shardlens.pipeline.show import ShowConfig
from shardlens.pipeline.show import show as draw_images


def show(config: Annotated[ShowConfig, Flat], *, printed: Annotated[Output, Flat] = Output()) -> None:  # noqa: B008 - frozen
    """Draw images of a dataset with their annotations, or of a run with its predictions, as one PNG."""
    report = draw_images(config)
    lines = [f"{len(report.images)} images with {report.objects} objects: {report.uri}"]
    print_result(report, printed, [*lines, *(f"not shown: {reason}" for reason in report.unreadable)])
