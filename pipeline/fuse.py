"""Several runs of one dataset become one by weighted box fusion, shard by shard; a committed run like any other."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cyclopts import Parameter

from shardlens.models.boxes.fusion import Found, weighted_box_fusion
from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, RunError
from shardlens.pipeline.executors.base import Progress, ProgressListener, no_progress
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse, WarehouseRoot, check_name
from shardlens.pipeline.warehouse.runs import RunRecord, ShardParts

COLUMNS = ("image_id", "category_id", "category", "score", "bbox")
_SIDES = ("x", "y", "width", "height")


@dataclass(frozen=True)
class FuseConfig:
    """Which runs to fuse, and how."""

    runs: Annotated[tuple[str, ...], Parameter(negative="")]
    """Names of two or more committed runs of one version of one dataset."""
    _: KW_ONLY
    run: str
    """Name of the run that they become."""
    iou: float = 0.55
    """Boxes of one category that overlap more than this are one object."""
    weights: Annotated[tuple[float, ...], Parameter(negative="", consume_multiple=True)] = ()
    """How much each run's scores count, in the order of the runs; default: all alike."""
    shard_size: int = 512
    """Images in a part."""
    warehouse: WarehouseRoot = "./warehouse"
    """Root of the tables."""

    def __post_init__(self) -> None:
        check_name(self.run, "run")
        if len(set(self.runs)) < max(2, len(self.runs)):
            raise ConfigError(f"runs to fuse: {', '.join(self.runs) or 'none'}; expected two or more, each once")
        if not 0 < self.iou < 1:
            raise ConfigError(f"iou is {self.iou}: expected a number between 0 and 1")
        if self.weights and len(self.weights) != len(self.runs):
            raise ConfigError(f"{len(self.weights)} weights for {len(self.runs)} runs: expected one each")
        if not all(0 < weight < math.inf for weight in self.weights):
            raise ConfigError(f"weights are {', '.join(map(str, self.weights))}: each must be above 0")
        if self.shard_size < 1:
            raise ConfigError(f"shard_size is {self.shard_size}: expected 1 or more")


@dataclass(frozen=True)
class FuseReport:
    """What came of a fusion."""

    run: str
    dataset: str
    dataset_version: str
    images: int
    predictions: int
    """Boxes that are left."""
    fused_from: dict[str, int]
    """Boxes of each run."""
    uri: str
    """Folder of the prediction parts."""


