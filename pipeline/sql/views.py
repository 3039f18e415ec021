"""What SQL sees of a warehouse: which files stand behind each view, at the moment when they are listed.

Every file has a made-up path, `<view>/dataset=<name>/run=<run>/<part>`, whose folders are the partition columns. What
is not listed does not exist: neither runs that are not committed, nor parts that a retry replaced.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pyarrow as pa
import pyarrow.json as pj

from shardlens.pipeline import storage
from shardlens.pipeline.sql.committed_files import File
from shardlens.pipeline.warehouse import documents, runs, tables
from shardlens.pipeline.warehouse.documents import LatestDocument, TrainDocument
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.runs import RunRecord
from shardlens.pipeline.warehouse.tables import TABLES

LISTED_AT_ONCE = 16
EARLY = ".early"
"""After the name of a view: the files of it that earlier versions wrote."""
NULL = "__HIVE_DEFAULT_PARTITION__"


def snapshot(warehouse: Warehouse) -> dict[str, File]:
    """List the files of all views as they are now: datasets at their latest version, and the committed runs.

    Raises:
        StorageError: the place is not a warehouse, or cannot be read.
    """
    warehouse.check()
    committed = runs.committed(warehouse)
    files = {}
    for table in TABLES.values():
        files[_path(table.name, {}, "columns.parquet")] = File(data=tables.to_bytes(tables.empty(table.schema)))
    for record in committed:
        files |= _parts(record)
    files |= dict(_of_runs(warehouse, committed))
    files |= dict(_training(warehouse))
    files |= dict(_datasets(warehouse))
    return {**files, "runs/runs.parquet": File(data=tables.to_bytes(runs_table(committed)))}


def _path(view: str, values: Mapping[str, str], name: str, early: bool = False) -> str:
    """The made-up path of a file; `columns.parquet` gives a view columns when nothing else is there.

    Args:
        values: of the partition columns, without those that are null.
        early: whether it lacks the columns that earlier versions did not write.
    """
    folders = [f"{column}={values.get(column) or NULL}" for column in TABLES[view].partitions]
    return "/".join([view + (EARLY if early else ""), *folders, name])


def _of(record: RunRecord) -> dict[str, str]:
    return {"dataset": record.dataset, "run": record.name, "dataset_version": record.dataset_version}


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
    return _from_json("\n".join(json.dumps(row) for row in rows).encode()) if rows else tables.empty(tables.RUNS)


def _from_json(lines: bytes) -> pa.Table:
    """The table of a row in each line; made from Python's values, pyarrow would import pandas first, for every query."""
    at_once = pj.ReadOptions(block_size=len(lines))
    found = pj.read_json(pa.BufferReader(lines), at_once, pj.ParseOptions(explicit_schema=tables.RUNS))
    return pa.Table.from_arrays(found.columns, schema=tables.RUNS)


def _parts(record: RunRecord) -> dict[str, File]:
    """The parts that the commit names, whatever else is in their folder."""
    files = {}
    for parts, predictions, outcomes in zip(
        record.parts, record.prediction_parts(), record.outcome_parts(), strict=True
    ):
        for view, uri, part in (
            ("predictions", predictions, parts.predictions),
            ("outcomes", outcomes, parts.outcomes),
        ):
            path = _path(view, _of(record), part.name, early=not part.complete)
            files[path] = File(uri, part.bytes, blocks=part.blocks, sha256=part.sha256)
    return files


def _of_runs(warehouse: Warehouse, committed: list[RunRecord]) -> Iterator[tuple[str, File]]:
    """The tables of committed runs that are one file each, such as metrics; writing such a file again replaces it."""
    wanted = [
        (
            table.name,
            record,
            [_at(warehouse, place, record) for place in places],
        )
        for table in TABLES.values()
        if (places := [place for place in table.places if _owner(place) == "run" and not place.endswith("/")])
        for record in committed
    ]
    folders = sorted({uri.rpartition("/")[0] for _, _, uris in wanted for uri in uris})
    with ThreadPoolExecutor(LISTED_AT_ONCE) as threads:
        there = dict(zip(folders, threads.map(storage.children, folders), strict=True))
    for view, record, uris in wanted:
        for folder, _, name in (uri.rpartition("/") for uri in uris):
            if name in there[folder]:
                yield _path(view, _of(record), name), File(storage.join(folder, name))
                break


def _at(warehouse: Warehouse, place: str, record: RunRecord) -> str:
    return warehouse.path(place.format(dataset=record.dataset, run=record.name))


def _owner(place: str) -> str:
    """What a file at a table's place belongs to: a dataset's version, a training run, or a run of predictions."""
    return {"datasets": "dataset", "checkpoints": "training"}.get(place.partition("/")[0], "run")


def _places(owner: str) -> list[tuple[str, str]]:
    """Names of the tables of such an owner, and their places."""
    return [(table.name, place) for table in TABLES.values() for place in table.places if _owner(place) == owner]


def _training(warehouse: Warehouse) -> Iterator[tuple[str, File]]:
    """The steps, and the metrics of the validations, of the training runs that are complete."""
    there = {f"checkpoints/{entry.name}": entry for entry in storage.walk(warehouse.path("checkpoints"))}
    complete = [path.split("/")[1] for path in there if path.count("/") == 2 and path.endswith("/train.json")]
    with ThreadPoolExecutor(LISTED_AT_ONCE) as threads:
        uris = [there[f"checkpoints/{run}/train.json"].uri for run in complete]
        trained = threads.map(lambda uri: documents.read(TrainDocument, uri), uris)
        for run, document in zip(complete, trained, strict=True):
            for view, place in _places("training"):
                entry = there.get(place.format(run=run))
                values = {"dataset": document.dataset, "run": run, "dataset_version": document.dataset_version}
                if entry is not None:
                    yield _path(view, values, "checkpoint.parquet"), File(entry.uri)


def _datasets(warehouse: Warehouse) -> Iterator[tuple[str, File]]:
    """The tables of every dataset's latest version."""
    there = {f"datasets/{entry.name}": entry for entry in storage.walk(warehouse.path("datasets"))}
    for name in [path.split("/")[1] for path in there if path.count("/") == 2 and path.endswith("/latest.json")]:
        target = documents.read(LatestDocument, there[f"datasets/{name}/latest.json"].uri)
        version = target.version
        values = {"dataset": name, "version": version, "dataset_version": version}
        for view, place in _places("dataset"):
            entry = there.get(place.format(dataset=name, version=version))
            if entry is not None:
                early = bool(TABLES[view].later) and target.removed == ""
                yield _path(view, values, f"{view}.parquet", early), File(entry.uri, entry.size)
