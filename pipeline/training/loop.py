"""The training loop of one worker: plain torch, the same on a laptop and in a cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import models
from models.weights import load
from pipeline.errors import ConfigError, TrainingError
from pipeline.execution import Progress, ProgressListener, no_progress
from pipeline.fetch import Prefetch
from pipeline.predict import resolve_precision
from pipeline.predictor import PRECISIONS
from pipeline.training import objectives, optimizers
from pipeline.training.data import Batch, TrainingData
from pipeline.training.job import TrainJob, Worker, read_init
from pipeline.training.order import step_seed, steps_per_epoch
from pipeline.training.records import Step, Trained, epoch_losses, publish


@dataclass(frozen=True)
class LocalWorker:
    """The one worker of a run in this process."""

    device: str = "cpu"
    listener: ProgressListener = no_progress
    rank: int = 0
    world_size: int = 1

    def report(self, progress: Progress) -> None:
        """Tell the listener at once."""
        self.listener(progress)


def fit(job: TrainJob, worker: Worker) -> Trained:
    """Train as one of `worker.world_size` workers; the first one publishes the checkpoint.

    Raises:
        TrainingError: a loss or a gradient is not a finite number any more.
        DatasetError: too many images cannot be read, or their masks do not fit them.
        ShardlensError: see `pipeline.training.job.prepare`; also a store that stays down.
    """
    with _own_settings(job, worker):
        loop = Loop(job, worker)
        for epoch in range(job.config.epochs):
            loop.run_epoch(epoch)
        return loop.finish()


@contextmanager
def _own_settings(job: TrainJob, worker: Worker) -> Iterator[None]:
    """Threads and random numbers of this run, given back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(job.config.threads)
    try:
        device = torch.device(worker.device)
        with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
            torch.manual_seed(job.config.seed)
            yield
    finally:
        torch.set_num_threads(threads)


def build_network(job: TrainJob) -> nn.Module:
    """The network, its weights random by the seed or those of `init`.

    Raises:
        WeightsError: the weights of `init` do not fit.
    """
    network = models.build(job.config.model, len(job.labels), job.options)
    if job.config.init is not None:
        load(network, read_init(job.config.init), job.config.init)
    return network


