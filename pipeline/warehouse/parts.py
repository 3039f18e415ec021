"""The parts of a run: published shard by shard, checked on resume, committed together, replaced by a retry.

A shard publishes its predictions part, then its outcomes part, whose footer vouches for both. `commit.json` names the
parts that readers see. It moves by compare-and-swap, names only parts that are there, and never goes back from a retry's
parts to earlier ones. A part that it does not name stays for a day, since a slower reader or a retry may still need it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from shardlens.pipeline import storage
from shardlens.pipeline.errors import RunError, StorageError
from shardlens.pipeline.storage import checksums
from shardlens.pipeline.warehouse import documents, tables
from shardlens.pipeline.warehouse.documents import Commit, Part, ShardParts, Totals
from shardlens.pipeline.warehouse.records import RunRecord, find

FOOTER = "shardlens"
READ_AT_ONCE = 256
KEPT_S = 24 * 3600.0
"""Seconds for which parts stay that no commit names."""


def publish(
    record: RunRecord, shard: int, predictions: pa.Table, outcomes: pa.Table, generation: int = 0
) -> ShardParts:
    """Publish a shard's two parts; of many who publish the same shard, the first to put its outcomes there wins.

    The predictions part is named after its content, so that nobody overwrites another's; the outcomes part is created
    exclusively and names the predictions that belong to it. A later writer adopts the parts already published.

    Args:
        predictions: rows of `tables.PREDICTIONS`, sorted by image_id, then rank.
        outcomes: rows of `tables.OUTCOMES`, sorted by image_id.
        generation: 0 at first; a retry of quarantined images publishes next to the parts that it will replace.
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
    complete = "file_name" in table.schema.names
    return Part(name, table.num_rows, len(data), hashlib.sha256(data).hexdigest(), checksums.blocks(data), complete)


def generation_of(parts: ShardParts) -> int:
    """0 for parts of the first prediction, 1 for those of the first retry, ..."""
    retry = re.search(r"\.retry-(\d+)\.parquet$", parts.outcomes.name)
    return int(retry[1]) if retry else 0


def to_retry(there: Mapping[int, ShardParts], committed: Iterable[ShardParts]) -> tuple[int, list[int]]:
    """Plan a retry of the quarantined images: its generation, and the shards that it has yet to predict.

    A retry that was interrupted goes on under its own generation, so that its parts get the names that they would have had.

    Args:
        there: the latest parts of each shard, committed or not.
        committed: the parts that the commit names; none before the commit.
    """
    latest = max(map(generation_of, there.values()), default=0)
    quarantined = [shard for shard, parts in sorted(there.items()) if parts.quarantined]
    behind = [shard for shard in quarantined if generation_of(there[shard]) < latest]
    before = [generation_of(parts) for parts in committed]
    if behind or (before and max(before) < latest):
        return latest, behind
    return latest + 1, quarantined


def present(record: RunRecord) -> dict[int, ShardParts]:
    """Shards that need not run again: those of the commit whose parts are there, before a commit the finished ones."""
    if record.commit is None:
        return finished(record)
    there = _entries(record)
    return {parts.shard: parts for parts in record.parts if _are_there(parts, there)}


Entries = Mapping[tuple[str, str], storage.Entry]


def _entries(record: RunRecord) -> Entries:
    """What lies in the run's folders, by table and name."""
    places = {"predictions": _predictions(record, ""), "outcomes": _outcomes(record, "")}
    return {(kind, entry.name): entry for kind, place in places.items() for entry in storage.walk(place)}


def _are_there(parts: ShardParts, entries: Entries) -> bool:
    """Whether both parts of a shard are there at their full length."""
    named = {
        ("predictions", parts.predictions.name): parts.predictions,
        ("outcomes", parts.outcomes.name): parts.outcomes,
    }
    return all(key in entries and entries[key].size == part.bytes for key, part in named.items())


def finished(record: RunRecord) -> dict[int, ShardParts]:
    """Shards whose parts are there and complete, of each the latest generation.

    A damaged or foreign part does not count, so its shard runs again.
    """
    return _finished(record, _entries(record))


def _finished(record: RunRecord, entries: Entries) -> dict[int, ShardParts]:
    names = [name for kind, name in entries if kind == "outcomes" and name.endswith(".parquet")]
    latest: dict[int, ShardParts] = {}
    for start in range(0, len(names), READ_AT_ONCE):
        some = names[start : start + READ_AT_ONCE]
        contents = storage.read_many([(_outcomes(record, name), None, None) for name in some])
        for name, data in zip(some, contents, strict=True):
            parts = None if isinstance(data, StorageError) else _vouched(record, name, data)
            if parts is None or not _are_there(parts, entries):
                continue
            if parts.shard not in latest or generation_of(parts) > generation_of(latest[parts.shard]):
                latest[parts.shard] = parts
    return latest


