"""Plans: every image once, in order, lazily."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest

from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.images.shards import plan
from shardlens.pipeline.warehouse import tables


def images(count: int, split: str | None = None) -> pa.Table:
    rows = [
        {
            "image_id": i,
            "file_name": f"{i}.jpg",
            "uri": f"/d/{i}.jpg",
            "width": 4,
            "height": 3,
            "split": split,
            "flags": [],
        }
        for i in range(count)
    ]
    return tables.from_rows(rows, tables.IMAGES)


@pytest.mark.parametrize(("count", "size", "shards"), [(1, 4, 1), (8, 4, 2), (9, 4, 3), (3, 100, 1)])
def test_every_image_is_in_one_shard(count: int, size: int, shards: int) -> None:
    found = plan(images(count), size)
    assert len(found) == shards
    assert [image.image_id for shard in found for image in shard.images] == list(range(count))
    assert [shard.index for shard in found] == list(range(shards))
    assert found[0].part == "shard-00000.parquet"


def test_a_split_is_planned_alone() -> None:
    both = pa.concat_tables([images(3, "train"), images(2, "val")])
    assert sum(len(shard.images) for shard in plan(both, 2, "val")) == 2
    with pytest.raises(ConfigError, match=r"split 'test': the dataset holds 5 images in the splits train, val"):
        plan(both, 2, "test")


def test_shard_size_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="shard size 0"):
        plan(images(2), 0)


def test_a_shard_can_be_narrowed() -> None:
    shard = plan(images(5), 5)[0]
    assert [image.image_id for image in shard.only(frozenset({1, 4})).images] == [1, 4]


def test_a_million_images_are_planned_in_no_time() -> None:
    many = images(1).take(pa.array([0] * 1_000_000))
    begun = time.perf_counter()
    assert len(plan(many, 100)) == 10_000
    assert len(plan(many, 100)[9_999].images) == 100
    assert time.perf_counter() - begun < 2
