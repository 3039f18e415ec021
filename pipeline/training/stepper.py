"""A step of training: the losses of a worker's batches, gradients averaged over all workers, and the update."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shardlens import models
from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline.networks.devices import is_out_of_memory, open_device
from shardlens.pipeline.networks.precision import autocast
from shardlens.pipeline.networks.weights import load
from shardlens.pipeline.training import failures, objectives, optimizers
from shardlens.pipeline.training.augment.input_scale import at_largest, vary_input
from shardlens.pipeline.training.data import Batch, Share
from shardlens.pipeline.training.ema import Ema
from shardlens.pipeline.training.exchange import ids_of_workers
from shardlens.pipeline.training.job import TrainJob, Worker
from shardlens.pipeline.training.order import step_seed, steps_per_epoch
from shardlens.pipeline.training.records import Step
from shardlens.pipeline.training.samples import Sample
from shardlens.pipeline.training.transfer import Initialized, Transfer, initialize, read_init

SMALLEST_SCALE = 1.0
"""Gradients that overflow without fp16's loss scaling do so for another reason; other precisions are never scaled."""


def build_network(job: TrainJob) -> tuple[nn.Module, Initialized | None]:
    """The network, its weights random by the seed or, as far as they fit, those of `init`; and what fitted.

    Raises:
        WeightsError: nothing of `init` fits.
    """
    network = models.build(job.config.model, len(job.labels), job.options)
    if job.config.init is None:
        return network, None
    return network, initialize(network, read_init(job.config.init), job.config.init)


def init_report(job: TrainJob) -> list[str]:
    """What of the weights to start from fits, as a note; the network is built where a setting needs a look at it.

    Raises:
        WeightsError: nothing does.
        ConfigError: the network has no backbone, or no choice of input sizes, and something is asked of it.
    """
    config = job.config
    if config.init is None and config.backbone_factor == 1 and not config.multi_scale:
        return []
    with torch.random.fork_rng([]):
        network, initialized = build_network(job)
    if not job.spec.fits_at_once:  # its backbone stays as it is anyway
        Transfer(network, config, initialized).begin(0)
    vary_input(network, config, job.spec.task)
    return [str(initialized)] if initialized else []


def laid_out(network: nn.Module, channels_last: bool) -> nn.Module:
    """The network with its convolutions' weights as NHWC in memory, if that is wanted."""
    return network.to(memory_format=torch.channels_last) if channels_last else network


