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

PROTOCOL = 1
"""Goes up when a partial of the same parts would hold something else."""

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
    folder = record.warehouse.partials(record.dataset, record.name)
    earlier = storage.join(record.warehouse.metrics(record.dataset, record.name), "partials")  # of versions up to 0.1
    names = _names(record, stage, truth)
    stored = _stored(earlier, names) | _stored(folder, names)
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


def _names(record: RunRecord, stage: EvaluateStage, truth: ShardedTruth) -> list[str]:
    """Names of the partials; each says by its digest what it was made of."""
    names = []
    for shard, parts in enumerate(record.parts):
        made_of = [PROTOCOL, record.fingerprint, stage.tasks, *_rules(stage.rules)]
        made_of += [parts.predictions.sha256, parts.outcomes.sha256]
        made_of += [truth.version] if truth.version else []
        scored = truth.scopes[shard].image_ids
        made_of += [scored.tolist()] if len(scored) < parts.outcomes.rows else []
        names.append(f"shard-{shard:05d}-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]}.partial")
    return names


def _rules(rules: Rules) -> list[str | int]:
    """What of the rules changes a partial; a limit is named where it is not the default, as in partials written before."""
    return [ENGINES[rules.engine].name, *([rules.max_dets] if rules.max_dets != MAX_DETS[-1] else [])]


def _stored(folder: str, names: Sequence[str]) -> dict[int, Partial]:
    """Partials of an earlier evaluation, by shard; a damaged one counts as missing."""
    present = set(storage.children(folder))
    shards = [shard for shard, name in enumerate(names) if name in present]
    read = storage.read_many([(storage.join(folder, names[shard]), None, None) for shard in shards])
    valid: dict[int, Partial] = {}
    for shard, data in zip(shards, read, strict=True):
        with contextlib.suppress(ValueError):
            valid[shard] = partials.unpack(data if isinstance(data, bytes) else b"")
    return valid
