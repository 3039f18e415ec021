"""The training loop of one worker: plain torch, the same on a laptop and in a cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa
import torch

from shardlens.pipeline.errors import StorageError, TrainingError
from shardlens.pipeline.executors import malloc
from shardlens.pipeline.executors.base import Progress, ProgressListener, no_progress
from shardlens.pipeline.images.prefetch import Prefetch
from shardlens.pipeline.networks.checkpoints import step_folder
from shardlens.pipeline.training import scores, state
from shardlens.pipeline.training.closed_form import fit_at_once
from shardlens.pipeline.training.data import Share, TrainingData
from shardlens.pipeline.training.exchange import broadcast_from_rank0, merge_over_workers, sum_over_workers
from shardlens.pipeline.training.job import TrainJob, Worker
from shardlens.pipeline.training.order import smallest_slot, steps_per_epoch
from shardlens.pipeline.training.records import Step, Trained, identity, losses_by_epoch, publish, steps_table
from shardlens.pipeline.training.state import Saved, Snapshot, TrainingState
from shardlens.pipeline.training.stepper import Stepper
from shardlens.pipeline.training.trial import (
    Trial,
    check_largest,
    check_smallest,
    check_statistics,
    largest_sample,
    smallest_input,
)
from shardlens.pipeline.training.validation import Validator

STAGES = 3
"""What is done before the first step, as progress counts it: the job, the network's weights, and its trial."""


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
    """Train as one of `worker.world_size` workers, from the last checkpoint if there is one; the first one publishes.

    Raises:
        TrainingError: a loss or a gradient is not a finite number any more.
        DatasetError: too many images cannot be read, or their masks do not fit them.
        ShardlensError: see `shardlens.pipeline.training.prepare.prepare`; also a store that stays down.
    """
    with _own_settings(job, worker):
        if job.spec.fits_at_once:
            return fit_at_once(job, worker)
        loop = Loop(job, worker)
        try:
            loop.resume()
            loop.check_validation()
            if worker.rank == 0:
                worker.report(Progress("prepare", STAGES, STAGES, "stages"))
            return loop.run()
        finally:
            loop.close()


