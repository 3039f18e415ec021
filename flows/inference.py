"""Inference over a complete dataset, as it is scheduled: ingest, predict, evaluate; training first, if asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

from prefect import get_run_logger

from shardlens.flows import tasks
from shardlens.flows.alert_events import AlertLimits, emit_fallen, emit_quarantined
from shardlens.flows.artifacts import headline, is_unchanged
from shardlens.flows.embedded import flow
from shardlens.flows.parameter_forms import Form
from shardlens.flows.retries import RetryPolicy
from shardlens.flows.run_names import rename
from shardlens.flows.stages import TRAIN_FIRST, PredictForm, Retry, Workers
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
    """Results of the flow `dataset_inference`."""

    prediction: PredictReport
    evaluation: Evaluation | None
    """None: not asked for, the dataset has no annotations, or nothing changed since the last evaluation."""


def predicted_by(predict: PredictConfig, train: TrainConfig | None) -> str:
    """The model's name, or that of its weights."""
    weights = (predict.network.weights or "").removesuffix(f"/{CHECKPOINT}").rstrip("/").rpartition("/")[2]
    return f"a new {train.model}" if train else predict.network.model or weights


def inference_name(predict: PredictConfig, train: TrainConfig | None) -> str:
    """What a flow run is called, without its outcome."""
    return f"{predict.dataset} by {predicted_by(predict, train)}"


@flow("dataset_inference", lambda given: inference_name(given["predict"], given.get("train")))
def dataset_inference(
    predict: PredictForm,
    refresh: bool = True,
    ingest: Annotated[IngestConfig | None, Form(IngestConfig)] = None,
    train: Annotated[TrainConfig | None, Form(TrainConfig, TRAIN_FIRST)] = None,
    evaluate: bool = True,
    executor: Workers = ExecutorConfig(),  # noqa: B008 - frozen
    retry: Retry = RetryPolicy(),  # noqa: B008 - frozen
    alerts: Annotated[AlertLimits, Form(AlertLimits)] = AlertLimits(),  # noqa: B008 - frozen
) -> Inference:
    """Predict a dataset with a model and score it; what changed at its source is re-ingested first.

    A dataset that did not change since the last time is not predicted again; one that did has a new version, and so a
    new run.

    Args:
        predict: What to predict, with what, and how. Leave the run's name out, so that each version has its own.
        refresh: Look for new images at the dataset's source, and re-ingest it if there are any; a version that is named
            stays as it is.
        ingest: Ingest the dataset with these settings, instead of those of its last ingest.
        train: Fit a model first, on the executor named in there, and predict with it.
        evaluate: Score the run, if the dataset has annotations.
        executor: Where the stages run, and on how many workers.
        retry: How often and how long each stage is tried.
        alerts: From when on a run is worth an alert.
    """
    model, default_name = predicted_by(predict, train), inference_name(predict, train)
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
    emit_quarantined(report, alerts)
    evaluation = None
    if evaluate and not _is_scored(report, predict.warehouse) and _has_annotations(report, predict.warehouse):
        scored = EvaluateConfig(report.run, warehouse=predict.warehouse)
        evaluation = retry.on(tasks.evaluate)(scored, executor, wait_for=[report])
        emit_fallen(evaluation, alerts, predict.warehouse)
    rename(default_name, f"{report.dataset}@{report.dataset_version} by {model}: {outcome(report, evaluation)}")
    return Inference(report, evaluation)


def outcome(report: PredictReport, evaluation: Evaluation | None) -> str:
    """What came of an inference, in a few words."""
    if evaluation is not None:
        return headline(evaluation)
    if is_unchanged(report):
        return "unchanged"
    return f"{report.predictions} predictions"


def _is_scored(report: PredictReport, warehouse: str) -> bool:
    """Whether a run that was complete before has its metrics, too: then nothing is repeated."""
    folder = Warehouse(warehouse).metrics(report.dataset, report.run)
    return is_unchanged(report) and next(iter(storage.walk(folder)), None) is not None


def _placed(config: Placed, predict: PredictConfig, name: str | None = None) -> Placed:
    """Set the warehouse of a stage to that of the prediction, unless another one is named.

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
