"""How many bytes of a shard pass through the driver's Ray, counted where Ray packs what it sends and unpacks what comes."""

from __future__ import annotations

import pytest

from shardlens.pipeline.executors.base import Done, Executor
from shardlens.pipeline.inference.shard_work import ShardWork
from shardlens.pipeline.predict import PredictConfig, prepare
from tests.test_costs import IMAGES, config

__all__ = ["config"]

pytestmark = pytest.mark.ray


def test_only_descriptions_and_summaries_travel_through_ray(
    pool: Executor, config: PredictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private.serialization import SerializationContext

    sent: list[int] = []
    received: list[int] = []
    pack, unpack = SerializationContext.serialize, SerializationContext.deserialize_objects

    def packed(self, value):
        found = pack(self, value)
        sent.append(found.total_bytes)
        return found

    def unpacked(self, objects, *arguments):
        received.extend(len(data or b"") for data, *_ in objects)
        return unpack(self, objects, *arguments)

    monkeypatch.setattr(SerializationContext, "serialize", packed)
    monkeypatch.setattr(SerializationContext, "deserialize_objects", unpacked)
    job = prepare(config)
    outcomes = list(pool.map(job.stage, (ShardWork(shard) for shard in job.shards)))
    assert sum(outcome.value.images for outcome in outcomes if isinstance(outcome, Done)) == IMAGES
    assert sum(sent) < 2 * 2_200 + IMAGES * 160  # each worker is sent the stage
    assert sum(received) < len(outcomes) * 1_000