class Stepper:
    """Holds the network and whatever the steps change."""

    def __init__(self, job: TrainJob, worker: Worker) -> None:
        self.job, self.worker = job, worker
        self.device = open_device(worker.device)
        network, self.initialized = build_network(job)
        self.network = laid_out(network, job.config.channels_last).to(self.device).train()
        self.transfer = Transfer(self.network, job.config, self.initialized)
        self.rule = job.input_rule(self.network)
        vary_input(self.network, job.config, job.spec.task)
        self.criterion = objectives.criterion(job.config, job.labels)
        self.parallel: DistributedDataParallel | None = None
        config = job.config
        self.optimizer = optimizers.build(config, self.network, self.transfer.backbone)
        self.ema = Ema(self.network, config.ema) if config.ema else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=job.precision == "fp16")
        self.total = config.epochs * steps_per_epoch(job.images, config.global_batch)

    def begin(self, epoch: int) -> None:
        """Freeze and thaw what `epoch` (0, 1, ...) wants so; before its first step, and before the first of a resumed run."""
        changed = self.transfer.begin(epoch)
        if self.worker.world_size > 1 and (changed or self.parallel is None):
            # Buckets that are laid out anew after the first step, as they are by default, would add three workers'
            # gradients up in another order in a run that was resumed.
            self.parallel = DistributedDataParallel(self.network, find_unused_parameters=True)

    def step(self, share: Share, epoch: int, number: int) -> Step:
        """Take step `number` (0, 1, ... over all epochs); the parts of its losses are those of this worker's share.

        Raises:
            TrainingError: a loss or a gradient is not a finite number.
            ConfigError: a batch is too large for the memory, or too small for the network.
        """
        try:
            return self._step(share, epoch, number)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error)  # the error itself would keep what the batch has taken of the memory
        raise failures.out_of_memory(reason, max(share.batches, key=len), self.device, self._fits)

    def _step(self, share: Share, epoch: int, number: int) -> Step:
        config = self.job.config
        learning_rate = config.learning_rate * optimizers.rate(number, self.total, config)
        optimizers.set_rate(self.optimizer, learning_rate)
        self.optimizer.zero_grad(set_to_none=True)
        parts: dict[str, float] = {}
        for batch in share.batches:
            with self._alone() if batch is not share.batches[-1] else nullcontext():
                found = self._backward_or_explain(batch, epoch, number, learning_rate)
            for name, value in found.items():
                parts[name] = parts.get(name, 0.0) + value * batch.weight
        norm = self._update()
        if not math.isfinite(norm) and self.scaler.get_scale() <= SMALLEST_SCALE:
            ids = ids_of_workers(share.image_ids, self.worker.world_size)
            raise failures.not_finite("gradient", epoch + 1, number + 1, parts, ids, learning_rate)
        rates = optimizers.rates(self.optimizer)
        return Step(epoch + 1, number + 1, share.images, parts, learning_rate, norm, 0.0, 0.0, rates)

    def _alone(self) -> AbstractContextManager[Any]:
        """Where gradients are added up in this worker, not yet averaged over all."""
        return self.parallel.no_sync() if self.parallel else nullcontext()

    def _backward_or_explain(self, batch: Batch, epoch: int, number: int, learning_rate: float) -> dict[str, float]:
        """Add the gradients of a batch up, by its share of the step, and give the parts of its loss."""
        try:
            torch.manual_seed(step_seed(self.job.config.seed, number, batch.slot))
            losses = self._losses(self.parallel or self.network, batch)
            values = torch.stack([value.detach().float() for value in losses.values()]).tolist()
            found: dict[str, float] = dict(zip(losses, values, strict=True))
            if not math.isfinite(sum(values)):
                raise failures.not_finite("loss", epoch + 1, number + 1, found, batch.image_ids, learning_rate)
            self._backward(losses, batch.weight * self.worker.world_size)
        except ValueError as error:
            if failures.OF_ONE_VALUE not in str(error):
                raise
            raise failures.too_few_for_statistics(self.job.config.model, len(batch.samples)) from None
        return found

    def _losses(self, network: nn.Module, batch: Batch) -> objectives.Parts:
        images = [sample.image.to(self.device, non_blocking=True) for sample in batch.samples]
        targets = [{k: v.to(self.device, non_blocking=True) for k, v in s.target.items()} for s in batch.samples]
        with autocast(self.device, self.job.precision):
            if MODEL_TASKS[self.job.spec.task].objects:
                return objectives.detection(network, images, targets)
            return objectives.semantic(network, images, targets, self.rule, self.criterion)

    def _backward(self, losses: objectives.Parts, weight: float) -> None:
        total = torch.stack(list(losses.values())).sum() * weight
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]

    def check_memory(self, sample: Sample) -> None:
        """Refuse a batch that would not fit the memory, by learning from one whose images are all as large as `sample`.

        Raises:
            ConfigError: it does not fit; with how many images would.
        """
        images = min(self.job.config.batch_size, self.job.images)
        batch = Batch(0, (), (sample,) * images, 1.0)
        reason = self._refusal(batch)
        if reason is not None:
            raise failures.out_of_memory(reason, batch, self.device, self._fits)

    def _fits(self, batch: Batch, images: int) -> bool:
        """Whether the memory is enough for a step on the first `images` of a batch."""
        self.parallel = None  # whose hooks would wait for the other workers
        self.optimizer.zero_grad(set_to_none=True)
        return self._refusal(Batch(batch.slot, (), batch.samples[:images], 1.0)) is None

    def _refusal(self, batch: Batch) -> str | None:
        """What the memory says to a batch; None = it is enough. Other errors are left to the step that meets them.

        A copy of the network learns from it: what weights and gradients of the copy take, the optimizer's averages will.
        """
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            self._backward(self._losses(at_largest(copy.deepcopy(self.network)), batch), 1.0)
        except (RuntimeError, ValueError) as error:
            return str(error) if is_out_of_memory(error) else None
        return None

    def _update(self) -> float:
        """Apply the gradients and return their length; fp16's scaler skips steps that overflow, as it should."""
        self.scaler.unscale_(self.optimizer)
        norm = optimizers.gradient_norm(self.network.parameters(), self.job.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update(self.network)
        return norm

    @contextmanager
    def predicting(self) -> Iterator[nn.Module]:
        """The network as it is validated and published: the average if there is one, the same on every worker.

        Statistics of norms are the first worker's; the others' are those of their own last images.
        """
        with self.ema.applied(self.network) if self.ema else nullcontext():
            if self.worker.world_size > 1:
                for buffer in self.network.buffers():
                    dist.broadcast(buffer, 0)
            yield self.network

    def weights(self) -> dict[str, Tensor]:
        """What predicts, by name."""
        return self.ema.average if self.ema else self.network.state_dict()

    def state(self) -> dict[str, Any]:
        """Whatever the steps change in addition to the weights that predict."""
        averaged = {"network": self.network.state_dict(), "updates": self.ema.updates} if self.ema else {}
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), **averaged}

    def restore(self, weights: bytes, state: Mapping[str, Any], where: str) -> None:
        """Go on where `weights` and `state` were taken.

        Raises:
            WeightsError: they are another network's.
        """
        load(self.network, weights, where)
        if self.ema:
            self.ema.load_state_dict({"updates": state["updates"], "average": self.network.state_dict()})
            self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
