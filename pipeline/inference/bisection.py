"""Finding the images that kill their worker: halves are tried until each guilty image stands alone."""

from __future__ import annotations

from collections.abc import Sequence

from shardlens.pipeline.executors.base import Executor, Lost, Stage
from shardlens.pipeline.images.shards import Failure, Shard
from shardlens.pipeline.inference.shard_work import ShardReport, ShardWork

TRIES_ALONE = 2
"""A single image is blamed only when it kills twice: the first worker may have died of something else."""


def isolate(executor: Executor, stage: Stage[ShardWork, ShardReport], shard: Shard) -> tuple[Failure, ...]:
    """Try ever smaller halves of a shard that killed its workers; publish nothing.

    Returns:
        The images that kill a worker alone; none if every half survived.
    """
    failures: list[Failure] = []
    suspects = _halves(shard)
    while suspects:
        works = [ShardWork(part, probe=True) for part in suspects]
        suspects = []
        singles = [work for work in works if len(work.shard.images) == 1]
        groups = [work for work in works if len(work.shard.images) > 1]
        for outcome in executor.map(stage, groups, attempts=1):
            if isinstance(outcome, Lost):
                suspects += _halves(outcome.item.shard)
        for outcome in executor.map(stage, singles, attempts=TRIES_ALONE):
            if isinstance(outcome, Lost):
                failures.append(_blame(outcome))
    return tuple(sorted(failures, key=lambda failure: failure.image_id))


def _halves(shard: Shard) -> list[Shard]:
    """Two halves of a shard; a single image stays as it is."""
    middle = len(shard.images) // 2
    parts: Sequence[Sequence[int]] = [
        [image.image_id for image in shard.images[:middle]],
        [image.image_id for image in shard.images[middle:]],
    ]
    return [shard.only(frozenset(ids)) for ids in parts if ids]


def _blame(lost: Lost[ShardWork]) -> Failure:
    """What the outcomes table says of a poison image; nothing of it depends on the machine."""
    image = lost.item.shard.images[0]
    return Failure(
        image.image_id,
        "worker",
        "WorkerDied",
        f"{image.file_name}: the worker process died each time it predicted this image alone "
        "(a crash in native code, or memory run out): look at the image, or try a smaller input size",
    )
