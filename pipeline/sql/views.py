"""What SQL sees of a warehouse: which files stand behind each view, at the moment when they are listed.

Every file has a made-up path, `<view>/dataset=<name>/run=<run>/<part>`, whose folders are the partition columns. What
is not listed does not exist: neither runs that are not committed, nor parts that a retry replaced.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.json as pj

from shardlens.pipeline import storage
from shardlens.pipeline.sql.committed_files import File
from shardlens.pipeline.warehouse import documents, runs, tables
from shardlens.pipeline.warehouse.documents import LatestDocument, TrainDocument
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.runs import RunRecord

LISTED_AT_ONCE = 16
NULL = "__HIVE_DEFAULT_PARTITION__"

RUNS = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("dataset_version", pa.string(), nullable=False),
        ("model", pa.string()),
        ("task", pa.string()),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("predictions", pa.int64(), nullable=False),
        pa.field("quarantined", pa.int64(), nullable=False),
        pa.field("parts", pa.int64(), nullable=False),
        ("seconds", pa.float64()),  # of the attempt that committed it
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),  # JSON
    ]
)


@dataclass(frozen=True)
class View:
    """A view's columns: those of its files, and those that stand in their paths."""

    schema: pa.Schema
    partitions: tuple[str, ...] = ()
    grown: bool = False
    """Whether files of earlier versions lack columns, which are null then; every file's footer is read for that."""

    @property
    def columns(self) -> list[str]:
        """Partitions first."""
        return [*self.partitions, *(name for name in self.schema.names if name not in self.partitions)]

    def empty(self) -> bytes:
        """A file without rows, from which the view takes its columns when nothing else is there."""
        return tables.to_bytes(tables.empty(self.schema))


VIEWS = {
    "images": View(tables.IMAGES, ("dataset", "version")),
    "annotations": View(tables.ANNOTATIONS, ("dataset", "version")),
    "categories": View(tables.CATEGORIES, ("dataset", "version")),
    "predictions": View(tables.PREDICTIONS, ("dataset", "run")),
    "outcomes": View(tables.OUTCOMES, ("dataset", "run")),
    "metrics": View(tables.METRICS, ("dataset", "run"), grown=True),
    "curves": View(tables.CURVES, ("dataset", "run")),
    "training": View(tables.TRAINING, ("dataset", "run")),
    "runs": View(RUNS),
}


def snapshot(warehouse: Warehouse) -> dict[str, File]:
    """List the files of all views as they are now: datasets at their latest version, and the committed runs.

    Raises:
        StorageError: the place is not a warehouse, or cannot be read.
    """
    warehouse.check()
    committed = runs.committed(warehouse)
    files = {}
    for name, view in VIEWS.items():
        folders = [f"{column}={NULL}" for column in view.partitions]
        files["/".join([name, *folders, "columns.parquet"])] = File(data=view.empty())
    for record in committed:
        files |= _parts(record)
    files |= dict(_metrics(warehouse, committed))
    files |= dict(_training(warehouse))
    files |= dict(_datasets(warehouse))
    return {**files, "runs/runs.parquet": File(data=tables.to_bytes(runs_table(committed)))}


def runs_table(committed: list[RunRecord]) -> pa.Table:
    """One row a committed run."""
    rows = []
    for record in committed:
        if record.commit is None:
            continue
        settings = record.settings
        rows.append(
            {
                "run": record.name,
                "dataset": record.dataset,
                "dataset_version": record.dataset_version,
                "model": settings.get("model"),
                "task": settings.get("task"),
                **asdict(record.commit.totals),
                "parts": len(record.commit.parts),
                "seconds": record.commit.report.get("seconds"),
                "fingerprint": record.fingerprint,
                "settings": json.dumps(settings, sort_keys=True),
            }
        )
    return _from_json("\n".join(json.dumps(row) for row in rows).encode()) if rows else tables.empty(RUNS)


def _from_json(lines: bytes) -> pa.Table:
    """The table of a row in each line; made from Python's values, pyarrow would import pandas first, for every query."""
    at_once = pj.ReadOptions(block_size=len(lines))
    found = pj.read_json(pa.BufferReader(lines), at_once, pj.ParseOptions(explicit_schema=RUNS))
    return pa.Table.from_arrays(found.columns, schema=RUNS)


def _parts(record: RunRecord) -> dict[str, File]:
    """The parts that the commit names, whatever else lies beside them."""
    place = f"dataset={record.dataset}/run={record.name}"
    files = {}
    for parts, predictions, outcomes in zip(
        record.parts, record.prediction_parts(), record.outcome_parts(), strict=True
    ):
        for view, uri, part in (
            ("predictions", predictions, parts.predictions),
            ("outcomes", outcomes, parts.outcomes),
        ):
            files[f"{view}/{place}/{part.name}"] = File(uri, part.bytes, blocks=part.blocks, sha256=part.sha256)
    return files


def _metrics(warehouse: Warehouse, committed: list[RunRecord]) -> Iterator[tuple[str, File]]:
    """The metric tables of committed runs; evaluating again replaces them."""
    folders = [warehouse.metrics(record.dataset, record.name) for record in committed]
    with ThreadPoolExecutor(LISTED_AT_ONCE) as threads:
        for record, folder, there in zip(committed, folders, threads.map(storage.children, folders), strict=True):
            for view in ("metrics", "curves"):
                name = f"{view}.parquet"
                if name in there:
                    yield f"{view}/dataset={record.dataset}/run={record.name}/{name}", File(storage.join(folder, name))


def _training(warehouse: Warehouse) -> Iterator[tuple[str, File]]:
    """The steps, and the metrics of the validations, of the training runs that are whole."""
    there = {entry.name: entry for entry in storage.walk(warehouse.path("checkpoints"))}
    complete = [run for run, _, file in (path.partition("/") for path in there) if file == "train.json"]
    with ThreadPoolExecutor(LISTED_AT_ONCE) as threads:
        trained = threads.map(lambda run: documents.read(TrainDocument, there[f"{run}/train.json"].uri), complete)
        for run, document in zip(complete, trained, strict=True):
            for view, name in (("training", "training.parquet"), ("metrics", "metrics.parquet")):
                if f"{run}/{name}" in there:
                    place = f"{view}/dataset={document.dataset}/run={run}/checkpoint.parquet"
                    yield place, File(there[f"{run}/{name}"].uri)


def _datasets(warehouse: Warehouse) -> Iterator[tuple[str, File]]:
    """The tables of every dataset's latest version."""
    there = {entry.name: entry for entry in storage.walk(warehouse.path("datasets"))}
    for name in [name for name, _, file in (path.partition("/") for path in there) if file == "latest.json"]:
        version = documents.read(LatestDocument, there[f"{name}/latest.json"].uri).version
        for view in ("images", "annotations", "categories"):
            entry = there.get(f"{name}/{version}/{view}.parquet")
            if entry is not None:
                yield f"{view}/dataset={name}/version={version}/{view}.parquet", File(entry.uri, entry.size)
