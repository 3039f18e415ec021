"""`shardlens evaluate`."""

from __future__ import annotations

from typing import Annotated

from shardlens.pipeline.cli.console import Flat, Output, print_table, progress_bars
from shardlens.pipeline.evaluate import EvaluateConfig
from shardlens.pipeline.evaluate import evaluate as run_evaluate
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor


def evaluate(
    config: Annotated[EvaluateConfig, Flat],
    *,
    executor: Annotated[ExecutorConfig, Flat] = ExecutorConfig(),  # noqa: B008 - frozen
    output: Annotated[Output, Flat] = Output(),  # noqa: B008 - frozen
) -> None:
    """Score a committed run against its dataset's annotations and write the metric tables."""
    with open_executor(executor) as workers, progress_bars() as progress:
        evaluation = run_evaluate(config, workers, progress)
    rows = [{"task": task, "metric": metric, "value": value} for task, metric, value in evaluation.summary()]
    print_table(rows, output, f"run {config.run}: mean over the categories")
    for note in () if output.json else evaluation.notes:
        print(note)