@contextmanager
def _own_settings(job: TrainJob, worker: Worker) -> Iterator[None]:
    """Threads, random numbers and use of freed memory of this run; the caller's again afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(job.config.threads)
    malloc.keep_freed_memory()
    try:
        device = torch.device(worker.device)
        with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
            torch.manual_seed(job.config.seed)
            yield
    finally:
        torch.set_num_threads(threads)
        malloc.restore_defaults()


class Loop:
    """Holds what takes the steps, what gives their images, and what has been noted so far."""

    def __init__(self, job: TrainJob, worker: Worker) -> None:
        self.job, self.worker = job, worker
        self.stepper = Stepper(job, worker)
        self.data = TrainingData(job, self.stepper.rule)
        self._try()
        listener = worker.report if worker.rank == 0 else no_progress
        stepper = self.stepper
        self.validator = (
            Validator(job, stepper.rule, stepper.device, job.precision, listener) if job.val_split is not None else None
        )
        self.writer = state.Writer(job.folder, job.config.keep, job.command)
        self.steps_of_epoch = steps_per_epoch(job.images, job.config.global_batch)
        self.reached = TrainingState()
        self.resumed_from = 0
        self.table: pa.Table = steps_table(job, [])
        self.noted: list[Step] = []

    def _try(self) -> None:
        """Refuse what the network, or the device, cannot take of the images."""
        job, stepper = self.job, self.stepper
        if self.worker.rank == 0:
            self.worker.report(
                Progress("prepare", 2, STAGES, "stages", "trying the network on the images' sizes", True)
            )
        trial = Trial(stepper.network, job.spec.task, stepper.rule, stepper.device)
        check_largest(stepper.rule, self.data.images)
        smallest = smallest_input(job.config, trial, self.data.images)
        check_smallest(trial, smallest, job.config.model)
        batch = smallest_slot(job.images, job.config.global_batch, job.config.slots)
        check_statistics(trial, smallest, batch, job.config)
        if stepper.device.type == "cuda":  # a CPU seldom lacks memory, and would take long
            stepper.check_memory(largest_sample(job.config, trial, self.data.images))

    def resume(self) -> None:
        """Go on from the last complete checkpoint; the first worker says which one that is.

        Raises:
            StorageError: the others cannot read it.
        """
        if self.worker.rank == 0:
            self.writer.take_up()
        saved = state.newest(self.job.folder) if self.worker.rank == 0 else None
        step = broadcast_from_rank0(saved.reached.step if saved else None, self.worker.world_size)
        if self.worker.rank == 0:
            state.sweep(self.job.folder, self.job.config.keep, saved.reached if saved else TrainingState())
        if step is not None:
            self._restore(saved or self._read(step))

    def _read(self, step: int) -> Saved:
        saved = state.read(self.job.folder, step)
        if saved is None:
            raise StorageError(f"the checkpoint {step_folder(self.job.folder, step)} is not there any more, or damaged")
        return saved

    def _restore(self, saved: Saved) -> None:
        where = step_folder(self.job.folder, saved.reached.step)
        self.stepper.restore(saved.weights, saved.state, where)
        self.reached, self.table = saved.reached, saved.steps
        self.resumed_from = saved.reached.step

    def check_validation(self) -> None:
        """Decode the images to validate on before the first step of a run.

        Raises:
            DatasetError: too many of them cannot be read.
        """
        if self.validator is not None and self.reached.step == 0:
            self.validator.decode(self.worker.rank, self.worker.world_size)

    def run(self) -> Trained:
        """Take the steps that are left, then publish."""
        reached, worker = self.reached, self.worker
        ahead = Prefetch(self.data.shares(worker.rank, worker.world_size, reached.epoch, reached.step_of_epoch))
        try:
            shares = iter(ahead)
            while not self._over():
                self._run_epoch(shares)
        finally:
            ahead.close()
        return self._finish()

    def _over(self) -> bool:
        """Whether all epochs are over, or the last validations brought nothing better."""
        patience, reached = self.job.config.patience, self.reached
        since = sum(figures["step"] > (reached.best_step or 0) for figures in reached.validations)
        return reached.epoch >= self.job.config.epochs or 0 < patience <= since

    def _run_epoch(self, shares: Iterator[Share]) -> None:
        """Take the steps that are left of an epoch; the next one's images are made ready meanwhile."""
        self.stepper.begin(self.reached.epoch)
        for _ in range(self.steps_of_epoch - self.reached.step_of_epoch):
            asked = time.perf_counter()
            share = next(shares)
            waited = time.perf_counter() - asked
            step = self._step(share)
            self.noted.append(replace(step, seconds=time.perf_counter() - asked, wait_seconds=waited))
            self._tell(step, share)
            self._advance(step)

    def _step(self, share: Share) -> Step:
        """Take a step."""
        with self._naming_last_good():
            return self.stepper.step(share, self.reached.epoch, self.reached.step)

    @contextmanager
    def _naming_last_good(self) -> Iterator[None]:
        """What stops the run here names the checkpoint to go on from."""
        try:
            yield
        except TrainingError as error:
            raise TrainingError(f"{error}; {self._last_good()}") from None

    def _last_good(self) -> str:
        self.writer.wait()
        saved = state.newest(self.job.folder)
        if saved is None:
            return "no checkpoint had been written yet"
        return f"the last good checkpoint is {step_folder(self.job.folder, saved.reached.step)}"

    def _tell(self, step: Step, share: Share) -> None:
        """Say how far the run is, with the loss of the first worker's own images."""
        if self.worker.rank == 0:
            detail = f"epoch {step.epoch}/{self.job.config.epochs}, loss {step.loss / (share.weight or 1):.3f}"
            workers = f", {self.worker.world_size} workers" if self.job.config.elastic_workers else ""
            ended = step.step % self.steps_of_epoch == 0
            self.worker.report(Progress("train", step.step, self.stepper.total, "steps", detail + workers, ended))

    def _advance(self, step: Step) -> None:
        """Note a step; validate, and write a checkpoint, where that is due."""
        ended = self.reached.step_of_epoch + 1 == self.steps_of_epoch
        self.reached = replace(
            self.reached,
            step=step.step,
            epoch=self.reached.epoch + ended,
            step_of_epoch=0 if ended else self.reached.step_of_epoch + 1,
        )
        validated = ended and self._validate()
        every = self.job.config.checkpoint_every
        if validated or self._over() or (step.step % every == 0 if every else ended):
            self._save()

    def _validate(self) -> bool:
        """Validate if it is due, and note whether this is the best so far; whether it was due."""
        config, reached, worker = self.job.config, self.reached, self.worker
        if self.validator is None or (reached.epoch % config.validate_every and reached.epoch != config.epochs):
            return False
        with self._naming_last_good(), self.stepper.predicting() as network:
            found = self.validator(network, worker.rank, worker.world_size)
        if worker.rank == 0:
            scores.publish(self.job, reached.epoch, reached.step, self.validator.rows)
        made = {"epoch": reached.epoch, "step": reached.step, **found}
        metric = self.job.best_metric
        best = max((figures.get(metric, -math.inf) for figures in reached.validations), default=None)
        better = best is None or found.get(metric, -math.inf) > best
        self.reached = replace(
            reached,
            validations=(*reached.validations, made),
            best_step=reached.step if better else reached.best_step,
        )
        return True

    def _save(self) -> None:
        """Sum up what the workers noted, and let the first one begin to write a checkpoint."""
        workers = self.worker.world_size
        steps = sum_over_workers(self.noted, workers, self.stepper.device)
        self.table = pa.concat_tables([self.table, steps_table(self.job, steps)])
        self.noted = []
        failures = self.data.unreadable.copy()  # which grows while the steps are taken
        own = {str(i): f"image {i} ({f.stage}): {f.message}" for i, f in failures.items()}
        unreadable = {**self.reached.unreadable, **merge_over_workers(own, workers)}
        self.reached = replace(self.reached, unreadable=unreadable)
        if self.worker.rank == 0:
            weights, rest = state.frozen(self.stepper.weights()), state.frozen(self.stepper.state())
            self.writer.put(Snapshot(self.reached, identity(self.job), weights, rest, self.table))

    def _finish(self) -> Trained:
        """Publish the best weights, the last ones if none were validated, and sum up."""
        self.writer.wait()
        reached = self.reached
        data = b""
        if self.worker.rank == 0:
            data = self._read(reached.best_step or reached.step).weights
            publish(self.job, data, self.table)
        return Trained(
            state.digest(data),
            len(data),
            tuple(losses_by_epoch(self.table)),
            reached.step,
            sum(self.table["seconds"].to_pylist()),
            sum(self.table["wait_seconds"].to_pylist()),
            tuple(reached.unreadable[i] for i in sorted(reached.unreadable, key=int)),
            self.resumed_from,
            reached.validations,
            reached.best_step,
            str(self.stepper.initialized or ""),
        )

    def close(self) -> None:
        """Let a checkpoint that is being written come to its end."""
        self.writer.close()