def fuse(config: FuseConfig, progress: ProgressListener = no_progress) -> FuseReport:
    """Fuse the boxes of runs, image by image, and commit what comes of it; masks are left behind.

    Raises:
        RunError: a run does not exist or is not complete, holds regions, or is of another dataset, version or split than
            the first; or the new run's name is taken by something else.
    """
    warehouse = Warehouse(config.warehouse)
    sources = [runs.open_committed(warehouse, name) for name in config.runs]
    for source in sources:
        _check_alike(sources[0], source)
    images = sum(part.outcomes.rows for part in sources[0].parts)
    count = -(-images // config.shard_size)
    origin = {"fuse": asdict(config)}
    first = sources[0]
    record = runs.begin(
        RunRecord(
            warehouse, config.run, first.dataset, first.dataset_version, _settings(config, sources), count, origin
        )
    )
    if record.commit is None:
        record = runs.commit(record, _publish_all(record, sources, config, images, progress), {})
    return FuseReport(
        run=record.name,
        dataset=record.dataset,
        dataset_version=record.dataset_version,
        images=images,
        predictions=sum(part.predictions.rows for part in record.parts),
        fused_from={source.name: sum(part.predictions.rows for part in source.parts) for source in sources},
        uri=warehouse.predictions(record.dataset, record.name),
    )


def _check_alike(first: RunRecord, other: RunRecord) -> None:
    task = str(other.settings.get("task"))
    if task in MODEL_TASKS and MODEL_TASKS[task].label_map:
        raise RunError(f"run {other.name!r} holds the regions of a {task} model: only boxes can be fused")
    there, here = ((r.dataset, r.dataset_version, r.settings.get("split")) for r in (first, other))
    if there != here:
        sources = ["{}@{}, split {}".format(name, version, split or "all") for name, version, split in (there, here)]
        raise RunError(
            f"run {first.name!r} is of {sources[0]}, run {other.name!r} of {sources[1]}: predict the same images with both models"
        )


def _settings(config: FuseConfig, sources: Sequence[RunRecord]) -> dict[str, Any]:
    """All that can change a row: the sources' committed bytes among it."""
    labels = list(dict.fromkeys(label for source in sources for label in source.labels))
    return {
        "model": None,
        "task": "detection",
        "labels": labels,
        "source": {"format": "fusion", "runs": {source.name: _digest(source) for source in sources}},
        "iou": config.iou,
        "weights": list(config.weights) or [1.0] * len(sources),
        "order": list(config.runs),
        "split": sources[0].settings.get("split"),
        "shard_size": config.shard_size,
    }


def _digest(source: RunRecord) -> str:
    parts = [part.predictions.sha256 + part.outcomes.sha256 for part in source.parts]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _publish_all(
    record: RunRecord, sources: Sequence[RunRecord], config: FuseConfig, images: int, progress: ProgressListener
) -> list[ShardParts]:
    weights = config.weights or (1.0,) * len(sources)
    outcomes = [_Rows(source.outcome_parts(), tables.OUTCOMES) for source in sources]
    predictions = [_Rows(source.prediction_parts(), tables.PREDICTIONS, COLUMNS) for source in sources]
    parts, done = [], 0
    for shard in range(record.shards):
        outcome_tables = [rows.take(config.shard_size) for rows in outcomes]
        ids = outcome_tables[0]["image_id"].to_pylist()
        for source, other in zip(sources, outcome_tables, strict=True):
            if other["image_id"].to_pylist() != ids:
                raise RunError(
                    f"runs {sources[0].name!r} and {source.name!r} are of different images: predict them again"
                )
        found = [rows.until(ids[-1]) for rows in predictions]
        names = dict(zip(ids, outcome_tables[0]["file_name"].to_pylist(), strict=True))
        rows = _fused(names, found, weights, config.iou)
        parts.append(runs.publish(record, shard, rows, _outcomes(outcome_tables, rows)))
        done += len(ids)
        progress(Progress("fuse", done, images))
    return parts


class _Rows:
    """Rows of a run's parts, read one part at a time."""

    def __init__(self, uris: Sequence[str], schema: pa.Schema, columns: Sequence[str] | None = None) -> None:
        self._uris = iter(uris)
        self._columns = columns
        names = columns or schema.names
        self._held: pa.Table = pa.schema([schema.field(name) for name in names]).empty_table()

    def _read(self) -> bool:
        uri = next(self._uris, None)
        if uri is None:
            return False
        fresh = tables.from_bytes(storage.read(uri), self._columns).replace_schema_metadata(None)
        if self._columns is None:
            fresh = tables.completed(fresh, self._held.schema)
        self._held = pa.concat_tables([self._held, fresh]).combine_chunks()
        return True

    def take(self, rows: int) -> pa.Table:
        """The next rows, fewer only at the end."""
        while self._held.num_rows < rows and self._read():
            pass
        return self._split(rows)

    def until(self, image_id: int) -> pa.Table:
        """The next rows up to those of `image_id`."""
        while self._held.num_rows == 0 or self._held["image_id"][-1].as_py() <= image_id:
            if not self._read():
                break
        return self._split(int(np.searchsorted(self._held["image_id"].to_numpy(), image_id, side="right")))

    def _split(self, rows: int) -> pa.Table:
        taken, self._held = self._held.slice(0, rows), self._held.slice(rows)
        return taken


def _fused(
    names: Mapping[int, str | None], found: Sequence[pa.Table], weights: Sequence[float], iou: float
) -> pa.Table:
    """Rows of `tables.PREDICTIONS`, by image, the best first; `names` are the file names of the images."""
    numbers: dict[tuple[int | None, str], int] = {}
    columns = [_columns(table, numbers) for table in found]
    categories = list(numbers)
    rows: list[Mapping[str, Any]] = []
    for image_id, name in names.items():
        each = [_of(image_id, *column) for column in columns]
        fused = _image_rows(image_id, weighted_box_fusion(each, weights, iou), categories)
        rows += ({**row, "file_name": name} for row in fused)
    return tables.from_rows(rows, tables.PREDICTIONS)


def _columns(table: pa.Table, numbers: dict[tuple[int | None, str], int]) -> tuple[Any, Found]:
    """Image ids (N,), and all boxes of a table, their categories numbered by `numbers`, which grows."""
    keys = zip(table["category_id"].to_pylist(), table["category"].to_pylist(), strict=True)
    labels = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    x, y, width, height = (pc.struct_field(table["bbox"], side).to_numpy() for side in _SIDES)
    boxes = np.stack([x, y, x + width, y + height], axis=1)
    return table["image_id"].to_numpy(), Found(boxes, table["score"].to_numpy(), labels)


def _of(image_id: int, ids: Any, every: Found) -> Found:
    first, last = (int(np.searchsorted(ids, image_id, side)) for side in ("left", "right"))
    return Found(every.boxes[first:last], every.scores[first:last], every.labels[first:last])


def _image_rows(image_id: int, fused: Found, categories: Sequence[tuple[int | None, str]]) -> Iterator[dict[str, Any]]:
    for rank, (box, score, label) in enumerate(
        zip(fused.boxes.tolist(), fused.scores.tolist(), fused.labels, strict=True)
    ):
        width, height = box[2] - box[0], box[3] - box[1]
        yield {
            "image_id": image_id,
            "rank": rank,
            "category_id": categories[label][0],
            "category": categories[label][1],
            "kind": "box",
            "score": score,
            "bbox": dict(zip(_SIDES, (box[0], box[1], width, height), strict=True)),
            "area": width * height,
        }


def _outcomes(outcome_tables: Sequence[pa.Table], rows: pa.Table) -> pa.Table:
    """An image is ok if any run could predict it; else it stays as the first run has it."""
    counts = dict(zip(*np.unique(rows["image_id"].to_numpy(), return_counts=True), strict=True))
    made = []
    for each in zip(*(table.to_pylist() for table in outcome_tables), strict=True):
        best = next((row for row in each if row["status"] == "ok"), each[0])
        made.append({**best, "predictions": int(counts.get(best["image_id"], 0))})
    return tables.from_rows(made, tables.OUTCOMES)
