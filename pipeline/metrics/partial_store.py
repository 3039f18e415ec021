"""The partials of a run: those in the store are used again, the others are made by the executor."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ExecutionError, StorageError
from shardlens.pipeline.executors.base import Executor, Lost, Progress, ProgressListener
from shardlens.pipeline.metrics import partials
from shardlens.pipeline.metrics.engines import ENGINES
from shardlens.pipeline.metrics.rules import MAX_DETS, Rules
from shardlens.pipeline.metrics.stage import EvaluateStage
from shardlens.pipeline.metrics.truth_by_shard import ShardedTruth
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.runs import RunRecord

PROTOCOL = 2
"""Goes up when a partial of the same parts would hold something else."""

DIGITS = 24
"""Of a partial's SHA-256, in its name."""

Partial = Mapping[str, partials.Arrays]


def outcomes(record: RunRecord) -> list[pa.Table]:
    """The `image_id` and `status` of the images of every shard, from its outcomes part.

    Raises:
        StorageError: a part that cannot be read.
    """
    shards: list[pa.Table] = []
    for data in storage.read_many([(uri, None, None) for uri in record.outcome_parts()]):
        if isinstance(data, StorageError):
            raise data
        shards.append(tables.from_bytes(data, ["image_id", "status"]))
    return shards


def collect(
    record: RunRecord, stage: EvaluateStage, truth: ShardedTruth, executor: Executor, progress: ProgressListener
) -> list[Partial]:
    """The partials of all shards, by task.

    Raises:
        ExecutionError: a shard's worker died at every attempt.
        StorageError: a part that cannot be read.
    """
    names = _names(record, stage, truth)
    folder, *others = _folders(record)
    stored = {shard: partial for place in (*others, folder) for shard, partial in _stored(place, names).items()}
    total = len(names)
    progress(Progress("evaluate", len(stored), total, "shards"))
    missing = [shard for shard in range(total) if shard not in stored]
    work = truth.work(record.prediction_parts(), [storage.join(folder, name) for name in names], missing)
    for outcome in executor.map(stage, work):
        if isinstance(outcome, Lost):
            raise ExecutionError(
                f"shard {outcome.item.shard} of run {record.name!r} was not evaluated, its worker died {outcome.attempts} "
                f"times ({outcome.reason}): memory may be short; use fewer workers. The other shards' partials are kept"
            )
        stored[outcome.item.shard] = partials.unpack(outcome.value)
        progress(Progress("evaluate", len(stored), total, "shards"))
    return [stored[shard] for shard in range(total)]


def _folders(record: RunRecord) -> list[str]:
    """Where partials of the run's shards may lie: its own folder, and that of the run whose rows it carried over."""
    names = [record.name, record.origin.get("carried_from")]
    return [record.warehouse.partials(record.dataset, name) for name in names if isinstance(name, str)]


def _names(record: RunRecord, stage: EvaluateStage, truth: ShardedTruth) -> list[str]:
    """Names of the partials; each says by its digest what it was made of, in whichever run."""
    made_of = json.dumps([PROTOCOL, stage.tasks, *_rules(stage.rules)]).encode()
    names = []
    for shard, parts in enumerate(record.parts):
        content = hashlib.sha256(made_of)
        content.update(parts.predictions.sha256.encode())
        content.update(truth.digest(shard))
        names.append(f"shard-{shard:05d}-{content.hexdigest()[:DIGITS]}.partial")
    return names


def _rules(rules: Rules) -> list[str | int]:
    """What of the rules changes a partial; a limit is named where it is not the default, as in partials written before."""
    return [ENGINES[rules.engine].name, *([rules.max_dets] if rules.max_dets != MAX_DETS[-1] else [])]


def _stored(folder: str, names: Sequence[str]) -> dict[int, Partial]:
    """Partials of an earlier evaluation, by shard; a damaged one counts as missing."""
    present = {_digest(name): name for name in storage.children(folder)}
    shards = [shard for shard, name in enumerate(names) if _digest(name) in present]
    places = [(storage.join(folder, present[_digest(names[shard])]), None, None) for shard in shards]
    valid: dict[int, Partial] = {}
    for shard, data in zip(shards, storage.read_many(places), strict=True):
        with contextlib.suppress(ValueError):
            valid[shard] = partials.unpack(data if isinstance(data, bytes) else b"")
    return valid


def _digest(name: str) -> str:
    """What of a partial's name is the same in every run."""
    return name.rpartition("-")[2]
