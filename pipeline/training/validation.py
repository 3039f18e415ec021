"""Validation: a split predicted by the predictor's own code and scored by the evaluation's, spread over the workers.

The split is cut into shards, which are dealt out to the workers; each shard's batches depend on the shard alone, and its
partial merges with the others to the bit. So any number of workers gives the same figures, each image counts once, and
no random transform is ever seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from shardlens.models.box_masks import keep_box_masks
from shardlens.models.spec import InputRule
from shardlens.pipeline.errors import ConfigError, DatasetError, TrainingError
from shardlens.pipeline.executors.base import Progress, ProgressListener, no_progress
from shardlens.pipeline.images.batches import Batch, batches
from shardlens.pipeline.images.fetch import Decoding, load
from shardlens.pipeline.images.prefetch import Prefetch
from shardlens.pipeline.images.shards import Failure, plan
from shardlens.pipeline.inference.forward import Forward
from shardlens.pipeline.inference.rows import ImageRows, predictions_table
from shardlens.pipeline.metrics import partials
from shardlens.pipeline.metrics.stage import EvaluateStage
from shardlens.pipeline.metrics.tasks import SCORED_BY, merge, scorable
from shardlens.pipeline.metrics.truth_by_shard import split_truth
from shardlens.pipeline.networks.devices import is_out_of_memory
from shardlens.pipeline.networks.labels import match
from shardlens.pipeline.training.failures import what_was_asked
from shardlens.pipeline.training.job import TrainJob
from shardlens.pipeline.warehouse.datasets import Dataset, annotated

SHARDS, LARGEST = 16, 64
"""A split has so many shards at least, so that workers end together, and a shard so many images at most."""


@dataclass(frozen=True)
class Scored:
    """What a worker found in a shard; small, it travels to all the others."""

    partials: bytes
    unreadable: tuple[Failure, ...]
    not_finite: tuple[int, ...]
    """Images of the batches whose predictions are no finite numbers."""


class Validator:
    """Holds the split's image references and truth; called by all workers together."""

    def __init__(
        self,
        job: TrainJob,
        rule: InputRule,
        device: torch.device,
        precision: str,
        progress: ProgressListener = no_progress,
    ) -> None:
        dataset = Dataset.open(job.warehouse, job.config.dataset, job.dataset_version)
        categories = dataset.categories.sort_by("category_id")
        self.job, self.rule, self.device, self.precision, self.progress = job, rule, device, precision, progress
        self.decoding = Decoding(job.config.decode_policy)
        self.labels = match(job.labels, dataset.categories)
        images = dataset.images if job.config.unannotated else annotated(dataset.images)
        self.shards = plan(images, LARGEST, job.val_split)
        self.images = self.shards.images.num_rows
        size = min(LARGEST, max(job.config.batch_size, self.images // SHARDS))
        self.shards = plan(images, size, job.val_split)
        ids = [np.array([image.image_id for image in shard.images], dtype=np.int64) for shard in self.shards]
        self.truth = split_truth(ids, dataset.images, dataset.annotations, categories["category_id"].to_numpy())
        self.stage = EvaluateStage(scorable(SCORED_BY[job.spec.task], self.truth.annotations))
        self.named = list(zip(*(categories[key].to_pylist() for key in ("category_id", "name")), strict=True))
        self.rows: tuple[dict[str, Any], ...] = ()
        """Rows of `tables.METRICS` of the last validation, run, dataset, epoch and step left to the caller."""

    def __call__(self, network: nn.Module, rank: int = 0, world_size: int = 1) -> dict[str, float]:
        """Score `network` on the split; every worker gets the same figures, and its own network and random state back.

        Returns:
            Means over the categories by name (`AP`, `AP50`, ..., or `Dice`, `IoU`, ...), undefined ones left out. Of an
            instance model AP is that of its masks, its boxes' is `bbox/AP`.

        Raises:
            TrainingError: predictions are no finite numbers.
            DatasetError: more images than allowed cannot be read.
            ConfigError: a batch does not fit the memory.
        """
        with evaluating(network, self.device):
            mine = dict(self._scored(network, range(rank, len(self.shards), world_size), world_size))
        found = gathered(mine, world_size)
        self._check(list(found.values()))
        if rank == 0:
            self.progress(Progress("validate", self.images, self.images))
        parts = [partials.unpack(found[index].partials) for index in range(len(self.shards))]
        scores = [merge(task, parts, len(self.named), self.stage.rules) for task in self.stage.tasks]
        self.rows = tuple(row for score in scores for row in score.rows(self.named))
        return figures(self.rows, self.stage.tasks[-1])

    def decode(self, rank: int = 0, world_size: int = 1) -> None:
        """Decode every image of the split, each worker its share, so that a damaged one stops the run before its first step.

        Raises:
            DatasetError: more images than allowed cannot be read.
        """
        failures: list[Failure] = []
        for index, item in self._batches(range(rank, len(self.shards), world_size)):
            if isinstance(item, Failure):
                failures.append(item)
            elif rank == 0:
                self._report("decode", index, world_size)
        if rank == 0:
            self.progress(Progress("decode", self.images, self.images))
        self._check_readable(failures_of_workers(failures, world_size))

    def _scored(self, network: nn.Module, mine: range, world_size: int) -> Iterator[tuple[int, Scored]]:
        """Predict and match this worker's shards, the next one's images fetched and decoded meanwhile."""
        forward = Forward(
            model=network,
            task=self.job.spec.task,
            rule=self.rule,
            device=self.device,
            precision=self.precision,
            background=self.job.spec.background,
        )
        ahead = Prefetch(self._batches(mine))
        try:
            for index, group in groupby(ahead, key=itemgetter(0)):
                yield index, self._shard(index, (item for _, item in group), forward)
                if mine.start == 0:
                    self._report("validate", index, world_size)
        finally:
            ahead.close()

    def _report(self, stage: str, index: int, world_size: int) -> None:
        """Report the shards that all workers have done when the first one has done shard `index`."""
        done = sum(len(scope.image_ids) for scope in self.truth.scopes[: index + world_size])
        if done < self.images:
            self.progress(Progress(stage, done, self.images))

    def _batches(self, mine: Iterable[int]) -> Iterator[tuple[int, Batch | Failure]]:
        for index in mine:
            images = load(self.shards[index].images, self.decoding)
            for item in batches(images, self.rule, self.job.config.batch_size):
                yield index, item

    def _shard(self, index: int, items: Iterable[Batch | Failure], forward: Forward) -> Scored:
        rows: dict[int, ImageRows] = {}
        unreadable: list[Failure] = []
        not_finite: list[int] = []
        for item in items:
            if isinstance(item, Failure):
                unreadable.append(item)
                continue
            ids = [image.image_id for image in item.images]
            try:
                rows.update(zip(ids, self._predict(item, forward), strict=True))
            except FloatingPointError:
                not_finite += ids
        found = predictions_table(rows, self.labels)
        begin, end = self.truth.cuts[index : index + 2].tolist()
        truth = self.truth.annotations.slice(begin, end - begin)
        return Scored(self.stage.packed(self.truth.scopes[index], truth, found), tuple(unreadable), tuple(not_finite))

    def _predict(self, batch: Batch, forward: Forward) -> list[ImageRows]:
        try:
            return forward(batch.decoded)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            height, width = batch.shape
            raise ConfigError(
                f"validation: {len(batch.images)} images of {width}x{height} pixels do not fit the memory of {self.device} "
                f"({what_was_asked(str(error))}): lower --batch-size, or the size of the model's input"
            ) from None

    def _check(self, found: list[Scored]) -> None:
        """Refuse figures that would mean nothing; on every worker alike, since all of them know all shards."""
        wrong = [image_id for shard in found for image_id in shard.not_finite]
        if wrong:
            raise TrainingError(
                f"the network's predictions are no finite numbers any more, on the validation images {listed(wrong)}: lower "
                "--learning-rate, or use --precision fp32"
            )
        failures = [failure for shard in found for failure in shard.unreadable]
        self._check_readable(failures)

    def _check_readable(self, failures: Sequence[Failure]) -> None:
        if len(failures) > self.job.config.tolerated(self.images):
            last = failures[-1]
            raise DatasetError(
                f"{len(failures)} of the {self.images} images to validate on cannot be read, more than the "
                f"{self.job.config.max_unreadable:.1%} of --max-unreadable; the last is image {last.image_id} "
                f"({last.stage}): {last.message}; fix or remove them and ingest the dataset again, raise --max-unreadable, or "
                "name another split with --val-split"
            )


@contextmanager
def evaluating(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Put `network` into evaluation mode without gradients; afterwards each module and each generator is as before."""
    keep_box_masks(network)
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.no_grad(), torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def gathered(mine: dict[int, Scored], world_size: int) -> dict[int, Scored]:
    """The shards of all workers. All of them must call this."""
    if world_size == 1:
        return mine
    parts: list[dict[int, Scored]] = [{} for _ in range(world_size)]
    dist.all_gather_object(parts, mine)
    return {index: scored for part in parts for index, scored in part.items()}


def failures_of_workers(mine: Sequence[Failure], world_size: int) -> list[Failure]:
    """The failures of all workers. All of them must call this."""
    if world_size == 1:
        return list(mine)
    parts: list[list[Failure]] = [[] for _ in range(world_size)]
    dist.all_gather_object(parts, list(mine))
    return [failure for part in parts for failure in part]


def figures(rows: Iterable[dict[str, Any]], own_task: str) -> dict[str, float]:
    """The defined means over the categories by name; those of another task than the model's own as `task/name`."""
    means = [row for row in rows if row.get("category_id") is None and row["value"] is not None]
    return {
        row["metric"] if row["task"] == own_task else f"{row['task']}/{row['metric']}": row["value"] for row in means
    }


def listed(image_ids: list[int], most: int = 20) -> str:
    """The first ids, and how many more there are."""
    more = f" and {len(image_ids) - most} more" if len(image_ids) > most else ""
    return ", ".join(map(str, image_ids[:most])) + more
