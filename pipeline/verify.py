"""Verify: read every part of a committed run and compare it with the digests in commit.json."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from shardlens.pipeline import storage
from shardlens.pipeline.errors import StorageError
from shardlens.pipeline.executors.base import Progress, ProgressListener, no_progress
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.runs import Part, RunRecord

READ_AT_ONCE = 32


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was committed."""

    uri: str
    problem: str


@dataclass(frozen=True)
class VerifyReport:
    """What became of a run's files."""

    run: str
    parts: int
    bytes: int
    damaged: tuple[Damage, ...]


def verify(warehouse: str, run: str, progress: ProgressListener = no_progress) -> VerifyReport:
    """Compare the record and all parts of a run with the digests that they were committed with.

    Raises:
        RunError: the run does not exist, or is not committed.
        StorageError: its documents cannot be read.
    """
    record = runs.open_committed(Warehouse(warehouse), run)
    parts = list(_parts(record))
    damaged = list(_documents(record))
    for start in range(0, len(parts), READ_AT_ONCE):
        some = parts[start : start + READ_AT_ONCE]
        contents = storage.read_many([(uri, None, None) for uri, _ in some])
        for (uri, part), data in zip(some, contents, strict=True):
            damaged += [Damage(uri, problem) for problem in _problems(part, data)]
        progress(Progress("verify", start + len(some), len(parts), "parts"))
    return VerifyReport(record.name, len(parts), sum(part.bytes for _, part in parts), tuple(damaged))


def _parts(record: RunRecord) -> Iterator[tuple[str, Part]]:
    uris = zip(record.parts, record.prediction_parts(), record.outcome_parts(), strict=True)
    for parts, predictions, outcomes in uris:
        yield predictions, parts.predictions
        yield outcomes, parts.outcomes


def _documents(record: RunRecord) -> Iterator[Damage]:
    """What of run.json and commit.json does not fit together."""
    commit = record.commit
    uri = storage.join(record.folder, "commit.json")
    if commit is None:
        return
    if commit.fingerprint != record.fingerprint:
        yield Damage(
            uri, f"its fingerprint {commit.fingerprint[:12]} is not that of run.json, {record.fingerprint[:12]}"
        )
    sums = {
        "images": sum(parts.outcomes.rows for parts in commit.parts),
        "predictions": sum(parts.predictions.rows for parts in commit.parts),
        "quarantined": sum(parts.quarantined for parts in commit.parts),
    }
    for name, count in sums.items():
        if getattr(commit.totals, name) != count:
            yield Damage(uri, f"its parts hold {count} {name}, its totals say {getattr(commit.totals, name)}")


def _problems(part: Part, data: bytes | StorageError) -> Iterator[str]:
    if isinstance(data, StorageError):
        yield str(data)
    elif len(data) != part.bytes:
        yield f"it has {len(data)} bytes, expected {part.bytes}"
    elif (digest := hashlib.sha256(data).hexdigest()) != part.sha256:
        yield f"its SHA-256 is {digest[:12]}..., expected {part.sha256[:12]}..."
