"""`shardlens fuse`."""

from __future__ import annotations

from typing import Annotated

from shardlens.pipeline.cli.console import Flat, Output, print_result, progress_bars
from shardlens.pipeline.fuse import FuseConfig
from shardlens.pipeline.fuse import fuse as fuse_runs


def fuse(config: Annotated[FuseConfig, Flat], *, output: Annotated[Output, Flat] = Output()) -> None:  # noqa: B008
    """Fuse the boxes of several runs of one dataset into a committed run, to evaluate and query it like any other."""
    with progress_bars() as progress:
        report = fuse_runs(config, progress)
    before = ", ".join(f"{name} {count}" for name, count in report.fused_from.items())
    summary = f"run {report.run}: {report.predictions} boxes in {report.images} images of {report.dataset}"
    print_result(report, output, [summary, f"  fused from {before}; {report.uri}"])
