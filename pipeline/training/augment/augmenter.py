"""The random changes of an image in an epoch: a function of seed, epoch and image alone.

::

    mosaic or copy-paste ──▶ mirror ──▶ turn, zoom, shift ──▶ elastic ──▶ input scale ──▶ crop ──▶ color

Neither the number of workers, nor the order of the images, nor where a run was resumed can change them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from shardlens.models.spec import Task
from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.training.augment.color import jittered
from shardlens.pipeline.training.augment.config import Augmentation
from shardlens.pipeline.training.augment.geometry import cropped, deformed, rescaled, shifted
from shardlens.pipeline.training.augment.mixing import copy_paste, mosaic
from shardlens.pipeline.training.augment.scene import Scene, mirrored
from shardlens.pipeline.training.samples import Sample

MIXING, CHANGING = 0, 1
"""Streams of random numbers: which other images are taken, and everything else."""


class Augmenter:
    """Which changes are made, for one task."""

    def __init__(self, config: Augmentation, task: Task, seed: int, epochs: int) -> None:
        learns = MODEL_TASKS[task]
        for name, good in (("elastic", learns.masks), ("copy_paste", learns.object_masks and not learns.stuff)):
            if getattr(config, name) and not good:
                raise ConfigError(
                    f"{name} is {getattr(config, name)}: expected 0, for {task} models learn no such masks"
                )
        self.config, self.task, self.seed = config, task, seed
        self.mixed_epochs = epochs - config.plain_epochs

    def others(self, epoch: int, image_id: int, images: int) -> list[int]:
        """Positions, of 0 .. images - 1, of the other images that this one is mixed with: three, one or none."""
        if epoch >= self.mixed_epochs or not (self.config.mosaic or self.config.copy_paste):
            return []
        rng = self._random(epoch, image_id, MIXING)
        kind, positions = rng.random(), rng.integers(0, images, 3).tolist()
        if kind < self.config.mosaic:
            return list(positions)
        return list(positions[:1]) if kind < self.config.mosaic + self.config.copy_paste else []

    def __call__(self, sample: Sample, others: Sequence[Sample], epoch: int, image_id: int) -> Sample:
        """The image in this epoch; `others` are those that `others` names, or none if one cannot be read."""
        rng, config = self._random(epoch, image_id, CHANGING), self.config
        if len(others) == 3:
            sample = mosaic([sample, *others], rng, config.min_visible)
        elif others:
            sample = copy_paste(sample, others[0], rng, config.min_visible)
        sideways, upside_down = rng.random(2) < 0.5
        sample = mirrored(sample) if config.flip and sideways else sample
        sample = mirrored(sample, vertically=True) if config.flip_vertical and upside_down else sample
        sample = self._moved(sample, rng)
        return Sample(jittered(sample.image, config, rng), sample.target)

    def _moved(self, sample: Sample, rng: Generator) -> Sample:
        config = self.config
        resized = config.multi_scale and not MODEL_TASKS[self.task].objects  # the others resize by themselves
        if not (config.rotate or config.scale or config.translate or config.elastic or config.crop or resized):
            return sample
        scene = deformed(shifted(Scene.of(sample), config, rng), config, rng)
        scene = rescaled(scene, config, rng) if resized else scene
        return cropped(scene, config, rng).settled(config.min_visible)

    def _random(self, epoch: int, image_id: int, stream: int) -> Generator:
        return np.random.default_rng([self.seed, epoch, abs(image_id), image_id < 0, stream])
