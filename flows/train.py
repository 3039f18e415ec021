"""Training as it is scheduled: look at the data, train, then score the checkpoint as any run of predictions is scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prefect import get_run_logger

from shardlens.flows import log_filters, tasks
from shardlens.flows.embedded import flow
from shardlens.flows.parameter_forms import Form
from shardlens.flows.retries import RetryPolicy
from shardlens.flows.stages import Retry, Workers
from shardlens.pipeline.evaluate import EvaluateConfig, Evaluation
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, PredictReport
from shardlens.pipeline.train import TrainConfig, TrainReport

log_filters.leave_out_tracebacks()


@dataclass(frozen=True)
class Training:
    """What came of a training."""

    report: TrainReport
    prediction: PredictReport | None
    """None = not asked for, or there is no split to validate on."""
    evaluation: Evaluation | None


@flow("dataset_training", "train {train.model} on {train.dataset}")
def dataset_training(
    train: Annotated[TrainConfig, Form(TrainConfig)],
    evaluate: bool = True,
    executor: Workers = ExecutorConfig(),  # noqa: B008 - frozen
    retry: Retry = RetryPolicy(),  # noqa: B008 - frozen
) -> Training:
    """Fit a model to a dataset, then predict and score the split to validate on with the weights that were kept.

    What cannot work is told before anything is started. A training that fails is tried again, and goes on from its last
    checkpoint; one that is whole already is only reported.

    Args:
        train: What to train, on what, and how.
        evaluate: Predict and score the split to validate on, category by category, as a run of its own.
        executor: Where the prediction and its score run; the training's own executor is named in `train`.
        retry: How often and how long each stage is tried.
    """
    retry.on(tasks.check)(train)
    report = retry.on(tasks.train)(train)
    if not evaluate or report.val_split is None:
        get_run_logger().info(
            "the checkpoint is not scored: %s", "not asked for" if not evaluate else "no split for it"
        )
        return Training(report, None, None)
    prediction = retry.on(tasks.predict)(scoring(train, report), executor, wait_for=[report])
    scored = EvaluateConfig(prediction.run, warehouse=train.warehouse)
    evaluation = retry.on(tasks.evaluate)(scored, executor, wait_for=[prediction])
    return Training(report, prediction, evaluation)


def scoring(train: TrainConfig, report: TrainReport) -> PredictConfig:
    """How the split that was validated on is predicted with the weights that were kept."""
    return PredictConfig(
        f"{report.dataset}@{report.dataset_version}",
        network=NetworkConfig(weights=report.checkpoint),
        split=report.val_split,
        batch_size=train.batch_size,
        precision=train.precision,
        max_pixels=train.max_pixels,
        value_range=train.value_range,
        accept_missing_end=train.accept_missing_end,
        image_timeout=train.image_timeout,
        warehouse=train.warehouse,
    )
