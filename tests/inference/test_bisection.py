"""Which images are blamed for a dead worker, and in how many calls; deaths are computed here, real ones are in test_predict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from shardlens.pipeline.executors.base import Done, Lost, Placement
from shardlens.pipeline.images.shards import ImageRef, Shard
from shardlens.pipeline.inference.bisection import isolate
from shardlens.pipeline.inference.shard_work import ShardReport, ShardWork


class Deaths:
    """An executor whose workers die of some images: of each as often as is given. The last item is ready first."""

    placement = Placement()

    def __init__(self, times: dict[int, int]) -> None:
        self.times = dict(times)
        self.calls: list[list[list[int]]] = []

    def map(
        self, stage: Any, items: Iterable[Any], attempts: int = 3
    ) -> Iterator[Done[ShardWork, ShardReport] | Lost[ShardWork]]:
        works: list[ShardWork] = list(items)
        assert attempts == 1
        assert all(work.probe for work in works)
        self.calls.append([[image.image_id for image in work.shard.images] for work in works])
        for work in reversed(works):
            guilty = [image.image_id for image in work.shard.images if self.times.get(image.image_id, 0) > 0]
            for number in guilty:
                self.times[number] -= 1
            yield Lost(work, attempts, "killed") if guilty else Done(work, ShardReport(None, len(work.shard.images)))

    def close(self) -> None:
        """Nothing is held."""


def shard(images: int) -> Shard:
    return Shard(3, tuple(ImageRef(i, f"{i}.png", None, None, None, None, f"{i}.png") for i in range(1, images + 1)))


@pytest.mark.parametrize("images", range(1, 9))
def test_each_single_guilty_image_is_blamed_alone(images: int) -> None:
    for guilty in range(1, images + 1):
        (failure,) = isolate(Deaths({guilty: 99}), None, shard(images))  # type: ignore[arg-type]
        assert (failure.image_id, failure.stage, failure.error) == (guilty, "worker", "WorkerDied")
        assert failure.message.startswith(f"{guilty}.png: the worker process died each time")


@pytest.mark.parametrize(("images", "guilty"), [(4, (1, 4)), (7, (1, 2, 7)), (3, (1, 2, 3))])
def test_several_guilty_images_are_blamed_in_order(images: int, guilty: tuple[int, ...]) -> None:
    failures = isolate(Deaths(dict.fromkeys(guilty, 99)), None, shard(images))  # type: ignore[arg-type]
    assert tuple(failure.image_id for failure in failures) == guilty


def test_parts_of_one_round_share_a_call() -> None:
    executor = Deaths({3: 99})
    isolate(executor, None, shard(6))  # type: ignore[arg-type]
    assert executor.calls == [[[1, 2, 3], [4, 5, 6]], [[1], [2, 3]], [[2], [3]], [[3]]]


def test_an_image_that_kills_alone_only_once_is_not_blamed() -> None:
    """Tried with its half, then alone: the second death may have another cause, such as a machine that is taken away."""
    executor = Deaths({3: 3})
    assert isolate(executor, None, shard(6)) == ()  # type: ignore[arg-type]
    assert executor.calls[-1] == [[3]]


def test_a_shard_that_survives_in_halves_blames_nobody() -> None:
    executor = Deaths({})
    assert isolate(executor, None, shard(6)) == ()  # type: ignore[arg-type]
    assert len(executor.calls) == 1
