"""Runs: their record and fingerprint, the atomic parts of their shards, and the commit that makes them visible.

Object storage is all that is needed. `run.json` is created exclusively and holds every setting that can change a row;
a shard publishes its predictions part, then its outcomes part, whose footer vouches for both; when every shard is
there, `commit.json` names the parts. Readers see committed runs, and in them the parts named there, nothing else.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from shardlens.pipeline import storage
from shardlens.pipeline.errors import LocationNotFoundError, RunError, StorageError
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.layout import NAME, Warehouse, read_json, to_json

FOOTER = "shardlens"
READ_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a run."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardParts:
    """What a finished shard published."""

    shard: int
    predictions: Part
    outcomes: Part
    quarantined: int


@dataclass(frozen=True)
class RunRecord:
    """A run: what it was asked to do, and, once committed, what it is made of."""

    warehouse: Warehouse
    name: str
    dataset: str
    dataset_version: str
    settings: dict[str, Any]
    """Everything that can change a row; the fingerprint is its digest."""
    shards: int
    origin: dict[str, Any]
    """Where things came from (URIs, versions, the command's words); not part of the fingerprint."""
    commit: dict[str, Any] | None = None

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
        return [parts_from(entry) for entry in (self.commit or {}).get("parts", [])]

    def prediction_parts(self) -> list[str]:
        """URIs of the committed predictions, by shard."""
        folder = self.warehouse.predictions(self.dataset, self.name)
        return [storage.join(folder, parts.predictions.name) for parts in self.parts]

    def outcome_parts(self) -> list[str]:
        """URIs of the committed outcomes, by shard."""
        folder = self.warehouse.outcomes(self.dataset, self.name)
        return [storage.join(folder, parts.outcomes.name) for parts in self.parts]


def parts_from(entry: Mapping[str, Any]) -> ShardParts:
    """Read one entry of commit.json, or an outcomes footer."""
    return ShardParts(
        int(entry["shard"]), Part(**entry["predictions"]), Part(**entry["outcomes"]), int(entry["quarantined"])
    )


def begin(record: RunRecord) -> RunRecord:
    """Create the run, or take up the one of the same name and fingerprint.

    Returns:
        The stored record, with its commit if it has been committed.

    Raises:
        RunError: the name is taken by a run with other settings; the message shows the difference.
    """
    document = {
        "run": record.name,
        "dataset": record.dataset,
        "dataset_version": record.dataset_version,
        "fingerprint": record.fingerprint,
        "settings": record.settings,
        "shards": record.shards,
        "origin": record.origin,
    }
    if storage.create(storage.join(record.folder, "run.json"), to_json(document)):
        return record
    found = find(record.warehouse, record.name)
    if found.fingerprint != record.fingerprint:
        raise RunError(
            f"run {record.name!r} exists with other settings:\n{difference(found, record)}\n"
            "give another --run name to predict with these settings, or the first ones to resume it"
        )
    return found


def setting(folder: str, name: str) -> Any:
    """A setting of the run whose run.json lies in `folder`; None = no run has been begun there, or it has no such setting."""
    record = storage.join(folder, "run.json")
    return read_json(record)["settings"].get(name) if storage.exists(record) else None


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
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
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
    document = read_json(record)
    mark = storage.join(folder, "commit.json")
    commit = read_json(mark) if storage.exists(mark) else None
    return _record(warehouse, name, document, commit)


def open_committed(warehouse: Warehouse, name: str) -> RunRecord:
    """Open a run that is whole.

    Raises:
        RunError: it does not exist, or is not committed yet.
    """
    record = find(warehouse, name)
    if record.commit is None:
        raise RunError(
            f"run {name!r} is not whole yet: give its 'shardlens predict' command again, it resumes, then this one"
        )
    return record


def names(warehouse: Warehouse) -> list[str]:
    """Names of all runs, committed or not."""
    return [child.rstrip("/") for child in storage.children(warehouse.path("runs")) if child.endswith("/")]


def committed(warehouse: Warehouse) -> list[RunRecord]:
    """All runs that are whole, by name; their documents are read many at once, since there may be thousands."""
    known = [name for name in names(warehouse) if NAME.fullmatch(name)]
    marks = _documents([storage.join(warehouse.run(name), "commit.json") for name in known])
    whole = {name: mark for name, mark in zip(known, marks, strict=True) if mark is not None}
    documents = _documents([storage.join(warehouse.run(name), "run.json") for name in whole])
    pairs = zip(whole.items(), documents, strict=True)
    return [_record(warehouse, name, document, mark) for (name, mark), document in pairs if document is not None]


def _documents(uris: list[str]) -> list[Any]:
    """JSON documents, None for those that are not there."""
    found = storage.read_many([(uri, None, None) for uri in uris])
    failed = [data for data in found if isinstance(data, StorageError) and not isinstance(data, LocationNotFoundError)]
    if failed:
        raise failed[0]
    return [
        None if isinstance(data, StorageError) else _parsed(uri, data) for uri, data in zip(uris, found, strict=True)
    ]


def _parsed(uri: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return read_json(uri)  # says what is wrong with it


def _record(warehouse: Warehouse, name: str, document: Mapping[str, Any], commit: dict[str, Any] | None) -> RunRecord:
    keys = ("dataset", "dataset_version", "settings", "shards", "origin")
    return RunRecord(warehouse, name, **{key: document[key] for key in keys}, commit=commit)


def publish(
    record: RunRecord, shard: int, predictions: pa.Table, outcomes: pa.Table, generation: int = 0
) -> ShardParts:
    """Publish a shard's two parts; of many who publish the same shard, the first to put its outcomes there wins.

    The predictions part is named after its content, so that nobody overwrites another's; the outcomes part is created
    exclusively and names the predictions that belong to it. Who comes second takes what is there for his own.

    Args:
        predictions: rows of `tables.PREDICTIONS`, sorted by image_id, then rank.
        outcomes: rows of `tables.OUTCOMES`, sorted by image_id.
        generation: 0 at first; a retry of quarantined images publishes beside the parts that it will replace.
    """
    data = tables.to_bytes(predictions)
    named = f"shard-{shard:05d}-{hashlib.sha256(data).hexdigest()[:8]}.parquet"
    storage.publish(_predictions(record, named), data)
    quarantined = outcomes.num_rows - sum(status == "ok" for status in outcomes["status"].to_pylist())
    vouched = _part(named, predictions, data)
    vouch = {"voucher": record.voucher, "shard": shard, "predictions": asdict(vouched), "quarantined": quarantined}
    marks = tables.to_bytes(outcomes, {FOOTER: json.dumps(vouch, sort_keys=True)})
    name = f"shard-{shard:05d}.parquet" if generation == 0 else f"shard-{shard:05d}.retry-{generation}.parquet"
    if not storage.create(_outcomes(record, name), marks):
        there = _vouched(record, name, storage.read(_outcomes(record, name)))
        if there is not None and storage.exists(_predictions(record, there.predictions.name)):
            return there
        storage.publish(_outcomes(record, name), marks)  # what was there is damaged
    return ShardParts(shard, vouched, _part(name, outcomes, marks), quarantined)


def _predictions(record: RunRecord, name: str) -> str:
    return storage.join(record.warehouse.predictions(record.dataset, record.name), name)


def _outcomes(record: RunRecord, name: str) -> str:
    return storage.join(record.warehouse.outcomes(record.dataset, record.name), name)


def _part(name: str, table: pa.Table, data: bytes) -> Part:
    return Part(name, table.num_rows, len(data), hashlib.sha256(data).hexdigest())


def generation_of(parts: ShardParts) -> int:
    """0 for parts of the first prediction, 1 for those of the first retry, ..."""
    found = re.search(r"\.retry-(\d+)\.parquet$", parts.outcomes.name)
    return int(found[1]) if found else 0


def present(record: RunRecord) -> dict[int, ShardParts]:
    """Shards that need not run again: those of the commit whose parts are there, before a commit the finished ones."""
    if record.commit is None:
        return finished(record)
    sizes = _sizes(record)
    return {
        parts.shard: parts
        for parts in record.parts
        if sizes.get(("predictions", parts.predictions.name)) == parts.predictions.bytes
        and sizes.get(("outcomes", parts.outcomes.name)) == parts.outcomes.bytes
    }


def _sizes(record: RunRecord) -> dict[tuple[str, str], int]:
    places = {"predictions": _predictions(record, ""), "outcomes": _outcomes(record, "")}
    return {(kind, entry.name): entry.size for kind, place in places.items() for entry in storage.walk(place)}


def finished(record: RunRecord) -> dict[int, ShardParts]:
    """Shards whose parts are there and whole, of each the latest generation.

    A damaged or foreign part does not count, so its shard runs again.
    """
    sizes = _sizes(record)
    names = [name for kind, name in sizes if kind == "outcomes" and name.endswith(".parquet")]
    whole: dict[int, ShardParts] = {}
    for start in range(0, len(names), READ_AT_ONCE):
        some = names[start : start + READ_AT_ONCE]
        read = storage.read_many([(_outcomes(record, name), None, None) for name in some])
        for name, data in zip(some, read, strict=True):
            parts = None if isinstance(data, StorageError) else _vouched(record, name, data)
            if parts is None or sizes.get(("predictions", parts.predictions.name)) != parts.predictions.bytes:
                continue
            if parts.shard not in whole or generation_of(parts) > generation_of(whole[parts.shard]):
                whole[parts.shard] = parts
    return whole


def _vouched(record: RunRecord, name: str, data: bytes) -> ShardParts | None:
    """What an outcomes part says of its shard, if it is readable and of this run."""
    try:
        outcomes = tables.from_bytes(data)
        said = json.loads(tables.footer(data).get(FOOTER, "{}"))
    except (StorageError, pa.ArrowException, OSError, ValueError):
        return None
    if said.get("voucher") != record.voucher:
        return None
    return parts_from({**said, "outcomes": asdict(_part(name, outcomes, data))})


def commit(record: RunRecord, parts: Iterable[ShardParts], report: Mapping[str, Any]) -> RunRecord:
    """Make a run visible: create commit.json with all its parts. Committing twice is harmless.

    Args:
        report: figures of this attempt (times, workers), kept beside the parts.

    Raises:
        RunError: a shard is missing.
    """
    document = _commit_document(record, parts, report)
    storage.create(storage.join(record.folder, "commit.json"), to_json(document))
    return _sweep(find(record.warehouse, record.name))


def recommit(record: RunRecord, parts: Iterable[ShardParts], report: Mapping[str, Any]) -> RunRecord:
    """Replace the parts of a committed run, at once for every reader; its scores are removed if rows have changed.

    Raises:
        RunError: a shard is missing.
    """
    replacing = list(parts)
    document = _commit_document(record, replacing, report)
    storage.publish(storage.join(record.folder, "commit.json"), to_json(document))
    if same_rows(record.parts, replacing):
        return _sweep(find(record.warehouse, record.name))
    for stale in storage.walk(record.warehouse.metrics(record.dataset, record.name)):
        if not stale.name.startswith("partials/"):  # those are kept by the digests of their parts
            storage.delete(stale.uri)
    return _sweep(find(record.warehouse, record.name))


def same_rows(first: Iterable[ShardParts], second: Iterable[ShardParts]) -> bool:
    """Whether parts hold the same predictions and the same number of quarantined images, whatever their names."""
    one, two = (sorted((p.shard, p.predictions.sha256, p.quarantined) for p in parts) for parts in (first, second))
    return one == two


def _sweep(record: RunRecord) -> RunRecord:
    """Remove parts that the commit does not name: left by a retry, or by who came second."""
    named = {("predictions", p.predictions.name) for p in record.parts} | {
        ("outcomes", p.outcomes.name) for p in record.parts
    }
    for kind, name in _sizes(record).keys() - named:
        storage.delete(_predictions(record, name) if kind == "predictions" else _outcomes(record, name))
    return record


def _commit_document(record: RunRecord, parts: Iterable[ShardParts], report: Mapping[str, Any]) -> dict[str, Any]:
    ordered = sorted(parts, key=lambda p: p.shard)
    if [p.shard for p in ordered] != list(range(record.shards)):
        missing = sorted(set(range(record.shards)) - {p.shard for p in ordered})
        raise RunError(f"run {record.name!r} lacks shards {missing[:10]} of {record.shards}: it cannot be committed")
    return {
        "fingerprint": record.fingerprint,
        "parts": [asdict(p) for p in ordered],
        "totals": {
            "images": sum(p.outcomes.rows for p in ordered),
            "predictions": sum(p.predictions.rows for p in ordered),
            "quarantined": sum(p.quarantined for p in ordered),
        },
        "report": dict(report),
    }
