"""Which images make up each step: a function of seed, epoch and global batch alone, whatever the number of workers.

An epoch of N images and a global batch of B (all workers together) has ceil(N / B) steps. Its images are spread over
them as evenly as whole numbers allow, so there is no small last step, and every image is seen exactly once. The images
of a step are in turn spread over its slots: batches that are computed one by one, each with statistics and random
numbers of its own. The slots are shared out to the workers, so that fewer workers compute the same, only longer; where
a step has fewer images than slots, some slots are empty.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


def steps_per_epoch(images: int, global_batch: int) -> int:
    """Steps in which `images` are seen once, at most `global_batch` at a time."""
    return -(-images // global_batch)


def epoch_steps(images: int, global_batch: int, seed: int, epoch: int) -> list[Numbers]:
    """Positions 0 .. images - 1 in the order of this epoch, cut into its steps."""
    order = np.random.default_rng([seed, epoch]).permutation(images).astype(np.int64)
    return list(np.array_split(order, steps_per_epoch(images, global_batch)))


def slots_of(rank: int, workers: int, slots: int) -> range:
    """The slots of each step that worker `rank` of `workers` computes; their numbers differ by one at most."""
    first, rest = divmod(slots, workers)
    begin = rank * first + min(rank, rest)
    return range(begin, begin + first + (rank < rest))


def cut(step: Numbers, slots: int) -> list[Numbers]:
    """The images of a step, slot by slot; sizes differ by one at most."""
    return list(np.array_split(step, slots))


def smallest_slot(images: int, global_batch: int, slots: int) -> int:
    """Images of the smallest slot of any epoch that holds one at all."""
    return max(1, images // steps_per_epoch(images, global_batch) // slots)


def step_seed(seed: int, step: int, slot: int) -> int:
    """Seed of everything random inside the network at a step, so that no generator's state has to be carried along."""
    return int(np.random.SeedSequence([seed, step, slot]).generate_state(1, np.uint64)[0])
