"""The stages as Prefect tasks. Each is one task; what runs in parallel does so inside it, on the stage's executor."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from shardlens.flows.artifacts import (
    ProgressArtifacts,
    is_unchanged,
    mean_rows,
    run_line,
    show_checkpoint,
    show_ingest,
    show_metrics,
    show_run,
)
from shardlens.flows.retries import worth_retrying
from shardlens.flows.termination import prefect_termination, stage_executor
from shardlens.pipeline import evaluate as evaluation
from shardlens.pipeline import ingest as ingestion
from shardlens.pipeline import predict as prediction
from shardlens.pipeline import train as training
from shardlens.pipeline.evaluate import EvaluateConfig, Evaluation
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.ingest import IngestConfig, IngestReport
from shardlens.pipeline.predict import PredictConfig, PredictReport
from shardlens.pipeline.train import TrainConfig, TrainReport
from shardlens.pipeline.training.job import TrainJob
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.training.stepper import init_report
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse


@task(
    task_run_name="ingest {config.name}", retry_condition_fn=worth_retrying, cache_policy=NO_CACHE, persist_result=False
)
def ingest(config: IngestConfig, executor: ExecutorConfig) -> IngestReport:
    """Take images and annotations into the warehouse as a dataset."""
    with stage_executor(executor) as workers:
        report = ingestion.ingest(config, workers, ProgressArtifacts(config.name))
    _log_and_publish([report])
    return report


@task(
    name="ingest",
    task_run_name="ingest {dataset} again",
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def ingest_again(warehouse: str, dataset: str, executor: ExecutorConfig) -> list[IngestReport]:
    """Take a dataset in again from where it came from; where nothing changed, its version stays."""
    before = Dataset.open(Warehouse(warehouse), dataset).version
    with stage_executor(executor) as workers:
        reports = ingestion.refresh(warehouse, dataset, workers, ProgressArtifacts(dataset))
    if reports and reports[-1].version == before:
        get_run_logger().info("dataset %s is unchanged, version %s", dataset, before)
    else:
        _log_and_publish(reports)
    return reports


def _log_and_publish(reports: Sequence[IngestReport]) -> None:
    for report in reports:
        get_run_logger().info("%s", report)
    show_ingest(reports)


@task(
    task_run_name="predict {config.dataset}",
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def predict(config: PredictConfig, executor: ExecutorConfig) -> PredictReport:
    """Predict a dataset with a model and commit the run; finished shards are skipped."""
    with stage_executor(executor) as workers:
        report = prediction.predict(config, workers, ProgressArtifacts(config.dataset.partition("@")[0]))
    get_run_logger().info("%s", run_line(report))
    if not is_unchanged(report) or (task_run.run_count or 0) > 1:  # a retry may follow on one that could not publish
        show_run(report, config.warehouse)
    return report


@task(
    task_run_name="evaluate {config.run}",
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def evaluate(config: EvaluateConfig, executor: ExecutorConfig) -> Evaluation:
    """Score a committed run against its dataset's annotations."""
    dataset = runs.open_committed(Warehouse(config.warehouse), config.run).dataset
    with stage_executor(executor) as workers:
        found = evaluation.evaluate(config, workers, ProgressArtifacts(dataset))
    figures = ("{task} {metric} {value}".format(**row) for row in mean_rows(found))
    get_run_logger().info("run %s on %s: %s", found.run, found.dataset, ", ".join(figures))
    show_metrics(found)
    return found


@task(
    name="check",
    task_run_name="check {config.dataset}",
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def check(config: TrainConfig) -> TrainJob:
    """See that there is something to learn, and say what to know of the data before anything is started."""
    job = prepare(config)
    for note in (*job.notes, *init_report(job)):
        get_run_logger().info("%s", note)
    return job


@task(
    task_run_name="train {config.model}", retry_condition_fn=worth_retrying, cache_policy=NO_CACHE, persist_result=False
)
def train(config: TrainConfig) -> TrainReport:
    """Fit a model to a dataset and write a checkpoint; what an earlier try left goes on from its last checkpoint."""
    logger = get_run_logger()
    with prefect_termination():
        report = training.train(config, ProgressArtifacts(config.dataset.partition("@")[0]), logger.info)
    logger.info("run %s: its checkpoint is %s", report.run, report.checkpoint)
    show_checkpoint(report)
    return report
