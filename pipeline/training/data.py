"""The batches of a worker: images through the same fetch and decode as prediction, targets from the dataset's tables."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from shardlens.models.spec import InputRule
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.images.decode import Decoded, Postponed, ensure_decoded
from shardlens.pipeline.images.fetch import Decoding, load
from shardlens.pipeline.images.shards import Failure, ImageRef, Plan
from shardlens.pipeline.training.augment.augmenter import Augmenter
from shardlens.pipeline.training.job import TrainJob
from shardlens.pipeline.training.order import cut, epoch_steps, slots_of
from shardlens.pipeline.training.samples import Sample, SampleMaker, blank
from shardlens.pipeline.training.truth import read, select, usable_images
from shardlens.pipeline.warehouse.datasets import Dataset

Found = Sequence[tuple[int, Sample | None]]
"""Image ids, each with its sample, or None where it cannot be read."""


@dataclass(frozen=True)
class Batch:
    """What a worker computes at once: the images of one slot of a step."""

    slot: int
    image_ids: tuple[int, ...]
    samples: tuple[Sample, ...]
    weight: float
    """Share of the whole step's images that these are; 0 where the worker has none and computes on a blank one."""

    def __len__(self) -> int:
        """Images to compute."""
        return len(self.samples)


@dataclass(frozen=True)
class Share:
    """A worker's share of a step: one batch or more."""

    batches: tuple[Batch, ...]
    images: int
    """Images of the whole step, all workers together."""

    @property
    def image_ids(self) -> tuple[int, ...]:
        """Of all its batches."""
        return tuple(i for batch in self.batches for i in batch.image_ids)

    @property
    def weight(self) -> float:
        """Share of the whole step's images that these are."""
        return sum(batch.weight for batch in self.batches)


class TrainingData:
    """The images of one worker's epochs, and what of them is kept in memory."""

    def __init__(self, job: TrainJob, rule: InputRule) -> None:
        dataset = Dataset.open(job.warehouse, job.config.dataset, job.dataset_version)
        images, self.known = usable_images(dataset.images, job.split, job.config.unannotated)
        self.job = job
        self.images: Sequence[ImageRef] = Plan(images, images.num_rows)[0].images
        self.truth = select(read(dataset), images, job.spec.task, dataset.categories)
        self.make = SampleMaker(job.spec.task, job.label_of, rule, job.config.border, job.stuff)
        self.augment = Augmenter(job.config, job.spec.task, job.config.seed, job.config.epochs)
        self.threads = max(1, int(job.config.executor.cpus_per_worker))
        self.decoding = Decoding(job.config.decode_policy)
        self.unreadable: dict[int, Failure] = {}
        self._kept: dict[int, Sample] = {}
        self._room = job.config.cache_mb << 20

    def shares(self, rank: int, workers: int, epoch: int = 0, begin: int = 0) -> Iterator[Share]:
        """Shares of worker `rank` from step `begin` of an epoch to the end of the last one."""
        for number in range(epoch, self.job.config.epochs):
            yield from self.epoch(number, rank, workers, begin if number == epoch else 0)

    def epoch(self, epoch: int, rank: int, workers: int, begin: int = 0) -> Iterator[Share]:
        """Shares of worker `rank` from step `begin` of the epoch on; every worker has equally many, one a step."""
        config = self.job.config
        steps = epoch_steps(len(self.images), config.global_batch, config.seed, epoch)[begin:]
        slots = slots_of(rank, workers, config.slots)
        parts = [[cut(step, config.slots)[slot] for slot in slots] for step in steps]
        samples = self.augmented([int(i) for own in parts for part in own for i in part], epoch)
        for step, own in zip(steps, parts, strict=True):
            found = [[next(samples) for _ in part] for part in own]
            yield self._share(list(zip(slots, found, strict=True)), len(step))

    def augmented(self, positions: Sequence[int], epoch: int) -> Iterator[tuple[int, Sample | None]]:
        """Image id and sample as an epoch changes it, in the order of `positions`; None for one that cannot be read.

        As many threads as the worker has CPUs change images, some images ahead of the consumer.
        """
        ids = [self.images[i].image_id for i in positions]
        others = [self.augment.others(epoch, image_id, len(self.images)) for image_id in ids]
        found = self._samples([i for own, mixed in zip(positions, others, strict=True) for i in (own, *mixed)])
        with ThreadPoolExecutor(self.threads, "augment") as pool:
            waiting: deque[tuple[int, Future[Sample] | None]] = deque()
            for image_id, mixed in zip(ids, others, strict=True):
                _, sample = next(found)
                usable = [other for _, other in (next(found) for _ in mixed) if other is not None]
                whole = usable if len(usable) == len(mixed) else []
                made = None if sample is None else pool.submit(self.augment, sample, whole, epoch, image_id)
                waiting.append((image_id, made))
                if len(waiting) > self.threads:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())

    def _samples(self, positions: Sequence[int]) -> Iterator[tuple[int, Sample | None]]:
        """Image id and sample in the order of `positions`; None for an image that cannot be read."""
        kept = self._kept.copy()
        wanted = [self.images[i] for i in positions]
        loaded = load([image for image in wanted if image.image_id not in kept], self.decoding, max(2, self.threads))
        for image in wanted:
            if image.image_id in kept:
                yield image.image_id, kept[image.image_id]
            else:
                yield image.image_id, self._take(*next(loaded))

    def _take(self, image: ImageRef, decoded: Decoded | Postponed | Failure) -> Sample | None:
        """Make a sample and keep it while there is room."""
        if isinstance(decoded, Failure):
            self._leave_out(decoded)
            return None
        sample = self.make(ensure_decoded(decoded), self.truth.of(image.image_id), image.image_id)
        if sample.bytes <= self._room and image.image_id not in self._kept:
            self._room -= sample.bytes
            self._kept[image.image_id] = sample
        return sample

    def _leave_out(self, failure: Failure) -> None:
        """Note an image that cannot be read.

        Raises:
            DatasetError: there are too many of them.
        """
        self.unreadable[failure.image_id] = failure
        found, images = len(self.unreadable) + self.known, len(self.images) + self.known
        if found > self.job.config.tolerated(images):
            raise DatasetError(
                f"{found} of {images} images cannot be read, more than the "
                f"{self.job.config.max_unreadable:.1%} of --max-unreadable; the last is image {failure.image_id} "
                f"({failure.stage}): {failure.message}; fix or remove them and ingest the dataset again, or raise "
                "--max-unreadable"
            )

    def _share(self, found: Sequence[tuple[int, Found]], images: int) -> Share:
        """The batches that hold an image; a blank one if none does, for every worker has to take part in a step."""
        batches = [self._batch(slot, part, images) for slot, part in found]
        held = tuple(batch for batch in batches if batch.image_ids)
        return Share(held or (Batch(found[0][0], (), (blank(self.job.spec.task),) * 2, 0.0),), images)

    def _batch(self, slot: int, found: Found, images: int) -> Batch:
        good = [(image_id, sample) for image_id, sample in found if sample is not None]
        return Batch(slot, tuple(i for i, _ in good), tuple(s for _, s in good), len(good) / images)


def _finished(image_id: int, made: Future[Sample] | None) -> tuple[int, Sample | None]:
    return image_id, None if made is None else made.result()
