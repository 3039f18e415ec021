"""The worker's side of prediction: a loaded network that takes shards, computes their rows and publishes them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from shardlens.models.box_masks import keep_box_masks
from shardlens.models.folding import fold_batch_norms
from shardlens.models.spec import InputRule
from shardlens.pipeline.executors.base import Placement
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.inference.computing import ShardComputer, ShardRows
from shardlens.pipeline.inference.forward import Forward
from shardlens.pipeline.inference.options import InferencePlan
from shardlens.pipeline.inference.process_settings import own_settings
from shardlens.pipeline.inference.publishing import carried_rows, publish
from shardlens.pipeline.inference.shard_work import ShardReport, ShardWork
from shardlens.pipeline.networks.compilation import compile_network
from shardlens.pipeline.networks.devices import open_device
from shardlens.pipeline.networks.labels import LabelMap
from shardlens.pipeline.networks.resolve import Network, load_network
from shardlens.pipeline.warehouse.runs import RunRecord


@dataclass(frozen=True, kw_only=True)
class PredictStage:
    """Prediction as a stage; it travels to the workers, the network is loaded there."""

    record: RunRecord
    network: Network
    plan: InferencePlan
    labels: LabelMap
    policy: DecodePolicy
    precision: str
    batch_size: int
    placement: Placement
    compiled: bool = False

    def setup(self) -> Callable[[ShardWork], ShardReport]:
        """Load the network onto the device."""
        with ExitStack() as held:
            held.enter_context(own_settings(self.placement.threads, self.plan.tile > 0))
            return PredictWorker(self, held)


class PredictWorker:
    """Holds the loaded network. Two threads may call it: one computes while the other fetches, or makes its last rows."""

    def __init__(self, stage: PredictStage, held: ExitStack) -> None:
        """Load; what `held` holds is taken over once that has succeeded."""
        self._stage = stage
        self._device = open_device(stage.placement.device)
        (model, rule), *ensemble = (self._loaded(network) for network in (stage.network, *stage.plan.ensemble))
        keep_box_masks(model)
        self.forward = Forward(
            model=model,
            task=stage.network.spec.task,
            rule=rule,
            device=self._device,
            precision=stage.precision,
            score_threshold=stage.network.score_threshold,
            plan=stage.plan,
            ensemble=tuple(ensemble),
            batch_size=stage.batch_size,
            background=stage.network.spec.background,
            compiled=stage.compiled,
        )
        self._computer = ShardComputer(self.forward, stage.policy, stage.batch_size, stage.placement.threads)
        self._held = held.pop_all()

    def _loaded(self, network: Network) -> tuple[nn.Module, InputRule]:
        model = load_network(network)
        fold_batch_norms(model)
        model = model.to(self._device).to(memory_format=torch.channels_last)
        rule = network.input_rule(model)
        if self._stage.compiled:
            compile_network(model, rule, self._device)
        return model, rule

    def __call__(self, work: ShardWork) -> ShardReport:
        """Predict a shard and publish its parts; see `ShardComputer.compute` for what it raises."""
        carried = carried_rows(work.carried) if work.carried else None
        done = carried.image_ids if carried else frozenset()
        known = {failure.image_id for failure in work.failures} | done
        images = [image for image in work.shard.images if image.image_id not in known]
        results = self._computer.compute(images, work.failures) if images else ShardRows(failures=list(work.failures))
        if work.probe:
            return ShardReport(None, len(images))
        with results.clock.spent("write"):
            parts = publish(self._stage.record, self._stage.labels, work, results.rows, results.failures, carried)
        return ShardReport(parts, len(work.shard.images) - len(done), results.clock.seconds, len(done))

    def close(self) -> None:
        """Give the process its settings back."""
        self._held.close()
