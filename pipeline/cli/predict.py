"""`shardlens predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from shardlens.pipeline.cli.console import Flat, Output, print_result, progress_bars
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.inference.config import PredictRequest

if TYPE_CHECKING:
    from shardlens.pipeline.predict import PredictReport

LONG = 30.0
"""Seconds of a run from which on other cores are worth Ray's start."""


def predict(
    config: Annotated[PredictRequest, Flat] = PredictRequest(),  # noqa: B008 - frozen
    *,
    executor: Annotated[ExecutorConfig, Flat] = ExecutorConfig(),  # noqa: B008 - frozen
    output: Annotated[Output, Flat] = Output(),  # noqa: B008 - frozen
    retry_quarantined: Annotated[str | None, Parameter(help="Try only this run's quarantined images again.")] = None,
) -> None:
    """Predict a dataset with a model and commit the run; the same command resumes what was interrupted."""
    if not (config.dataset or retry_quarantined):
        raise ConfigError("no dataset given: expected 'shardlens predict DATASET --model NAME --weights URI'")
    if config.dataset and retry_quarantined:
        raise ConfigError(
            f"--retry-quarantined {retry_quarantined} takes its dataset and settings from the run: leave them out"
        )
    from shardlens.pipeline.executors.opening import open_executor  # these load torch: not before the options are read
    from shardlens.pipeline.predict import predict as run_predict
    from shardlens.pipeline.retry import retry_quarantined as run_retry

    with open_executor(executor) as workers, progress_bars() as progress:
        if retry_quarantined is not None:
            allowed = None if config.max_quarantined == PredictRequest.max_quarantined else config.max_quarantined
            report = run_retry(config.warehouse, retry_quarantined, workers, progress, allowed, config.network.model)
        else:
            report = run_predict(config, workers, progress)
    print_result(report, output, [*lines(report), *_spare_cores(report, executor)])


def _spare_cores(report: PredictReport, executor: ExecutorConfig) -> list[str]:
    """A hint after a run that took a while and left cores idle."""
    from shardlens.pipeline.executors.cores import usable_cores

    cores = usable_cores()
    alone = executor.kind == "local" and executor.gpus_per_worker == 0
    if not alone or cores <= executor.cpus_per_worker or report.seconds < LONG:
        return []
    return [f"  computed on {executor.cpus_per_worker:g} of {cores} cores: --executor ray takes all of them"]


def _speed(report: PredictReport) -> list[str]:
    """How long this attempt took, and what for."""
    resumed = f"; {report.resumed_shards} shards were there already" if report.resumed_shards else ""
    stages = ", ".join(f"{stage} {took:.1f}" for stage, took in report.stages.items())
    return [
        f"  {report.seconds:.1f} s, {report.images_per_second:.1f} images/s in {report.precision}, "
        f"device waited {report.device_wait:.0%}{resumed}",
        f"  worker seconds (stages overlap): {stages}",
    ]


def lines(report: PredictReport) -> list[str]:
    """The report in lines for people."""
    shown = [
        f"run {report.run}: {report.predictions} predictions in {report.images} images of {report.dataset}"
        f"@{report.dataset_version}, {report.quarantined} quarantined",
        *([f"  {report.carried_over}"] if report.carried_over else []),
        *(
            ["  nothing left to predict: all of its shards were there already"]
            if report.is_unchanged
            else _speed(report)
        ),
        f"  {report.uri}",
    ]
    shown += [f"  {note}" for note in report.notes]
    if report.unmatched_labels:
        some = ", ".join(report.unmatched_labels[:8])
        shown.append(f"  {len(report.unmatched_labels)} labels match no category of the dataset: {some}")
    if report.rescored:
        shown.append(f"  rows have changed, so the run was scored again: {', '.join(report.rescored)}")
    if report.quarantined:
        condition = f"run = '{report.run}' AND status <> 'ok'"
        shown.append(f'  why: shardlens query "SELECT image_id, stage, message FROM outcomes WHERE {condition}"')
    return shown
