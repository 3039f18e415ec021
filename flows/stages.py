"""The stages as flows of their own, each of its one task; `shardlens.flows.inference` puts them in a row."""

from __future__ import annotations

from typing import Annotated

from shardlens.flows import log_filters, tasks
from shardlens.flows.embedded import flow
from shardlens.flows.parameter_forms import Form
from shardlens.flows.recipe_choice import Recipe, with_recipe
from shardlens.flows.retries import RetryPolicy
from shardlens.pipeline.evaluate import EvaluateConfig, Evaluation
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.ingest import IngestConfig, IngestReport
from shardlens.pipeline.predict import PredictConfig, PredictReport
from shardlens.pipeline.train import TrainConfig, TrainReport

log_filters.install()

PREDICT_FIRST = (
    "dataset",
    "network",
    "split",
    "batch_size",
    "precision",
    "run",
    "inference",
    "shard_size",
    "warehouse",
)
TRAIN_FIRST = (
    "dataset",
    "model",
    "split",
    "val_split",
    "epochs",
    "batch_size",
    "learning_rate",
    "image_size",
    "init",
    "run",
)
"""The fields that most runs set, as the forms list them."""
PredictForm = Annotated[PredictConfig, Form(PredictConfig, PREDICT_FIRST)]
TrainForm = Annotated[TrainConfig, Form(TrainConfig, TRAIN_FIRST)]


def training_name(config: TrainConfig) -> str:
    """What a training is called, without its outcome."""
    return f"train {config.model} on {config.dataset}"


Workers = Annotated[ExecutorConfig, Form(ExecutorConfig)]
Retry = Annotated[RetryPolicy, Form(RetryPolicy)]


@flow("ingest", lambda given: f"ingest {given['config'].name}")
def ingest(
    config: Annotated[IngestConfig, Form(IngestConfig)],
    executor: Workers = ExecutorConfig(),  # noqa: B008 - frozen
    retry: Retry = RetryPolicy(),  # noqa: B008 - frozen
) -> IngestReport:
    """Take images and annotations into the warehouse as a dataset.

    Args:
        config: What to take in, and as what.
        executor: Where it runs, and on how many workers.
        retry: How often and how long it is tried.
    """
    return retry.on(tasks.ingest)(config, executor)


@flow("predict", lambda given: f"predict {given['config'].dataset}")
def predict(
    config: PredictForm,
    executor: Workers = ExecutorConfig(),  # noqa: B008 - frozen
    retry: Retry = RetryPolicy(),  # noqa: B008 - frozen
) -> PredictReport:
    """Predict a dataset with a model and commit the run; an interrupted run is resumed.

    Args:
        config: What to predict, with what, and how.
        executor: Where it runs, and on how many workers.
        retry: How often and how long it is tried.
    """
    return retry.on(tasks.predict)(config, executor)


@flow("evaluate", lambda given: f"evaluate {given['config'].run}")
def evaluate(
    config: Annotated[EvaluateConfig, Form(EvaluateConfig)],
    executor: Workers = ExecutorConfig(),  # noqa: B008 - frozen
    retry: Retry = RetryPolicy(),  # noqa: B008 - frozen
) -> Evaluation:
    """Score a committed run against its dataset's annotations: AP and AR, Dice and IoU.

    Args:
        config: Which run to score.
        executor: Where it runs, and on how many workers.
        retry: How often and how long it is tried.
    """
    return retry.on(tasks.evaluate)(config, executor)


@flow("train", lambda given: training_name(given["config"]))
def train(
    config: TrainForm,
    recipe: Recipe | None = None,
    retry: Retry = RetryPolicy(),  # noqa: B008 - frozen
) -> TrainReport:
    """Fit a model to a dataset and write a checkpoint that prediction takes as its weights.

    Args:
        config: What to train, on what, and how.
        recipe: Complete settings by name, for what is left at its default.
        retry: How often and how long it is tried.
    """
    return retry.on(tasks.train)(with_recipe(config, recipe))
