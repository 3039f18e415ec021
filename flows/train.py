"""Training as it is scheduled: check the data, train, then score the checkpoint as any other run is scored."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import get_run_logger

from shardlens.flows import log_filters, tasks
from shardlens.flows.artifacts import headline
from shardlens.flows.embedded import flow
from shardlens.flows.recipe_choice import Recipe, with_recipe
from shardlens.flows.retries import RetryPolicy
from shardlens.flows.run_names import rename
from shardlens.flows.stages import Retry, TrainForm, Workers, training_name
from shardlens.pipeline.evaluate import EvaluateConfig, Evaluation
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, PredictReport
from shardlens.pipeline.train import TrainConfig, TrainReport

log_filters.install()


@dataclass(frozen=True)
class Training:
    """Results of the flow `dataset_training`."""

    report: TrainReport
    prediction: PredictReport | None
    """None: not asked for, or there is no validation split."""
    evaluation: Evaluation | None


@flow("dataset_training", lambda given: training_name(given["train"]))
def dataset_training(
    train: TrainForm,
    recipe: Recipe | None = None,
    evaluate: bool = True,
    executor: Workers = ExecutorConfig(),  # noqa: B008 - frozen
    retry: Retry = RetryPolicy(),  # noqa: B008 - frozen
) -> Training:
    """Train a model on a dataset, then predict and score the validation split with the weights that were kept.

    Problems are detected before the first step. A training that fails is retried and resumes from its last checkpoint;
    one that is complete is only reported.

    Args:
        train: What to train, on what, and how.
        recipe: Complete settings by name, for what is left at its default.
        evaluate: Predict and score the validation split, category by category, as a run of its own.
        executor: Where the prediction and its score run; the training's own executor is named in `train`.
        retry: How often and how long each stage is tried.
    """
    train = with_recipe(train, recipe)
    retry.on(tasks.check)(train)
    report = retry.on(tasks.train)(train)
    if not evaluate or report.val_split is None:
        get_run_logger().info(
            "the checkpoint is not scored: %s", "not asked for" if not evaluate else "no split for it"
        )
        _rename(train, report, None)
        return Training(report, None, None)
    prediction = retry.on(tasks.predict)(scoring(train, report), executor, wait_for=[report])
    scored = EvaluateConfig(prediction.run, warehouse=train.warehouse)
    evaluation = retry.on(tasks.evaluate)(scored, executor, wait_for=[prediction])
    _rename(train, report, evaluation)
    return Training(report, prediction, evaluation)


def _rename(train: TrainConfig, report: TrainReport, evaluation: Evaluation | None) -> None:
    """Add dataset version and outcome to the flow run's name."""
    outcome = headline(evaluation) if evaluation else f"{report.epochs} epochs"
    rename(training_name(train), f"train {train.model} on {report.dataset}@{report.dataset_version}: {outcome}")


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
