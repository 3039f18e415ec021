"""What a worker is asked to do with a shard, and what it answers; small, since both are sent between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shardlens.pipeline.images.shards import Failure, Shard
from shardlens.pipeline.warehouse.runs import ShardParts


@dataclass(frozen=True)
class Carried:
    """Images of a shard whose rows an earlier run has, and that run's parts that hold them."""

    predictions: str
    """Folder of the earlier run's predictions."""
    outcomes: str
    parts: tuple[ShardParts, ...]
    image_ids: frozenset[int]


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
    carried: Carried | None = None
    """What need not be predicted, because an earlier run has it."""

    @property
    def to_predict(self) -> Shard:
        """The shard without the images that are carried over."""
        carried = self.carried.image_ids if self.carried else frozenset()
        return self.shard.only(frozenset(image.image_id for image in self.shard.images) - carried)


@dataclass(frozen=True, slots=True)
class ShardReport:
    """The result of a shard, and where its time went."""

    parts: ShardParts | None
    images: int
    """Images that were predicted, or known to fail."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By stage: fetch, decode, wait (device waits for images), forward, postprocess_wait (device waits for rows), rows,
    write."""
    carried: int = 0
    """Images whose rows are an earlier run's."""
