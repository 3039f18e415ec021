from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shardlens.models.spec import InputRule
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.data import TrainingData
from shardlens.pipeline.training.prepare import prepare
from tests.training.conftest import IMAGES

Make = Callable[..., TrainConfig]


def up_to(workers: int) -> ExecutorConfig:
    return ExecutorConfig(kind="ray", workers=f"1:{workers}")


def opened(config: TrainConfig) -> TrainingData:
    return TrainingData(prepare(config), InputRule())


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_share_every_image_of_an_epoch_once(config: Make, workers: int) -> None:
    data = opened(config(batch_size=3, executor=up_to(3)))
    epochs = [list(data.epoch(0, rank, workers)) for rank in range(workers)]
    assert len({len(epoch) for epoch in epochs}) == 1
    assert sorted(i for epoch in epochs for share in epoch for i in share.image_ids) == list(range(1, IMAGES + 1))
    for shares in zip(*epochs, strict=True):
        assert sum(batch.weight for share in shares for batch in share.batches) == pytest.approx(1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_fewer_workers_compute_the_same_batches(config: Make, accumulate: int) -> None:
    data = opened(config(batch_size=2, accumulate=accumulate, executor=up_to(3)))
    found = [
        [[(b.slot, b.image_ids) for share in shares for b in share.batches] for shares in zip(*epochs, strict=True)]
        for workers in (1, 2, 3)
        for epochs in [[list(data.epoch(0, rank, workers)) for rank in range(workers)]]
    ]
    assert found[0] == found[1] == found[2]
    assert max(len(ids) for step in found[0] for _, ids in step) <= 2


@pytest.mark.parametrize("begin", [0, 2, 5])
def test_an_epoch_goes_on_where_it_was_left(config: Make, begin: int) -> None:
    data = opened(config(batch_size=3))
    whole = [share.image_ids for share in data.epoch(1, 0, 1)]
    assert [share.image_ids for share in data.epoch(1, 0, 1, begin)] == whole[begin:]


def test_epochs_follow_each_other_from_where_the_first_was_left(config: Make) -> None:
    data = opened(config(batch_size=3, epochs=3))
    whole = [share.image_ids for epoch in (1, 2) for share in data.epoch(epoch, 0, 1)]
    assert [share.image_ids for share in data.shares(0, 1, epoch=1, begin=4)] == whole[4:]


def test_any_number_of_threads_changes_images_alike(config: Make) -> None:
    changes = {"mosaic": 0.5, "scale": 0.5, "brightness": 0.5, "translate": 0.2}
    found = [
        [
            sample
            for share in opened(config(executor=ExecutorConfig(cpus_per_worker=cpus), **changes)).shares(0, 1)
            for batch in share.batches
            for sample in batch.samples
        ]
        for cpus in (1, 5)
    ]
    assert len(found[0]) == IMAGES
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.target["boxes"], other.target["boxes"])


def test_a_worker_without_an_image_of_its_own_computes_on_a_blank(config: Make) -> None:
    data = opened(config(batch_size=1, executor=up_to(5)))
    shares = [list(data.epoch(0, rank, 5)) for rank in range(5)]
    idle = [share.batches[0] for epoch in shares for share in epoch if not share.image_ids]
    assert len(idle) == 4 * 5 - IMAGES
    assert {(batch.weight, len(batch.samples)) for batch in idle} == {(0.0, 2)}


def test_images_are_mirrored_in_some_epochs(config: Make) -> None:
    data = opened(config(batch_size=IMAGES))
    seen = [
        dict(zip(b.image_ids, b.samples, strict=True))
        for e in range(16)
        for s in data.epoch(e, 0, 1)
        for b in s.batches
    ]
    variants = {tuple(epoch[3].target["boxes"][0].tolist()) for epoch in seen}
    assert len(variants) == 2


def test_what_fits_into_memory_is_decoded_once(config: Make, folder: Path) -> None:
    data = opened(config(dataset="fragile", flip=False))
    first = list(data.epoch(0, 0, 1))
    shutil.rmtree(folder)
    again = list(data.epoch(0, 0, 1))
    assert [b.image_ids for b in first] == [b.image_ids for b in again]
    assert torch.equal(first[0].batches[0].samples[0].image, again[0].batches[0].samples[0].image)


def test_what_does_not_fit_is_read_again(config: Make, folder: Path) -> None:
    data = opened(config(dataset="fragile", cache_mb=0))
    list(data.epoch(0, 0, 1))
    shutil.rmtree(folder)
    with pytest.raises(DatasetError, match=r"2 of 6 images cannot be read.*\(fetch\).*not found"):
        list(data.epoch(1, 0, 1))


def test_an_unreadable_image_is_left_out_and_noted(config: Make, folder: Path) -> None:
    damaged = folder / "000004.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    data = opened(config(dataset="fragile", batch_size=3, max_unreadable=0.2))
    batches = [batch for share in data.epoch(0, 0, 1) for batch in share.batches]
    assert sorted(i for batch in batches for i in batch.image_ids) == [1, 2, 3, 5, 6]
    assert sorted(batch.weight for batch in batches) == pytest.approx([2 / 3, 1])
    assert data.unreadable[4].stage == "decode"


def test_too_many_unreadable_images_end_the_run(config: Make, folder: Path) -> None:
    for name in ("000001.png", "000002.png"):
        (folder / name).write_bytes(b"not an image")
    with pytest.raises(
        DatasetError, match=r"2 of 6 images cannot be read, more than the 20.0% of --max-unreadable.*fix or remove them"
    ):
        list(opened(config(dataset="fragile", max_unreadable=0.2)).epoch(0, 0, 1))
