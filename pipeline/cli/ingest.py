"""`shardlens ingest`."""

from __future__ import annotations

from typing import Annotated

from shardlens.pipeline.cli.console import Flat, Output, print_result, progress_bars
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig
from shardlens.pipeline.ingest import ingest as run_ingest


def ingest(
    config: Annotated[IngestConfig, Flat],
    *,
    executor: Annotated[ExecutorConfig, Flat] = ExecutorConfig(),  # noqa: B008 - frozen
    output: Annotated[Output, Flat] = Output(),  # noqa: B008 - frozen
) -> None:
    """Take images and annotations into the warehouse as a dataset; every problem is reported, none is dropped silently."""
    with open_executor(executor) as workers, progress_bars() as progress:
        report = run_ingest(config, workers, progress)
    print_result(report, output, [str(report)])