class Loop:
    """Holds the network, its optimizer and what has been noted so far."""

    def __init__(self, job: TrainJob, worker: Worker) -> None:
        self.job, self.worker = job, worker
        self.device = open_device(worker.device)
        self.network = build_network(job).to(self.device).to(memory_format=torch.channels_last).train()
        self.rule = job.spec.input_rule(self.network)
        self.parallel = DistributedDataParallel(self.network) if worker.world_size > 1 else self.network
        self.data = TrainingData(job, self.rule)
        config = job.config
        self.optimizer = optimizers.build(config, self.network)
        self.precision = resolve_precision(config.precision, self.device.type)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.total = config.epochs * steps_per_epoch(job.images, config.batch_size * worker.world_size)
        self.steps: list[Step] = []
        self.losses: list[dict[str, float]] = []

    def run_epoch(self, epoch: int) -> None:
        """Take every step of an epoch, then sum what was noted over the workers."""
        ahead = Prefetch(self.data.epoch(epoch, self.worker.rank, self.worker.world_size))
        noted: list[Step] = []
        try:
            asked = time.perf_counter()
            for batch in ahead:
                waited = time.perf_counter() - asked
                step = self._step_or_explain(batch, epoch, len(self.steps) + len(noted))
                noted.append(replace(step, seconds=time.perf_counter() - asked, wait_seconds=waited))
                asked = time.perf_counter()
        finally:
            ahead.close()
        whole = sum_over_workers(noted, self.worker.world_size, self.device)
        self.steps += whole
        self.losses.append({"epoch": epoch + 1, **epoch_losses(whole)})

    def _step_or_explain(self, batch: Batch, epoch: int, number: int) -> Step:
        try:
            return self._step(batch, epoch, number)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"a batch of {len(batch.samples)} images does not fit the memory of {self.device} "
                f"({str(error).partition('. ')[0]}): lower --batch-size, or the size of the model's input"
            ) from None
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError(
                f"{self.job.config.model} takes statistics over the batch, and a worker's batch of {len(batch.samples)} is too "
                "small for that: raise --batch-size, or use fewer --workers"
            ) from None

    def _step(self, batch: Batch, epoch: int, number: int) -> Step:
        """One step: losses, gradients averaged over all images of all workers, and the update."""
        torch.manual_seed(step_seed(self.job.config.seed, number, self.worker.rank))
        learning_rate = self.job.config.learning_rate * optimizers.rate(number, self.total, self.job.config)
        optimizers.set_rate(self.optimizer, learning_rate)
        parts = self._losses(batch)
        found = {name: float(value.detach()) for name, value in parts.items()}
        step = Step(epoch + 1, number + 1, batch.images, found, learning_rate, 0.0, 0.0, 0.0)
        if not math.isfinite(step.loss):
            raise TrainingError(not_finite("loss", step, batch.image_ids))
        total = torch.stack(list(parts.values())).sum() * (batch.weight * self.worker.world_size)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        norm = self._update()
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise TrainingError(not_finite("gradient", step, batch.image_ids))
        self._report(step)
        return replace(step, gradient_norm=norm, parts={name: part * batch.weight for name, part in found.items()})

    def _losses(self, batch: Batch) -> objectives.Parts:
        images = [sample.image.to(self.device, non_blocking=True) for sample in batch.samples]
        targets = [{k: v.to(self.device, non_blocking=True) for k, v in s.target.items()} for s in batch.samples]
        dtype = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            if self.job.spec.task != "semantic":
                return objectives.detection(self.parallel, images, targets)
            loss = objectives.criterion(self.job.config, self.job.labels)
            return objectives.semantic(self.parallel, images, targets, self.rule, loss)

    def _update(self) -> float:
        """Apply the gradients and return their length; fp16's scaler skips steps that overflow, as it should."""
        self.scaler.unscale_(self.optimizer)
        norm = optimizers.gradient_norm(self.network.parameters(), self.job.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm

    def _report(self, step: Step) -> None:
        if self.worker.rank == 0:
            detail = f"epoch {step.epoch}/{self.job.config.epochs}, loss {step.loss:.3f}"
            self.worker.report(Progress("train", step.step, self.total, "steps", detail))

    def finish(self) -> Trained:
        """Publish, if this is the first worker, and sum up."""
        digest, size = publish(self.job, self.network, self.steps) if self.worker.rank == 0 else ("", 0)
        failures = {i: f"image {i} ({f.stage}): {f.message}" for i, f in self.data.unreadable.items()}
        unreadable = merge_over_workers(failures, self.worker.world_size)
        return Trained(
            digest,
            size,
            tuple(self.losses),
            len(self.steps),
            sum(step.seconds for step in self.steps),
            sum(step.wait_seconds for step in self.steps),
            tuple(unreadable[i] for i in sorted(unreadable)),
        )


def open_device(name: str) -> torch.device:
    """The device called `name`.

    Raises:
        ConfigError: it is a GPU and torch sees none.
    """
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--gpus-per-worker asks for a GPU, but torch sees none on the worker: set it to 0, or mend the driver"
        )
    return device


def not_finite(what: str, step: Step, image_ids: Sequence[int]) -> str:
    """Say what stopped the run, on which images, and what to try."""
    found = ", ".join(f"{name} {value:.4g}" for name, value in step.parts.items())
    ids = ", ".join(map(str, image_ids[:20])) + (f" and {len(image_ids) - 20} more" if len(image_ids) > 20 else "")
    return (
        f"the {what} is not a finite number any more at epoch {step.epoch}, step {step.step} ({found}), on the images "
        f"{ids or '(none)'}: look at their annotations, or lower --learning-rate (it was {step.learning_rate:.3g})"
    )


def sum_over_workers(steps: Sequence[Step], workers: int, device: torch.device) -> list[Step]:
    """Steps with the losses of all workers: each worker noted its own share. All of them must call this."""
    if workers == 1:
        return list(steps)
    names = list(steps[0].parts)
    sums: Tensor = torch.tensor([[step.parts[name] for name in names] for step in steps], dtype=torch.float64).to(
        device
    )
    dist.all_reduce(sums)
    found = sums.tolist()
    return [replace(step, parts=dict(zip(names, row, strict=True))) for step, row in zip(steps, found, strict=True)]


def merge_over_workers(found: dict[int, str], workers: int) -> dict[int, str]:
    """What all workers found. All of them must call this."""
    if workers == 1:
        return found
    parts: list[dict[int, str]] = [{} for _ in range(workers)]
    dist.all_gather_object(parts, found)
    return {key: text for part in parts for key, text in part.items()}
