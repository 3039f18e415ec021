"""Networks that are fitted without gradients: one pass over the images, and a solution in closed form."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Protocol, cast

from torch import Tensor

from shardlens.models.inputs import scaled
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.executors.base import Progress
from shardlens.pipeline.images.prefetch import Prefetch
from shardlens.pipeline.networks.devices import open_device
from shardlens.pipeline.networks.weights import save
from shardlens.pipeline.training import state
from shardlens.pipeline.training.data import TrainingData
from shardlens.pipeline.training.job import TrainJob, Worker
from shardlens.pipeline.training.order import steps_per_epoch
from shardlens.pipeline.training.records import Step, Trained, identity, losses_by_epoch, publish, steps_table
from shardlens.pipeline.training.samples import Sample
from shardlens.pipeline.training.stepper import build_network

Images = list[Tensor]
"""(3, H, W) float in [0, 1] each, of any sizes."""
Targets = list[dict[str, Tensor]]
"""For each image boxes (N, 4) xyxy float32, labels (N,) int64."""


class FitsAtOnce(Protocol):
    """What a network whose spec says `fits_at_once` can do."""

    def fit_batches(self, batches: Iterable[tuple[Images, Targets]]) -> dict[str, float]:
        """Learn from one pass over the batches, and give the losses that are left, whose sum is `loss` in the tables."""
        ...


def fit_at_once(job: TrainJob, worker: Worker) -> Trained:
    """Fit a network by its own `fit_batches` and publish it; the pass counts as one step.

    Raises:
        ConfigError: there are several workers, which could not share the examples.
        DatasetError: too many images cannot be read.
    """
    if worker.world_size > 1:
        raise ConfigError(
            f"{job.config.model} is fitted by one worker; {worker.world_size} were asked for: --workers 1"
        )
    device = open_device(worker.device)
    network, initialized = build_network(job)
    network = network.to(device).train()
    data = TrainingData(job, job.input_rule(network))
    begun = time.perf_counter()
    watched = _Batches(job, worker, data)
    found = cast(FitsAtOnce, network).fit_batches(watched)
    step = Step(1, 1, job.images, found, 0.0, 0.0, time.perf_counter() - begun, watched.waited)
    weights, table = save(network, identity(job)), steps_table(job, [step])
    publish(job, weights, table)
    return Trained(
        sha256=state.digest(weights),
        bytes=len(weights),
        losses=tuple(losses_by_epoch(table)),
        steps=1,
        seconds=step.seconds,
        wait_seconds=step.wait_seconds,
        unreadable=tuple(f"image {i} ({f.stage}): {f.message}" for i, f in sorted(data.unreadable.items())),
        initialized=str(initialized or ""),
    )


class _Batches:
    """The batches of the first epoch on the worker's device; it tells of each, and counts the seconds of waiting."""

    def __init__(self, job: TrainJob, worker: Worker, data: TrainingData) -> None:
        self.job, self.worker, self.data = job, worker, data
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[Images, Targets]]:
        total = steps_per_epoch(self.job.images, self.job.config.global_batch)
        ahead = Prefetch(self.data.epoch(0, self.worker.rank, self.worker.world_size))
        try:
            asked = time.perf_counter()
            for number, share in enumerate(ahead, start=1):
                self.waited += time.perf_counter() - asked
                yield self._on_device([s for batch in share.batches if batch.image_ids for s in batch.samples])
                self.worker.report(Progress("train", number, total, "batches"))
                asked = time.perf_counter()
        finally:
            ahead.close()

    def _on_device(self, samples: list[Sample]) -> tuple[Images, Targets]:
        device = self.worker.device
        images = [scaled(sample.image.to(device)) for sample in samples]
        return images, [{key: value.to(device) for key, value in sample.target.items()} for sample in samples]
