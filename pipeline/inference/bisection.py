"""Finding the images that kill their worker: halves are tried until each guilty image stands alone."""

from __future__ import annotations

from collections.abc import Sequence

from shardlens.pipeline.executors.base import Executor, Lost, Stage
from shardlens.pipeline.images.shards import Failure, Shard
from shardlens.pipeline.inference.shard_work import ShardReport, ShardWork


def isolate(executor: Executor, stage: Stage[ShardWork, ShardReport], shard: Shard) -> tuple[Failure, ...]:
    """Try ever smaller halves of a shard that killed its workers; publish nothing.

    All parts of one size are tried in one call, since each call starts workers of its own. A single image is blamed only
    when it kills twice: the first worker may have died of something else.

    Returns:
        The images that kill a worker alone; none if every half survived.
    """
    failures: list[Failure] = []
    killed_once: set[int] = set()
    suspects = _halves(shard)
    while suspects:
        works = [ShardWork(part, probe=True) for part in suspects]
        suspects = []
        for outcome in executor.map(stage, works, attempts=1):
            if not isinstance(outcome, Lost):
                continue
            part = outcome.item.shard
            ids = {image.image_id for image in part.images}
            if len(ids) == 1 and ids <= killed_once:
                failures.append(_blame(part))
            else:
                suspects += _halves(part)
                killed_once |= ids if len(ids) == 1 else set()
    return tuple(sorted(failures, key=lambda failure: failure.image_id))


def _halves(shard: Shard) -> list[Shard]:
    """Two halves of a shard; a single image stays as it is."""
    middle = len(shard.images) // 2
    parts: Sequence[Sequence[int]] = [
        [image.image_id for image in shard.images[:middle]],
        [image.image_id for image in shard.images[middle:]],
    ]
    return [shard.only(frozenset(ids)) for ids in parts if ids]


def _blame(alone: Shard) -> Failure:
    """What the outcomes table says of a poison image; nothing of it depends on the machine."""
    (image,) = alone.images
    return Failure(
        image.image_id,
        "worker",
        "WorkerDied",
        f"{image.file_name}: the worker process died each time it predicted this image alone "
        "(a crash in native code, or memory run out): look at the image, or try a smaller input size",
    )
