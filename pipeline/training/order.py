"""Which images make up each step: a function of seed, epoch and global batch alone, whatever the number of workers.

An epoch of N images and a global batch of B (all workers together) has ceil(N / B) steps. Its images are spread over
them as evenly as whole numbers allow, so there is no small last step, and every image is seen exactly once. The images
of a step are in turn spread over the workers; where a step has fewer images than there are workers, some have none.
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


def share(step: Numbers, rank: int, workers: int) -> Numbers:
    """The part of a step that worker `rank` of `workers` computes; sizes differ by one at most."""
    part: Numbers = np.array_split(step, workers)[rank]
    return part


def mirrored(seed: int, epoch: int, image_id: int) -> bool:
    """Whether an image is mirrored in this epoch."""
    return bool(np.random.default_rng([seed, epoch, abs(image_id)]).integers(2))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of everything random inside the network at a step, so that no generator's state has to be carried along."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
