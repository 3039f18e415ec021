"""What a worker is asked to do with a shard, and what it answers; small, since both are sent between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shardlens.pipeline.images.shards import Failure, Shard
from shardlens.pipeline.warehouse.runs import ShardParts


@dataclass(frozen=True)
class ShardWork:
    """What a worker is asked to do with a shard."""

    shard: Shard
    failures: tuple[Failure, ...] = ()
    """Images known to kill workers: quarantined without being predicted."""
    probe: bool = False
    """Predict and publish nothing: does the worker survive?"""
    generation: int = 0
    """Above 0: predict these images alone and put their rows among those of `base`."""
    base: ShardParts | None = None


@dataclass(frozen=True, slots=True)
class ShardReport:
    """The result of a shard, and where its time went."""

    parts: ShardParts | None
    images: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By stage: fetch, decode, wait (device waits for images), forward, postprocess_wait (device waits for rows), rows,
    write."""
