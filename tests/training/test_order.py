from __future__ import annotations

import numpy as np
import pytest

from pipeline.training.order import epoch_steps, mirrored, share, step_seed, steps_per_epoch

CASES = [(16, 4, 1), (17, 4, 2), (205, 8, 2), (5, 4, 4), (3, 8, 1), (7, 1, 3), (1, 1, 1)]


@pytest.mark.parametrize(("images", "batch", "workers"), CASES)
def test_an_epoch_sees_every_image_once(images: int, batch: int, workers: int) -> None:
    steps = epoch_steps(images, batch * workers, seed=0, epoch=3)
    parts = [share(step, rank, workers) for step in steps for rank in range(workers)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(images))


@pytest.mark.parametrize(("images", "batch", "workers"), CASES)
def test_no_batch_is_too_large_and_none_is_a_small_rest(images: int, batch: int, workers: int) -> None:
    steps = epoch_steps(images, batch * workers, seed=0, epoch=0)
    sizes = [len(step) for step in steps]
    assert len(steps) == steps_per_epoch(images, batch * workers)
    assert max(sizes) - min(sizes) <= 1
    assert max(len(share(step, rank, workers)) for step in steps for rank in range(workers)) <= batch


def test_the_order_is_of_seed_and_epoch_alone() -> None:
    once = np.concatenate(epoch_steps(50, 8, seed=1, epoch=2))
    assert np.array_equal(once, np.concatenate(epoch_steps(50, 4, seed=1, epoch=2)))
    assert not np.array_equal(once, np.concatenate(epoch_steps(50, 8, seed=1, epoch=3)))
    assert not np.array_equal(once, np.concatenate(epoch_steps(50, 8, seed=2, epoch=2)))


def test_workers_split_the_step_of_one_worker() -> None:
    (one, *_), (two, *_) = epoch_steps(20, 8, 0, 0), epoch_steps(20, 4 * 2, 0, 0)
    assert np.array_equal(one, np.concatenate([share(two, 0, 2), share(two, 1, 2)]))


def test_half_of_the_images_are_mirrored() -> None:
    seen = [mirrored(0, epoch, image) for epoch in range(10) for image in range(-5, 95)]
    assert 0.45 < np.mean(seen) < 0.55
    assert mirrored(0, 1, 7) == mirrored(0, 1, 7)


def test_seeds_of_steps_differ() -> None:
    assert len({step_seed(seed, step, rank) for seed in (0, 1) for step in range(5) for rank in range(3)}) == 30
