"""The worker's side of prediction: a loaded network that takes shards, and publishes their rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from models.box_masks import keep_box_masks
from models.folding import fold_batch_norms
from models.spec import InputRule
from pipeline import runs, storage, tables
from pipeline.batches import Batch, batches
from pipeline.categories import LabelMap
from pipeline.decode import Decoded, DecodePolicy, Postponed
from pipeline.errors import ConfigError, ExecutionError, ImageError
from pipeline.fetch import Failure, Prefetch, load
from pipeline.forward import PRECISIONS, Forward
from pipeline.inference import Inference
from pipeline.networks import Network, load_network
from pipeline.rows import ImageRows, outcomes_table, predictions_table
from pipeline.runs import RunRecord, ShardParts
from pipeline.shards import Shard
from pipeline.tiles import give_memory_back

__all__ = ["PRECISIONS", "PredictStage", "Predictor", "ShardReport", "ShardWork"]


@dataclass(frozen=True)
class ShardWork:
    """What a worker is asked to do with a shard."""

    shard: Shard
    failures: tuple[Failure, ...] = ()
    """Images known to kill workers: quarantined unseen."""
    probe: bool = False
    """Predict and publish nothing: does the worker survive?"""
    generation: int = 0
    """Above 0: predict these images alone and put their rows among those of `base`."""
    base: ShardParts | None = None


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What came of a shard, and where its time went."""

    parts: ShardParts | None
    images: int
    forward_s: float = 0.0
    wait_s: float = 0.0
    """Seconds in which the device waited for images."""


@dataclass
class _Found:
    """Rows and failures of the shard in hand."""

    rows: dict[int, ImageRows] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    forward_s: float = 0.0
    wait_s: float = 0.0


@dataclass(frozen=True)
class PredictStage:
    """Prediction as a stage; it travels to the workers, the network is loaded there."""

    record: RunRecord
    network: Network
    inference: Inference
    labels: LabelMap
    policy: DecodePolicy
    precision: str
    batch_size: int
    threads: int
    device: str

    def setup(self) -> Callable[[ShardWork], ShardReport]:
        """Load the network onto the device."""
        return Predictor(self)


class Predictor:
    """Holds the loaded network. Two threads may call it: one computes while the other's images are fetched."""

    def __init__(self, stage: PredictStage) -> None:
        self.stage = stage
        torch.set_num_threads(stage.threads)
        if stage.inference.tile:
            give_memory_back()
        self.device = torch.device(stage.device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                "--gpus-per-worker asks for a GPU, but torch sees none on the worker: set it to 0, or mend the driver"
            )
        (model, self.rule), *others = (self._loaded(network) for network in (stage.network, *stage.inference.ensemble))
        keep_box_masks(model)
        self.forward = Forward(
            model,
            stage.network.spec.task,
            self.rule,
            self.device,
            stage.precision,
            stage.network.score_threshold,
            stage.inference,
            tuple(others),
            stage.batch_size,
        )
        self.turn = threading.Lock()

    def _loaded(self, network: Network) -> tuple[nn.Module, InputRule]:
        model = load_network(network)
        fold_batch_norms(model)
        model = model.to(self.device).to(memory_format=torch.channels_last)
        return model, network.spec.input_rule(model)

    def __call__(self, work: ShardWork) -> ShardReport:
        """Predict a shard and publish its parts.

        Raises:
            ConfigError: not even one image fits the device's memory.
            StorageUnavailableError: the store failed after every retry.
        """
        known = {failure.image_id for failure in work.failures}
        images = [image for image in work.shard.images if image.image_id not in known]
        found = _Found(failures=list(work.failures))
        ahead = Prefetch(
            batches(
                load(images, self.stage.policy, postpone=self.stage.inference.tile > 0),
                self.rule,
                self.stage.batch_size,
            )
        )
        try:
            with self.turn:
                self._predict_all(ahead, found)
        finally:
            ahead.close()
        if work.probe:
            return ShardReport(None, len(images))
        parts = self._publish(work, found)
        return ShardReport(parts, len(work.shard.images), found.forward_s, found.wait_s)

    def _predict_all(self, ahead: Prefetch[Batch | Failure], found: _Found) -> None:
        """Take batches as they come; the device is this shard's until its last one."""
        asked = time.perf_counter()
        for batch in ahead:
            begun = time.perf_counter()
            found.wait_s += begun - asked
            if isinstance(batch, Failure):
                found.failures.append(batch)
            else:
                self._predict(list(zip((i.image_id for i in batch.images), batch.decoded, strict=True)), found)
            asked = time.perf_counter()
            found.forward_s += asked - begun

    def _predict(self, images: Sequence[tuple[int, Decoded | Postponed]], found: _Found) -> None:
        """Predict a batch; after an error its images one by one, so that the guilty one alone is quarantined."""
        error = self._try(images, found)
        if error is None:
            return
        if _is_of_the_device(error):
            raise ExecutionError(
                f"{self.device} failed and cannot be used any more ({error}): give the same command again"
            )
        if len(images) > 1:
            for image in images:
                self._predict([image], found)
            return
        image_id, decoded = images[0]
        if _is_out_of_memory(error):
            raise ConfigError(
                f"image {image_id} alone does not fit the memory of {self.device} "
                f"({decoded.width}x{decoded.height} pixels): use a smaller model or input size"
            )
        stage = "decode" if isinstance(decoded, Postponed) and isinstance(error, ImageError) else "predict"
        found.failures.append(Failure(image_id, stage, type(error).__name__, str(error) or "no message"))

    def _try(self, images: Sequence[tuple[int, Decoded | Postponed]], found: _Found) -> Exception | None:
        """Predict a batch and keep its rows, or return what went wrong, without the memory that its traceback holds."""
        try:
            with torch.inference_mode():
                outputs = self.forward([decoded for _, decoded in images])
        except Exception as error:  # noqa: BLE001 - whatever a network raises on an image is that image's outcome
            return error.with_traceback(None)
        found.rows.update({image_id: rows for (image_id, _), rows in zip(images, outputs, strict=True)})
        return None

    def _publish(self, work: ShardWork, found: _Found) -> ShardParts:
        """Write the shard's two parts; those of a retry hold the earlier rows too."""
        record = self.stage.record
        predictions = predictions_table(found.rows, self.stage.labels)
        outcomes = outcomes_table([i.image_id for i in work.shard.images], found.rows, found.failures)
        if work.base is not None:
            tried = pa.array([image.image_id for image in work.shard.images], pa.int64())
            before = record.warehouse
            folder = before.predictions(record.dataset, record.name)
            predictions = _among(storage.join(folder, work.base.predictions.name), predictions, tried)
            folder = before.outcomes(record.dataset, record.name)
            outcomes = _among(storage.join(folder, work.base.outcomes.name), outcomes, tried)
        return runs.publish(record, work.shard.index, predictions, outcomes, work.generation)


def _among(uri: str, fresh: pa.Table, tried: pa.Array) -> pa.Table:
    """Put `fresh` rows in the place of those of the tried images in an earlier part."""
    earlier = tables.from_bytes(storage.read(uri)).replace_schema_metadata(None)
    kept = earlier.filter(pc.invert(pc.is_in(earlier["image_id"], tried)))
    keys = [(key, "ascending") for key in ("image_id", "rank") if key in fresh.schema.names]
    return pa.concat_tables([kept, fresh]).sort_by(keys).combine_chunks()


def _is_of_the_device(error: Exception) -> bool:
    """Whether the GPU's context is broken, so that every later image would fail too."""
    return isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the device (or torch's CPU allocator) had no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
