"""Evaluate: score a committed run against its dataset's annotations, shard by shard, into metric tables.

Each shard gives a partial, which is stored (in `partials/`) and reused as long as run, tasks,
engine and images are the same; the driver merges them. An image whose annotations are not known is left out. A quarantined
image counts as an image without predictions, so its objects are missed. Predictions that name no category of the dataset
are not scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.errors import DatasetError, RunError
from shardlens.pipeline.executors.base import Executor, ProgressListener, no_progress
from shardlens.pipeline.metrics.objects import Ints
from shardlens.pipeline.metrics.partial_store import Partial, collect, outcomes
from shardlens.pipeline.metrics.rules import MAX_DETS, EngineName, Rules
from shardlens.pipeline.metrics.stage import EvaluateStage
from shardlens.pipeline.metrics.tasks import OBJECTS, SCORED_BY, Score, merge, scorable
from shardlens.pipeline.metrics.truth_by_shard import ShardedTruth, split_truth
from shardlens.pipeline.metrics.truth_version import RUN, newer_truth, open_truth
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.datasets import Dataset, annotated
from shardlens.pipeline.warehouse.layout import Warehouse, WarehouseRoot, check_name
from shardlens.pipeline.warehouse.runs import RunRecord

LOWEST = 0.01
"""A run whose lowest score is this or more was cut at a threshold that can change AP."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Which run to score."""

    run: str
    """Name of a committed run."""
    _: KW_ONLY
    engine: EngineName = "hotcoco"
    """What computes COCO's AP and AR: hotcoco, or pycocotools, the slow reference; both give the same bits."""
    max_dets: int = MAX_DETS[-1]
    """Predictions of an image and category that count for AP and AR, the best first; at other limits than COCO's 100, AR100
    is called after the limit."""
    truth: str = RUN
    """Version of the dataset whose annotations are the truth: run, the version that was predicted; latest, such as after
    annotations were corrected; or a version. The images must be the same."""
    unannotated: bool = False
    """Also score the images whose annotations are missing or unreadable, as images without objects."""
    warehouse: WarehouseRoot = "./warehouse"
    """Root of the tables."""

    def __post_init__(self) -> None:
        check_name(self.run, "run")
        _ = self.rules

    @property
    def rules(self) -> Rules:
        """How the run is scored."""
        return Rules(self.engine, self.max_dets)


@dataclass(frozen=True)
class Evaluation:
    """The score of a run."""

    run: str
    dataset: str
    tasks: tuple[str, ...]
    metrics: pa.Table
    """Rows of `tables.METRICS`."""
    curves: pa.Table
    """Rows of `tables.CURVES`."""
    metrics_uri: str
    curves_uri: str
    images: int
    """Images that were scored."""
    quarantined: int
    """Of these, images without predictions because they could not be read or predicted."""
    notes: tuple[str, ...]
    """What a reader of the figures should know, a sentence each."""
    truth_version: str | None = None
    """Version of the annotations, where it is not that of the run."""
    left_out: int = 0
    """Images that were not scored, because their annotations are missing or unreadable."""

    def summary(self) -> list[tuple[str, str, float | None]]:
        """(task, metric, value) of the means over the categories, None = undefined; then how many images were scored."""
        means = self.metrics.filter(pc.is_null(self.metrics["category_id"]))
        rows = list(zip(*(means[name].to_pylist() for name in ("task", "metric", "value")), strict=True))
        counts = {"scored": self.images, "quarantined": self.quarantined}
        counts |= {"left out": self.left_out} if self.left_out else {}
        return [*rows, *(("images", name, float(count)) for name, count in counts.items())]


