"""The worker's side of prediction: a loaded network that takes shards, and publishes their rows."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from shardlens.models.box_masks import keep_box_masks
from shardlens.models.folding import fold_batch_norms
from shardlens.models.spec import InputRule
from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, ExecutionError, ImageError
from shardlens.pipeline.executors.base import Clock
from shardlens.pipeline.executors.malloc import give_memory_back, keep_freed_memory
from shardlens.pipeline.images.batches import Batch, batches
from shardlens.pipeline.images.decode import Decoded, Postponed, ensure_decoded
from shardlens.pipeline.images.fetch import Decoding, load
from shardlens.pipeline.images.gpu_copy import Uploader
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.images.prefetch import Prefetch
from shardlens.pipeline.images.shards import Failure, ImageRef
from shardlens.pipeline.inference.forward import Forward, Output
from shardlens.pipeline.inference.options import Inference
from shardlens.pipeline.inference.rows import ImageRows, outcomes_table, predictions_table
from shardlens.pipeline.inference.shard_work import ShardReport, ShardWork
from shardlens.pipeline.networks.compilation import compile_network
from shardlens.pipeline.networks.labels import LabelMap
from shardlens.pipeline.networks.resolve import Network, load_network
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.runs import RunRecord, ShardParts

Result = TypeVar("Result")

ROWS_BEHIND = 2
"""Batches whose rows may not be made yet while the device takes the next one."""


@dataclass
class _Found:
    """Rows and failures of the shard in hand."""

    rows: dict[int, ImageRows] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)


Images = Sequence[tuple[int, Decoded | Postponed]]
"""Images of one padded shape, with their ids."""
UnderWay = deque[tuple[Images, Future[list[ImageRows] | Exception]]]
"""Batches that the device has done, and what becomes of their rows."""


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
    compiled: bool = False

    def setup(self) -> Callable[[ShardWork], ShardReport]:
        """Load the network onto the device."""
        return Predictor(self)


class Predictor:
    """Holds the loaded network. Two threads may call it: one computes while the other fetches, or makes its last rows."""

    def __init__(self, stage: PredictStage) -> None:
        self.stage = stage
        torch.set_num_threads(stage.threads)
        if stage.inference.tile:
            give_memory_back()
        else:
            keep_freed_memory()
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
            stage.network.spec.background,
            stage.compiled,
        )
        self.upload = Uploader(self.device) if self.device.type == "cuda" and not stage.inference.tile else None
        self.turn = threading.RLock()

    def _loaded(self, network: Network) -> tuple[nn.Module, InputRule]:
        model = load_network(network)
        fold_batch_norms(model)
        model = model.to(self.device).to(memory_format=torch.channels_last)
        rule = network.input_rule(model)
        if self.stage.compiled:
            compile_network(model, rule, self.device)
        return model, rule

    def __call__(self, work: ShardWork) -> ShardReport:
        """Predict a shard and publish its parts.

        Raises:
            ConfigError: not even one image fits the device's memory.
            StorageUnavailableError: the store failed after every retry.
        """
        known = {failure.image_id for failure in work.failures}
        images = [image for image in work.shard.images if image.image_id not in known]
        found = _Found(failures=list(work.failures))
        ahead = Prefetch(self._batches(images, found.clock))
        with ThreadPoolExecutor(1, "rows") as behind:
            try:
                with self.turn:
                    under_way = self._predict_all(ahead, behind, found)
            finally:
                ahead.close()
            for batch in under_way:  # the device has the other thread's shard meanwhile
                self._take(*batch, found)
        if work.probe:
            return ShardReport(None, len(images))
        with found.clock.spent("write"):
            parts = self._publish(work, found)
        return ShardReport(parts, len(work.shard.images), found.clock.seconds)

    def _batches(self, images: Sequence[ImageRef], clock: Clock) -> Iterator[Batch | Failure]:
        """Decoded batches; on a GPU their pixels are on the way there."""
        tiled = self.stage.inference.tile > 0
        gives = MODEL_TASKS[self.stage.network.spec.task]
        reducible = not tiled and gives.objects and not gives.stuff
        decoding = Decoding(self.stage.policy, self.rule.resized if reducible else None, tiled, clock)
        loaded = load(images, decoding, max(2, self.stage.threads))
        for batch in batches(loaded, self.rule, self.stage.batch_size, self.stage.inference.tile):
            if self.upload is not None and isinstance(batch, Batch):
                batch.decoded = [_on_its_way(ensure_decoded(image), self.upload) for image in batch.decoded]
            yield batch

    def _predict_all(self, ahead: Iterable[Batch | Failure], behind: Executor, found: _Found) -> UnderWay:
        """Take batches as they come, and give back the last ones: their rows are made while the device computes the next."""
        under_way: UnderWay = deque()
        for batch in _waited_for(ahead, found.clock):
            if isinstance(batch, Failure):
                found.failures.append(batch)
                continue
            now = list(zip((i.image_id for i in batch.images), batch.decoded, strict=True))
            outputs = self._outputs(now, found.clock)
            under_way.append((now, behind.submit(self._rows, now, outputs, found.clock)))
            if len(under_way) > ROWS_BEHIND:
                with found.clock.spent("behind"):
                    wait([under_way[0][1]])
                self._take(*under_way.popleft(), found)
        return under_way

    def _take(self, images: Images, future: Future[list[ImageRows] | Exception], found: _Found) -> None:
        """Keep a batch's rows; after an error predict its images one by one, so that the guilty one alone is quarantined."""
        rows = future.result()
        if not isinstance(rows, Exception):
            found.rows.update(zip((image_id for image_id, _ in images), rows, strict=True))
            return
        with self.turn:
            for image in images:
                error = self._alone(image, found) if len(images) > 1 and not _is_of_the_device(rows) else rows
                if error is not None:
                    found.failures.append(self._failure(*image, error))

    def _alone(self, image: tuple[int, Decoded | Postponed], found: _Found) -> Exception | None:
        rows = self._rows([image], self._outputs([image], found.clock), found.clock)
        if isinstance(rows, Exception):
            return rows
        found.rows[image[0]] = rows[0]
        return None

    def _failure(self, image_id: int, decoded: Decoded | Postponed, error: Exception) -> Failure:
        """Why an image that went alone could not be predicted.

        Raises:
            ExecutionError: the device has failed, which is no fault of the image.
            ConfigError: it does not fit the memory, which is none either.
        """
        if _is_of_the_device(error):
            raise ExecutionError(
                f"{self.device} failed and cannot be used any more ({error}): give the same command again"
            )
        if _is_out_of_memory(error):
            raise ConfigError(
                f"image {image_id} alone does not fit the memory of {self.device} "
                f"({decoded.width}x{decoded.height} pixels): use a smaller model or input size"
            )
        stage = "decode" if isinstance(decoded, Postponed) and isinstance(error, ImageError) else "predict"
        return Failure(image_id, stage, type(error).__name__, str(error) or "no message")

    def _outputs(self, images: Images, clock: Clock) -> list[Output] | Exception:
        with clock.spent("forward"):
            return _tried(lambda: self.forward.outputs([decoded for _, decoded in images]))

    def _rows(self, images: Images, outputs: list[Output] | Exception, clock: Clock) -> list[ImageRows] | Exception:
        if isinstance(outputs, Exception):
            return outputs
        with clock.spent("rows"):
            return _tried(lambda: self.forward.rows([decoded for _, decoded in images], outputs))

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


def _tried(call: Callable[[], Result]) -> Result | Exception:
    """What `call` gives, or what went wrong, without the memory that its traceback holds."""
    try:
        with torch.inference_mode():
            return call()
    except Exception as error:  # noqa: BLE001 - whatever a network raises on an image is that image's outcome
        return error.with_traceback(None)


def _on_its_way(image: Decoded, upload: Uploader) -> Decoded:
    """The image, its pixels begun to be copied; left to the forward pass, which knows what to say, if the device refuses."""
    try:
        return upload(image)
    except RuntimeError:  # whatever CUDA says
        return image


def _waited_for(ahead: Iterable[Batch | Failure], clock: Clock) -> Iterator[Batch | Failure]:
    items = iter(ahead)
    while True:
        with clock.spent("wait"):
            item = next(items, None)
        if item is None:
            return
        yield item


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
