"""The record of a run: begun exclusively, resumed by the same settings, found and listed."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shardlens.pipeline import storage
from shardlens.pipeline.errors import LocationNotFoundError, RunError, StorageError
from shardlens.pipeline.warehouse import documents
from shardlens.pipeline.warehouse.documents import Commit, RunDocument, ShardParts
from shardlens.pipeline.warehouse.layout import NAME, RESTORE, Warehouse, read_json
from shardlens.pipeline.warehouse.removal import check_stays


@dataclass(frozen=True)
class RunRecord:
    """A run: what it was asked to do, and, once committed, what it is made of."""

    warehouse: Warehouse
    name: str
    dataset: str
    dataset_version: str
    settings: Mapping[str, Any]
    """Everything that can change a row; the fingerprint is its digest."""
    shards: int
    origin: Mapping[str, Any]
    """Where things came from (URIs, versions, the command's words); not part of the fingerprint."""
    commit: Commit | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of dataset, its version, settings and number of shards."""
        what = {"dataset": self.dataset, "dataset_version": self.dataset_version}
        identity = {**what, "settings": self.settings, "shards": self.shards}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def voucher(self) -> str:
        """SHA-256 of what its rows depend on besides the images, wherever those lie: parts carry it, equal ones alike."""
        identity = {"settings": self.settings, "shards": self.shards}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def folder(self) -> str:
        """Where run.json and commit.json lie."""
        return self.warehouse.run(self.name)

    @property
    def labels(self) -> list[str]:
        """Names of the model's labels."""
        return list(self.settings.get("labels", []))

    @property
    def parts(self) -> list[ShardParts]:
        """The committed parts, by shard; none before the commit."""
        return list(self.commit.parts) if self.commit else []

    def prediction_parts(self) -> list[str]:
        """URIs of the committed predictions, by shard."""
        folder = self.warehouse.predictions(self.dataset, self.name)
        return [storage.join(folder, parts.predictions.name) for parts in self.parts]

    def outcome_parts(self) -> list[str]:
        """URIs of the committed outcomes, by shard."""
        folder = self.warehouse.outcomes(self.dataset, self.name)
        return [storage.join(folder, parts.outcomes.name) for parts in self.parts]


def begin(record: RunRecord) -> RunRecord:
    """Create the run, or resume the one of the same name and fingerprint.

    Returns:
        The stored record, with its commit if it has been committed.

    Raises:
        RunError: the name is taken by a run with other settings; the message shows the difference. Or the run is being deleted.
    """
    document = RunDocument(
        run=record.name,
        dataset=record.dataset,
        dataset_version=record.dataset_version,
        fingerprint=record.fingerprint,
        settings=record.settings,
        shards=record.shards,
        origin=record.origin,
    )
    uri, data = storage.join(record.folder, "run.json"), documents.encode(document)
    fresh = storage.create(uri, data)
    what = f"run {record.name!r}"
    check_stays(record.folder, what)
    if fresh:
        return record
    there = find(record.warehouse, record.name)
    if there.fingerprint != record.fingerprint:
        raise RunError(
            f"run {record.name!r} exists with other settings:\n{difference(there, record)}\n"
            "give another --run name to predict with these settings, or the first ones to resume it"
        )
    if there.commit is None:
        storage.publish(uri, storage.read(uri))  # written anew, it counts as under way to who removes abandoned runs
        check_stays(record.folder, what)
    return there


def setting(folder: str, name: str) -> Any:
    """A setting of the run whose run.json lies in `folder`; None if no run was begun there or it has no such setting."""
    uri = storage.join(folder, "run.json")
    if not storage.exists(uri):
        return None
    document = read_json(uri)  # of a training run, too, which has other fields
    settings = document.get("settings") if isinstance(document, dict) else None
    return settings.get(name) if isinstance(settings, dict) else None


def difference(there: RunRecord, here: RunRecord) -> str:
    """Lines that show which settings of two runs differ."""
    return differing(
        {"dataset": f"{there.dataset}@{there.dataset_version}", "shards": there.shards, **there.settings},
        {"dataset": f"{here.dataset}@{here.dataset_version}", "shards": here.shards, **here.settings},
    )


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Lines that show which of two sets of settings differ."""
    first, second = _flat(there), _flat(here)
    keys = [key for key in sorted(first | second) if first.get(key) != second.get(key)]
    return "\n".join(f"  {key}: {_short(first.get(key))} there, {_short(second.get(key))} here" for key in keys)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def find(warehouse: Warehouse, name: str) -> RunRecord:
    """Open a run, committed or not.

    Raises:
        RunError: there is none of this name; the message lists the nearest.
    """
    warehouse.check()
    folder = warehouse.run(name)
    record = storage.join(folder, "run.json")
    if not storage.exists(record):
        known = names(warehouse)
        near = difflib.get_close_matches(name, known, 3, 0.4) or known[:5]
        raise RunError(
            f"there is no run {name!r} in {warehouse.root}: "
            + (f"did you mean {', '.join(near)}?" if near else "it holds no runs")
        )
    mark = storage.join(folder, "commit.json")
    return _record(warehouse, name, storage.read(record), storage.read(mark) if storage.exists(mark) else None)


def open_committed(warehouse: Warehouse, name: str) -> RunRecord:
    """Open a complete run.

    Raises:
        RunError: it does not exist, or is not committed yet.
    """
    record = find(warehouse, name)
    if record.commit is None:
        raise RunError(f"run {name!r} is not complete: rerun its 'shardlens predict' command (it resumes), then retry")
    return record


def names(warehouse: Warehouse) -> list[str]:
    """Names of all runs, committed or not."""
    return [child.rstrip("/") for child in storage.children(warehouse.path("runs")) if child.endswith("/")]


def committed(warehouse: Warehouse) -> list[RunRecord]:
    """All committed runs, by name; their documents are read many at once, since there may be thousands."""
    return [record for record in every(warehouse) if record.commit is not None]


def every(warehouse: Warehouse) -> list[RunRecord]:
    """All runs, committed or not, by name."""
    known = [name for name in names(warehouse) if NAME.fullmatch(name)]
    marks = _documents([storage.join(warehouse.run(name), "commit.json") for name in known])
    records = _documents([storage.join(warehouse.run(name), "run.json") for name in known])
    triples = zip(known, records, marks, strict=True)
    return [_record(warehouse, name, record, mark) for name, record, mark in triples if record is not None]


def _documents(uris: list[str]) -> list[bytes | None]:
    """The contents of documents, None for those that are not there."""
    contents = storage.read_many([(uri, None, None) for uri in uris])
    failed = [
        data for data in contents if isinstance(data, StorageError) and not isinstance(data, LocationNotFoundError)
    ]
    if failed:
        raise failed[0]
    return [None if isinstance(data, StorageError) else data for data in contents]


def _record(warehouse: Warehouse, name: str, record: bytes, commit: bytes | None) -> RunRecord:
    folder = warehouse.run(name)
    asked = documents.parse(RunDocument, storage.join(folder, "run.json"), record)
    done = None if commit is None else documents.parse(Commit, storage.join(folder, "commit.json"), commit)
    ordered = done is None or all(number == parts.shard for number, parts in enumerate(done.parts))
    if done is not None and not (ordered and len(done.parts) == asked.shards):
        raise StorageError(
            f"{storage.join(folder, 'commit.json')} names the parts of {len(done.parts)} shards, expected those of "
            f"{asked.shards}, each once and in order: {RESTORE}"
        )
    return RunRecord(
        warehouse, name, asked.dataset, asked.dataset_version, asked.settings, asked.shards, asked.origin, done
    )
