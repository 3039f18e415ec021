"""Import COCO results made elsewhere as a committed run, with the same tables as a prediction.

Format: https://cocodataset.org/#format-results
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.coco import stuff_categories
from shardlens.pipeline.annotations.coco_results import Scope, read
from shardlens.pipeline.annotations.frame import as_annotated, from_upright, is_turned
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.executors.base import Progress, ProgressListener, no_progress
from shardlens.pipeline.images.shards import Plan, plan
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse, WarehouseRoot, check_name
from shardlens.pipeline.warehouse.runs import RunRecord, ShardParts

Task = Literal["auto", "detection", "instance", "semantic", "panoptic"]


@dataclass(frozen=True)
class ImportConfig:
    """What to import, and as which run."""

    dataset: str
    """Name of an ingested dataset."""
    _: KW_ONLY
    predictions: str
    """URI of a COCO results file: a list of results, or an object with images, categories and scored annotations."""
    run: str
    """Name of the run that they become."""
    task: Task = "auto"
    """What the results are. auto: masks are regions where the dataset annotates their category as regions alone."""
    split: str | None = None
    """The split that was predicted; default: all images."""
    shard_size: int = 512
    """Images in a part."""
    warehouse: WarehouseRoot = "./warehouse"
    """Root of the tables."""

    def __post_init__(self) -> None:
        check_name(self.run, "run")
        if self.task not in get_args(Task):
            raise ConfigError(f"task {self.task!r}: expected one of {', '.join(get_args(Task))}")


@dataclass(frozen=True)
class ImportReport:
    """What an import wrote."""

    run: str
    dataset: str
    dataset_version: str
    task: str
    images: int
    """Images of the dataset or split."""
    predictions: int
    empty_images: int
    """Images for which the file has no result."""
    uri: str
    """Folder of the prediction parts."""
    notes: tuple[str, ...] = ()
    """What a reader of the predictions should know, a sentence each."""


def import_coco(config: ImportConfig, progress: ProgressListener = no_progress) -> ImportReport:
    """Check a COCO results file and commit it as a run; the same file again changes nothing.

    Raises:
        DatasetError: the file is not one, or an entry is wrong (index and key are named); nothing was written then.
        RunError: the run's name is taken by something else.
    """
    warehouse = Warehouse(config.warehouse)
    dataset = Dataset.open(warehouse, config.dataset)
    shards = plan(dataset.images, config.shard_size, config.split)
    where = storage.normalize(config.predictions)
    data = storage.read(where)
    stuff = stuff_categories(dataset.annotations) if config.task in {"auto", "panoptic"} else frozenset()
    scope = Scope(
        where,
        as_annotated(shards.images),
        dataset.categories,
        config.split,
        dataset.document,
        config.task == "semantic",
        stuff,
    )
    rows = _ranked(_in_stored_frame(read(data, scope), shards.images))
    task = config.task if config.task != "auto" else _task(rows)
    settings = {
        "model": None,
        "task": task,
        "labels": dataset.categories["name"].to_pylist(),
        "source": {"format": "coco", "sha256": hashlib.sha256(data).hexdigest()},
        "split": config.split,
        "shard_size": config.shard_size,
    }
    origin = {"import": asdict(config)}
    record = runs.begin(RunRecord(warehouse, config.run, dataset.name, dataset.version, settings, len(shards), origin))
    dataset.check_stays()
    if record.commit is None:
        runs.commit(record, _published(record, shards, rows, progress), {})
    return _report(record, task, shards.images, rows, scope)


def _in_stored_frame(rows: pa.Table, images: pa.Table) -> pa.Table:
    """Results are in the frame of the dataset's annotations."""
    return from_upright(rows, images) if is_turned(images) else rows


def _task(rows: pa.Table) -> str:
    kinds = set(rows["kind"].unique().to_pylist())
    if {"region", "instance"} <= kinds:
        return "panoptic"
    return "semantic" if "region" in kinds else "instance" if "instance" in kinds else "detection"


def _ranked(rows: pa.Table) -> pa.Table:
    """Sort by image, then by score, best first; what stands first in the file wins a tie."""
    image_ids, scores = rows["image_id"].to_numpy(), rows["score"].to_numpy()
    order = np.lexsort((-scores, image_ids))
    ordered = image_ids[order]
    first = np.searchsorted(ordered, ordered)
    ranks = pa.array((np.arange(len(order)) - first).astype(np.int32))
    index = rows.schema.get_field_index("rank")
    return rows.take(order).set_column(index, tables.PREDICTIONS.field("rank"), ranks).combine_chunks()


def _published(record: RunRecord, shards: Plan, rows: pa.Table, progress: ProgressListener) -> Sequence[ShardParts]:
    image_ids = rows["image_id"].to_numpy()
    parts = []
    for shard in shards:
        wanted = np.array([image.image_id for image in shard.images], dtype=np.int64)
        start, end = np.searchsorted(image_ids, wanted[0]), np.searchsorted(image_ids, wanted[-1], side="right")
        counts = np.searchsorted(image_ids, wanted, side="right") - np.searchsorted(image_ids, wanted)
        outcomes = [
            {
                "image_id": image.image_id,
                "status": "ok",
                "predictions": count,
                "file_name": image.file_name,
                "etag": image.etag,
            }
            for image, count in zip(shard.images, counts.tolist(), strict=True)
        ]
        chosen = rows.slice(start, end - start)
        parts.append(runs.publish(record, shard.index, chosen, tables.from_rows(outcomes, tables.OUTCOMES)))
        progress(Progress("import", shard.index * shards.shard_size + len(wanted), shards.images.num_rows))
    return parts


def _report(record: RunRecord, task: str, images: pa.Table, rows: pa.Table, scope: Scope) -> ImportReport:
    return ImportReport(
        run=record.name,
        dataset=record.dataset,
        dataset_version=record.dataset_version,
        task=task,
        images=images.num_rows,
        predictions=rows.num_rows,
        empty_images=images.num_rows - pc.count_distinct(rows["image_id"]).as_py(),
        uri=record.warehouse.predictions(record.dataset, record.name),
        notes=tuple(_notes(scope)),
    )


def _notes(scope: Scope) -> Iterator[str]:
    unknown = scope.unknown_categories
    if unknown:
        names = ", ".join(f"{name} ({count})" for name, count in unknown.most_common(8))
        more = ", ..." if len(unknown) > 8 else ""
        yield (
            f"{unknown.total()} predictions are of {len(unknown)} categories that the dataset does not have: {names}{more}; "
            "they are kept without a category id and not scored"
        )
    if scope.bad_polygons:
        yield f"{scope.bad_polygons} polygons cannot be drawn and were left out of their masks"
