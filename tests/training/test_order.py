from __future__ import annotations

import numpy as np
import pytest

from shardlens.pipeline.training.order import cut, epoch_steps, slots_of, smallest_slot, step_seed, steps_per_epoch

CASES = [(16, 4, 1), (17, 4, 2), (205, 8, 2), (5, 4, 4), (3, 8, 1), (7, 1, 3), (1, 1, 1)]


@pytest.mark.parametrize(("images", "batch", "workers"), CASES)
def test_an_epoch_sees_every_image_once(images: int, batch: int, workers: int) -> None:
    steps = epoch_steps(images, batch * workers, seed=0, epoch=3)
    parts = [part for step in steps for part in cut(step, workers)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(images))


@pytest.mark.parametrize(("images", "batch", "workers"), CASES)
def test_no_batch_is_too_large_and_none_is_a_small_rest(images: int, batch: int, workers: int) -> None:
    steps = epoch_steps(images, batch * workers, seed=0, epoch=0)
    sizes = [len(step) for step in steps]
    assert len(steps) == steps_per_epoch(images, batch * workers)
    assert max(sizes) - min(sizes) <= 1
    assert max(len(part) for step in steps for part in cut(step, workers)) <= batch


def test_the_order_is_of_seed_and_epoch_alone() -> None:
    once = np.concatenate(epoch_steps(50, 8, seed=1, epoch=2))
    assert np.array_equal(once, np.concatenate(epoch_steps(50, 4, seed=1, epoch=2)))
    assert not np.array_equal(once, np.concatenate(epoch_steps(50, 8, seed=1, epoch=3)))
    assert not np.array_equal(once, np.concatenate(epoch_steps(50, 8, seed=2, epoch=2)))


@pytest.mark.parametrize(("workers", "slots"), [(1, 1), (1, 3), (2, 3), (3, 3), (2, 8), (3, 8)])
def test_workers_share_the_slots_out(workers: int, slots: int) -> None:
    shares = [slots_of(rank, workers, slots) for rank in range(workers)]
    assert [slot for share in shares for slot in share] == list(range(slots))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_seeds_of_steps_differ() -> None:
    assert len({step_seed(seed, step, rank) for seed in (0, 1) for step in range(5) for rank in range(3)}) == 30


@pytest.mark.parametrize(("images", "batch", "slots"), [(16, 15, 5), (16, 8, 1), (5, 4, 4), (100, 12, 3), (9, 8, 2)])
def test_the_smallest_slot_is_known_beforehand(images: int, batch: int, slots: int) -> None:
    sizes = {len(slot) for step in epoch_steps(images, batch, 0, 0) for slot in cut(step, slots)} - {0}
    assert smallest_slot(images, batch, slots) == min(sizes)