def _vouched(record: RunRecord, name: str, data: bytes) -> ShardParts | None:
    """What an outcomes part says of its shard, if it is readable and of this run."""
    try:
        outcomes = tables.from_bytes(data)
        vouch = json.loads(tables.footer(data).get(FOOTER, "{}"))
        if vouch.get("voucher") != record.voucher:
            return None
        return documents.decode(ShardParts, name, {**vouch, "outcomes": asdict(_part(name, outcomes, data))})
    except (StorageError, pa.ArrowException, OSError, ValueError):
        return None


def commit(record: RunRecord, parts: Iterable[ShardParts], report: Mapping[str, Any]) -> RunRecord:
    """Make a run visible: create commit.json with all its parts. Committing twice is harmless.

    Args:
        report: figures of this attempt (times, workers), kept with the parts.

    Raises:
        RunError: a shard is missing, or a part is not where it was published.
    """
    entries = _entries(record)
    document = _commit_of(record, parts, report, entries)
    storage.create(_mark(record), documents.encode(document))
    return sweep(find(record.warehouse, record.name))


def recommit(record: RunRecord, parts: Iterable[ShardParts], report: Mapping[str, Any]) -> RunRecord:
    """Replace the parts of a committed run, at once for every reader; its scores are removed if rows have changed.

    Where another retry has committed later parts of a shard meanwhile, those stay.

    Raises:
        RunError: a shard is missing, or a part is not where it was published.
    """
    offered = {each.shard: each for each in parts}
    mark = _mark(record)
    while True:
        before = storage.read(mark) if storage.exists(mark) else None
        entries = _entries(record)
        there = () if before is None else documents.parse(Commit, mark, before).parts
        later = {
            old.shard: old
            for old in there
            if old.shard in offered
            and generation_of(old) > generation_of(offered[old.shard])
            and _are_there(old, entries)
        }
        document = _commit_of(record, (offered | later).values(), report, entries)
        if document.parts == there:
            break
        if storage.swap(mark, before, documents.encode(document)):
            if not same_rows(there, document.parts):
                _remove_scores(record)
            break
    return sweep(find(record.warehouse, record.name))


def same_rows(first: Iterable[ShardParts], second: Iterable[ShardParts]) -> bool:
    """Whether parts hold the same predictions and the same number of quarantined images, whatever their names."""
    one, two = (sorted((p.shard, p.predictions.sha256, p.quarantined) for p in parts) for parts in (first, second))
    return one == two


def _remove_scores(record: RunRecord) -> None:
    for folder in (record.warehouse.metrics, record.warehouse.curves):
        for entry in storage.walk(folder(record.dataset, record.name)):
            storage.delete(entry.uri)


def sweep(record: RunRecord, kept_s: float = KEPT_S) -> RunRecord:
    """Remove the parts of a committed run that nobody can need any more, and what dead processes left unfinished.

    Those are the parts that the commit does not name, that are older than `kept_s` seconds, and that are no later
    generation, which a retry under way would commit.
    """
    for folder in (record.folder, _predictions(record, ""), _outcomes(record, "")):
        storage.tidy(folder.rstrip("/"))
    for entry in unneeded(record, _entries(record), kept_s):
        storage.delete(entry.uri)
    return record


def unneeded(record: RunRecord, entries: Entries, kept_s: float) -> list[storage.Entry]:
    """Which of a committed run's parts, by table and name, nobody can need any more; see `sweep`."""
    unnamed = entries.keys() - _names(record.parts)
    old = {key for key in unnamed if entries[key].modified < time.time() - kept_s}
    later = _names(_finished(record, entries).values()) if old else set()
    return [entries[key] for key in sorted(old - later)]


def _names(parts: Iterable[ShardParts]) -> set[tuple[str, str]]:
    pairs = [(("predictions", p.predictions.name), ("outcomes", p.outcomes.name)) for p in parts]
    return {key for pair in pairs for key in pair}


def _mark(record: RunRecord) -> str:
    return storage.join(record.folder, "commit.json")


def _commit_of(record: RunRecord, parts: Iterable[ShardParts], report: Mapping[str, Any], entries: Entries) -> Commit:
    ordered = tuple(sorted(parts, key=lambda p: p.shard))
    if [p.shard for p in ordered] != list(range(record.shards)):
        missing = sorted(set(range(record.shards)) - {p.shard for p in ordered})
        raise RunError(f"run {record.name!r} lacks shards {missing[:10]} of {record.shards}: it cannot be committed")
    lost = [p.shard for p in ordered if not _are_there(p, entries)]
    if lost:
        raise RunError(
            f"run {record.name!r}: the parts of shards {lost[:10]} were published and are gone again, so that it cannot be "
            "committed: rerun the same command, which predicts them again"
        )
    totals = Totals(
        images=sum(p.outcomes.rows for p in ordered),
        predictions=sum(p.predictions.rows for p in ordered),
        quarantined=sum(p.quarantined for p in ordered),
    )
    return Commit(ordered, totals, record.fingerprint, dict(report))
