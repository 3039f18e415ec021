from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.spec import InputRule
from pipeline.errors import DatasetError
from pipeline.training.config import TrainConfig
from pipeline.training.data import TrainingData
from pipeline.training.job import prepare
from tests.training.conftest import IMAGES

Make = Callable[..., TrainConfig]


def opened(config: TrainConfig) -> TrainingData:
    return TrainingData(prepare(config), InputRule())


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_share_every_image_of_an_epoch_once(config: Make, workers: int) -> None:
    data = opened(config(batch_size=3))
    epochs = [list(data.epoch(0, rank, workers)) for rank in range(workers)]
    assert len({len(epoch) for epoch in epochs}) == 1
    assert sorted(i for epoch in epochs for batch in epoch for i in batch.image_ids) == list(range(1, IMAGES + 1))
    for batches in zip(*epochs, strict=True):
        assert sum(batch.weight for batch in batches) == pytest.approx(1)


def test_a_worker_without_an_image_of_its_own_computes_on_a_blank(config: Make) -> None:
    data = opened(config(batch_size=1))
    batches = [list(data.epoch(0, rank, 5)) for rank in range(5)]
    idle = [batch for epoch in batches for batch in epoch if not batch.image_ids]
    assert len(idle) == 4 * 5 - IMAGES
    assert {(batch.weight, len(batch.samples)) for batch in idle} == {(0.0, 2)}


def test_images_are_mirrored_in_some_epochs(config: Make) -> None:
    data = opened(config(batch_size=IMAGES))
    seen = [dict(zip(b.image_ids, b.samples, strict=True)) for e in range(6) for b in data.epoch(e, 0, 1)]
    variants = {tuple(epoch[3].target["boxes"][0].tolist()) for epoch in seen}
    assert len(variants) == 2


def test_what_fits_into_memory_is_decoded_once(config: Make, folder: Path) -> None:
    data = opened(config(dataset="fragile", flip=False))
    first = list(data.epoch(0, 0, 1))
    shutil.rmtree(folder)
    again = list(data.epoch(0, 0, 1))
    assert [b.image_ids for b in first] == [b.image_ids for b in again]
    assert torch.equal(first[0].samples[0].image, again[0].samples[0].image)


def test_what_does_not_fit_is_read_again(config: Make, folder: Path) -> None:
    data = opened(config(dataset="fragile", cache_mb=0))
    list(data.epoch(0, 0, 1))
    shutil.rmtree(folder)
    with pytest.raises(DatasetError, match=r"1 of 6 images cannot be read.*\(fetch\).*not found"):
        list(data.epoch(1, 0, 1))


def test_an_unreadable_image_is_left_out_and_noted(config: Make, folder: Path) -> None:
    damaged = folder / "000004.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    data = opened(config(dataset="fragile", batch_size=3, max_unreadable=0.2))
    batches = list(data.epoch(0, 0, 1))
    assert sorted(i for batch in batches for i in batch.image_ids) == [1, 2, 3, 5, 6]
    assert sorted(batch.weight for batch in batches) == pytest.approx([2 / 3, 1])
    assert data.unreadable[4].stage == "decode"


def test_too_many_unreadable_images_end_the_run(config: Make, folder: Path) -> None:
    for name in ("000001.png", "000002.png"):
        (folder / name).write_bytes(b"not an image")
    with pytest.raises(DatasetError, match=r"2 of 6 images cannot be read, more than the 20.0% of --max-unreadable"):
        list(opened(config(dataset="fragile", max_unreadable=0.2)).epoch(0, 0, 1))