def evaluate(config: EvaluateConfig, executor: Executor, progress: ProgressListener = no_progress) -> Evaluation:
    """Score a run and write its metric tables.

    Raises:
        RunError: the run does not exist or is not complete, or the dataset's annotations are of another kind.
        DatasetError: the dataset has no annotations.
        StorageError: a part that cannot be read.
    """
    record = runs.open_committed(Warehouse(config.warehouse), config.run)
    shards = outcomes(record)
    run_ids = np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *(rows["image_id"].to_numpy() for rows in shards)]))
    dataset = open_truth(record, config.truth, run_ids)
    stage = EvaluateStage(_tasks(record, dataset), config.rules)
    category_ids, names = (dataset.categories.sort_by("category_id")[key] for key in ("category_id", "name"))
    images = _Images.of(shards, dataset.images if config.unannotated else annotated(dataset.images))
    version = None if dataset.version == record.dataset_version else dataset.version
    truth = split_truth(images.shards, dataset.images, dataset.annotations, category_ids.to_numpy())
    parts = collect(record, stage, truth, executor, progress)
    scores = _scores(record, stage, parts, len(names))
    named = list(zip(category_ids.to_pylist(), names.to_pylist(), strict=True))
    metrics = _table(record, [row for score in scores.values() for row in score.rows(named)], tables.METRICS)
    curves = _table(record, [row for score in scores.values() for row in score.curve_rows(named)], tables.CURVES)
    place = record.dataset, record.name
    uris = (
        storage.join(record.warehouse.metrics(*place), "metrics.parquet"),
        storage.join(record.warehouse.curves(*place), "curves.parquet"),
    )
    evaluation = Evaluation(
        run=record.name,
        dataset=record.dataset,
        tasks=tuple(scores),
        metrics=metrics,
        curves=curves,
        metrics_uri=uris[0],
        curves_uri=uris[1],
        images=images.scored,
        quarantined=images.quarantined,
        notes=(
            *_notes(record, truth, parts, images),
            *_truth_notes(record, dataset, run_ids),
            *_coco_notes(record, scores, truth, parts),
        ),
        left_out=images.left_out,
        truth_version=version,
    )
    _publish(evaluation, record)
    return evaluation


@dataclass(frozen=True)
class _Images:
    """The images of a run that are scored."""

    shards: list[Ints]
    """image_ids of each shard."""
    quarantined: int
    left_out: int

    @classmethod
    def of(cls, shards: Sequence[pa.Table], wanted: pa.Table) -> _Images:
        """Those of a run that are among `wanted`, rows of `tables.IMAGES`; `shards` are the outcomes of its shards."""
        scored = [rows.filter(pc.is_in(rows["image_id"], wanted["image_id"].combine_chunks())) for rows in shards]
        quarantined = sum(pc.sum(pc.equal(rows["status"], "quarantined")).as_py() or 0 for rows in scored)
        left_out = sum(rows.num_rows for rows in shards) - sum(rows.num_rows for rows in scored)
        return cls([rows["image_id"].to_numpy() for rows in scored], quarantined, left_out)

    @property
    def scored(self) -> int:
        """How many are scored."""
        return sum(map(len, self.shards))


def _tasks(record: RunRecord, dataset: Dataset) -> tuple[str, ...]:
    """What the run could be scored by: its model's tasks as far as the truth has what they need."""
    truth = dataset.annotations
    where = f"dataset {dataset.name} (version {dataset.version})"
    if truth.num_rows == 0:
        raise DatasetError(
            f"{where} has no annotations, so that run {record.name!r} cannot be scored: "
            f"take it in again with 'shardlens ingest {dataset.name} ... --annotations URI' and predict again"
        )
    wanted = _expected(record) or OBJECTS
    tasks = scorable(wanted, truth)
    if not tasks:
        kinds = {kind["values"]: kind["counts"] for kind in truth["kind"].value_counts().to_pylist()}
        held = ", ".join(f"{count} of kind {kind}" for kind, count in sorted(kinds.items()))
        raise RunError(
            f"run {record.name!r} is scored by {' and '.join(wanted)}, but the annotations of {where} are {held}: "
            "predict with a model of the annotations' task, or take in annotations of the model's"
        )
    return tasks


def _expected(record: RunRecord) -> tuple[str, ...]:
    """What the run's model is scored by; of a semantic one also the objects that its connected parts were taken for."""
    tasks = SCORED_BY.get(str(record.settings.get("task")), ())
    objects = (record.settings.get("post_processing") or {}).get("components")
    return (*tasks, "segm") if objects else tasks


