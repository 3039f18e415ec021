"""List what has been run in a warehouse: runs of predictions and of training, with their main figures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from shardlens.pipeline import storage
from shardlens.pipeline.errors import LocationNotFoundError, StorageError
from shardlens.pipeline.warehouse import ages, documents, runs, tables
from shardlens.pipeline.warehouse.documents import TrainDocument
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.removal import MARK
from shardlens.pipeline.warehouse.runs import RunRecord

MAIN = ("AP", "PQ", "IoU")
"""The metrics that a list shows, their means over the categories."""
SHARD = re.compile(r"(shard-\d+)(\.retry-\d+)?\.parquet$")
STEP_DONE = re.compile(r"(?P<run>[^/]+)/step-(?P<step>\d+)/checkpoint\.json")


@dataclass(frozen=True)
class Run:
    """A line of the list."""

    run: str
    kind: str
    """predict or train."""
    state: str
    """committed (complete), unfinished, or deleting (its deletion was interrupted, or is under way)."""
    time: datetime | None
    """When it was committed; of an unfinished one when it was begun or resumed."""
    dataset: str
    dataset_version: str
    model: str | None
    images: int | None = None
    predictions: int | None = None
    quarantined: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    """Means over the categories: task and metric, value."""
    uri: str = ""
    """Folder of its record; of a training run, what `predict --weights` takes."""
    bytes: int | None = None
    """Size of its parts; of a training run, of all its files."""
    done: int | None = None
    """Of an unfinished run: shards that are done; of an unfinished training run: the step of its last checkpoint."""
    shards: int | None = None
    """Shards of a run in all."""


def list_runs(warehouse: str) -> list[Run]:
    """List all runs, the latest last.

    Raises:
        StorageError: the place is not a warehouse, or cannot be read.
    """
    place = Warehouse(warehouse)
    place.check()
    listed = [*_predictions(place), *_training(place)]
    return sorted(listed, key=lambda run: (run.time.timestamp() if run.time else 0.0, run.run))


def _predictions(warehouse: Warehouse) -> Iterator[Run]:
    records = runs.every(warehouse)
    times = {entry.name: entry.modified for entry in storage.walk(warehouse.path("runs"))}
    for record, figures in zip(records, _figures(warehouse, records), strict=True):
        totals = record.commit.totals if record.commit else None
        done, size = _progress(record)
        state = "committed" if record.commit else "unfinished"
        yield Run(
            run=record.name,
            kind="predict",
            state="deleting" if f"{record.name}/{MARK}" in times else state,
            time=_time(times.get(f"{record.name}/{'commit' if record.commit else 'run'}.json")),
            dataset=record.dataset,
            dataset_version=record.dataset_version,
            model=record.settings.get("model"),
            images=totals.images if totals else None,
            predictions=totals.predictions if totals else None,
            quarantined=totals.quarantined if totals else None,
            figures=figures,
            uri=record.folder,
            bytes=size,
            done=done,
            shards=record.shards,
        )


def _progress(record: RunRecord) -> tuple[int | None, int]:
    """Shards of an unfinished run that are done, and the size of a run's parts, those of the commit if it has one."""
    if record.commit:
        return None, sum(parts.predictions.bytes + parts.outcomes.bytes for parts in record.commit.parts)
    folders = (
        folder(record.dataset, record.name) for folder in (record.warehouse.outcomes, record.warehouse.predictions)
    )
    outcomes, predictions = map(storage.walk, folders)
    shards = {match[1] for match in (SHARD.match(entry.name) for entry in outcomes) if match}
    return len(shards), sum(entry.size for entry in (*outcomes, *predictions))


def _training(warehouse: Warehouse) -> Iterator[Run]:
    root = warehouse.path("checkpoints")
    entries = storage.walk(root)
    times = {entry.name: entry.modified for entry in entries}
    sizes: Counter[str] = Counter()
    for entry in entries:
        sizes[entry.name.partition("/")[0]] += entry.size
    steps = _last_steps(times)
    names = sorted({path.partition("/")[0] for path in times if path.endswith(("/run.json", "/train.json"))})
    for name in names:
        done = f"{name}/train.json" in times
        path = f"{name}/{'train' if done else 'run'}.json"
        document = documents.read(TrainDocument, storage.join(root, path))
        yield Run(
            run=name,
            kind="train",
            state="deleting" if f"{name}/{MARK}" in times else "committed" if done else "unfinished",
            time=_time(times[path]),
            dataset=document.dataset.partition("@")[0],
            dataset_version=document.dataset_version or document.dataset.partition("@")[2],
            model=document.settings.get("model"),
            images=document.report.get("images"),
            figures=_best(document),
            uri=storage.join(root, name),
            bytes=sizes[name],
            done=None if done else steps.get(name, 0),
        )


def _last_steps(paths: Iterable[str]) -> dict[str, int]:
    """The step of each training run's last complete checkpoint."""
    steps: dict[str, int] = {}
    for match in filter(None, map(STEP_DONE.fullmatch, paths)):
        steps[match["run"]] = max(int(match["step"]), steps.get(match["run"], 0))
    return steps


def _best(document: TrainDocument) -> dict[str, float]:
    """The main figures of the best validation."""
    validations = [
        {name: float(figures[name]) for name in MAIN if isinstance(figures.get(name), int | float)}
        for figures in document.validations
    ]
    return max(validations, key=lambda figures: max(figures.values(), default=-1.0), default={})


def _figures(warehouse: Warehouse, records: Sequence[RunRecord]) -> list[dict[str, float]]:
    """Of each run; none of runs that have not been scored."""
    uris = [storage.join(warehouse.metrics(r.dataset, r.name), "metrics.parquet") for r in records]
    contents = storage.read_many([(uri, None, None) for uri in uris])
    return [_main(uri, data) for uri, data in zip(uris, contents, strict=True)]


def _main(uri: str, data: bytes | StorageError) -> dict[str, float]:
    if isinstance(data, LocationNotFoundError):
        return {}
    if isinstance(data, StorageError):
        raise data
    names = ("task", "metric", "category_id", "value")
    columns = [tables.from_bytes(tables.checked(uri, data), names)[name].to_pylist() for name in names]
    means = {
        "AP" if (task, metric) == ("bbox", "AP") else f"{task} {metric}": value
        for task, metric, category, value in zip(*columns, strict=True)
        if metric in MAIN and category is None and value is not None
    }
    return dict(sorted(means.items()))


def _time(modified: float | None) -> datetime | None:
    return datetime.fromtimestamp(modified, UTC) if modified else None


def _state(run: Run) -> str:
    """How far a run is."""
    if run.state != "unfinished":
        return "done" if run.state == "committed" else run.state
    return f"step {run.done}" if run.shards is None else f"{run.done} of {run.shards} shards"


def for_people(run: Run) -> dict[str, Any]:
    """A run as a line of a table."""
    return {
        "run": run.run,
        "time": run.time.astimezone().strftime("%m-%d %H:%M") if run.time else None,
        "state": _state(run),
        "dataset": run.dataset,
        "model": run.model,
        "images": run.images,
        "figures": ", ".join(f"{name} {value:.4f}" for name, value in run.figures.items()),
        "size": ages.size(run.bytes or 0),
        "kind": run.kind,
        "quarantined": run.quarantined,
        "predictions": run.predictions,
        "version": run.dataset_version,
    }
