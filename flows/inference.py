"""Inference over a whole dataset, as it is scheduled: ingest, predict, evaluate in a row, after training if wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

from prefect import get_run_logger
from prefect.runtime import flow_run

from shardlens.flows import tasks
from shardlens.flows.embedded import flow
from shardlens.flows.parameter_forms import Form
from shardlens.flows.retries import RetryPolicy
from shardlens.flows.stages import Retry, Workers
from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.evaluate import EvaluateConfig, Evaluation
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.ingest import IngestConfig
from shardlens.pipeline.networks.checkpoints import CHECKPOINT
from shardlens.pipeline.predict import PredictConfig, PredictReport
from shardlens.pipeline.train import TrainConfig
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse

DEFAULT_WAREHOUSE = PredictConfig.warehouse
Placed = TypeVar("Placed", IngestConfig, TrainConfig)


@dataclass(frozen=True)
class Inference:
    """What came of an inference."""

    prediction: PredictReport
    evaluation: Evaluation | None
    """None = not asked for, or the dataset has no annotations."""


def run_name() -> str:
    """Name a flow run after what it predicts, and with what."""
    parameters = flow_run.parameters
    network, train = parameters["predict"].network, parameters.get("train")
    weights = (network.weights or "").removesuffix(f"/{CHECKPOINT}").rstrip("/").rpartition("/")[2]
    return f"{parameters['predict'].dataset} by {f'a new {train.model}' if train else network.model or weights}"


@flow("dataset_inference", run_name)
def dataset_inference(
    predict: Annotated[PredictConfig, Form(PredictConfig)],
    refresh: bool = True,
    ingest: Annotated[IngestConfig | None, Form(IngestConfig)] = None,
    train: Annotated[TrainConfig | None, Form(TrainConfig)] = None,
    evaluate: bool = True,
    executor: Workers = ExecutorConfig(),  # noqa: B008 - frozen
    retry: Retry = RetryPolicy(),  # noqa: B008 - frozen
) -> Inference:
    """Predict a whole dataset with a model, and score it: what changed at its source is taken in first.

    A dataset that did not change since the last time is not predicted again; one that did has a new version, and so a
    new run.

    Args:
        predict: What to predict, with what, and how. Leave the run's name out, so that each version has its own.
        refresh: Look for new images where the dataset came from, and take it in again if there are any; a version that is
            named stays as it is.
        ingest: Take the dataset in like this, instead of as it was taken in the last time.
        train: Fit a model first, on the executor named in there, and predict with it.
        evaluate: Score the run, if the dataset has annotations.
        executor: Where the stages run, and on how many workers.
        retry: How often and how long each stage is tried.
    """
    done: list[object] = []
    if ingest is not None:
        taken = _placed(ingest, predict, "name")
        done.append(retry.on(tasks.ingest)(taken, executor))
    elif refresh and "@" not in predict.dataset:  # a version that is named stays as it is
        done.append(retry.on(tasks.ingest_again)(predict.warehouse, predict.dataset, executor))
    if train is not None:
        trained = retry.on(tasks.train)(_placed(train, predict), wait_for=done)
        predict = _with_checkpoint(predict, trained.checkpoint, train.model)
        done.append(trained)
    report = retry.on(tasks.predict)(predict, executor, wait_for=done)
    if not (evaluate and _has_annotations(report, predict.warehouse)):
        return Inference(report, None)
    scored = EvaluateConfig(report.run, warehouse=predict.warehouse)
    return Inference(report, retry.on(tasks.evaluate)(scored, executor, wait_for=[report]))


def _placed(config: Placed, predict: PredictConfig, name: str | None = None) -> Placed:
    """Put a stage into the warehouse of the prediction, where it was not told another.

    Raises:
        ConfigError: it was, or its dataset's name in field `name` is another.
    """
    if name and getattr(config, name) != predict.dataset:
        raise ConfigError(
            f"the dataset taken in is {getattr(config, name)!r}, the one predicted is {predict.dataset!r}: "
            "name the same one, or run the flow 'ingest' by itself"
        )
    asked, wanted = storage.normalize(config.warehouse), storage.normalize(predict.warehouse)
    if asked not in (wanted, storage.normalize(DEFAULT_WAREHOUSE)):
        raise ConfigError(f"two warehouses are named, {asked} and {wanted}: expected one for all stages")
    return replace(config, warehouse=predict.warehouse)


def _with_checkpoint(predict: PredictConfig, checkpoint: str, model: str) -> PredictConfig:
    """Predict with what was just trained.

    Raises:
        ConfigError: other weights were given too.
    """
    if predict.network.weights is not None:
        raise ConfigError(f"weights {predict.network.weights} are given, and a training too: expected one of them")
    return replace(predict, network=replace(predict.network, weights=checkpoint, model=predict.network.model or model))


def _has_annotations(report: PredictReport, warehouse: str) -> bool:
    dataset = Dataset.open(Warehouse(warehouse), report.dataset, report.dataset_version)
    if not dataset.document["annotations"]:
        get_run_logger().info("dataset %s has no annotations: the run is not scored", dataset.name)
    return bool(dataset.document["annotations"])