def _scores(record: RunRecord, stage: EvaluateStage, parts: Sequence[Partial], categories: int) -> dict[str, Score]:
    """Merge the partials, task by task; of an imported run, the tasks that its predictions are of."""
    predicted = {task: sum(int(part[task]["found"]) for part in parts) for task in stage.tasks}
    expected = _expected(record) or (stage.tasks if not any(predicted.values()) else ())
    scores: dict[str, Score] = {}
    for task in stage.tasks:
        if predicted[task] or task in expected:
            scores[task] = merge(task, parts, categories, stage.rules)
    return scores


def _notes(record: RunRecord, truth: ShardedTruth, parts: Sequence[Partial], images: _Images) -> tuple[str, ...]:
    unnamed = sum(int(part["predictions"]["unnamed"]) for part in parts)
    notes = {
        f"{images.left_out} images of the run were not scored, because their annotations are missing or unreadable: ingest "
        "them with annotations, or score them as images without objects (--unannotated)": images.left_out,
        f"{images.quarantined} of {images.scored} images were quarantined: they count as images without predictions, so "
        "that their objects are missed": images.quarantined,
        f"{unnamed} predictions name no category of dataset {record.dataset} and were not scored": unnamed,
        f"none of the {images.scored} images has an annotation: every figure is undefined": not truth.annotations.num_rows,
    }
    return tuple(note for note, holds in notes.items() if holds)


def _truth_notes(record: RunRecord, dataset: Dataset, run_ids: Ints) -> tuple[str, ...]:
    """Whether another version of the annotations was used, or could be."""
    own = dataset.version == record.dataset_version
    used = (
        ()
        if own
        else (f"scored by the annotations of version {dataset.version}, not of the run's {record.dataset_version}",)
    )
    newer = newer_truth(record, dataset, run_ids)
    changed = f"the annotations of these images have changed since (version {newer}): score by them with --truth latest"
    return (*used, *([changed] if newer else []))


def _coco_notes(
    record: RunRecord, scores: Mapping[str, Score], truth: ShardedTruth, parts: Sequence[Partial]
) -> tuple[str, ...]:
    """What sets AP apart from the figure that one may compare it with."""
    if not set(OBJECTS) & scores.keys():
        return ()
    scores_of = [float(part["predictions"].get("lowest", np.nan)) for part in parts]
    lowest = min((score for score in scores_of if not np.isnan(score)), default=np.nan)
    remedy = "predict with --score-threshold 0.001 under another --run name for the AP of all predictions"
    if record.settings.get("model") is None:
        remedy = "import results with lower scores for the AP of all predictions"
    ignored = pc.sum(pc.and_not(truth.annotations["ignore"], truth.annotations["iscrowd"])).as_py() or 0
    notes = {
        f"the run has no predictions with a score below {lowest:.3g}: AP counts those too, and may be lower by a point without "
        f"them (0.184 for 0.191 with yolo-fastest-1.1-xl on COCO, cut at 0.05); {remedy}": lowest >= LOWEST,
        f"{ignored} objects are marked ignore: they are neither found nor missed, while pycocotools alone overlooks the mark "
        "and counts them": ignored,
    }
    return tuple(note for note, holds in notes.items() if holds)


def _table(record: RunRecord, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    return tables.from_rows([{"run": record.name, "dataset": record.dataset, **row} for row in rows], schema)


def _publish(evaluation: Evaluation, record: RunRecord) -> None:
    """Publish the tables, the metrics last: where they are, their curves are. Footers say what was scored."""
    facts = {"fingerprint": record.fingerprint, "images": evaluation.images, "quarantined": evaluation.quarantined}
    facts |= {"truth": evaluation.truth_version} if evaluation.truth_version else {}
    facts |= {"left_out": evaluation.left_out} if evaluation.left_out else {}
    footer = {runs.FOOTER: json.dumps({**facts, "notes": evaluation.notes}, sort_keys=True)}
    storage.publish(evaluation.curves_uri, tables.to_bytes(evaluation.curves, footer))
    storage.publish(evaluation.metrics_uri, tables.to_bytes(evaluation.metrics, footer))
    earlier = storage.join(record.warehouse.metrics(record.dataset, record.name), "curves.parquet")
    if storage.exists(earlier):  # of versions up to 0.1; a folder of tables has one schema
        storage.delete(earlier)
