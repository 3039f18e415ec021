"""From a shard's images to their rows and failures: batches through the network, post-processing meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline.errors import ConfigError, ExecutionError, ImageError
from shardlens.pipeline.executors.base import Clock
from shardlens.pipeline.images.batches import Batch, batches
from shardlens.pipeline.images.decode import Decoded, Postponed, ensure_decoded
from shardlens.pipeline.images.fetch import Decoding, load
from shardlens.pipeline.images.gpu_copy import Uploader
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.images.prefetch import Prefetch
from shardlens.pipeline.images.shards import Failure, ImageRef
from shardlens.pipeline.inference.forward import Forward, Output
from shardlens.pipeline.inference.rows import ImageRows
from shardlens.pipeline.networks.devices import is_broken, is_out_of_memory

Result = TypeVar("Result")

MAX_PENDING_BATCHES = 2
"""Batches whose rows may not be made yet while the device takes the next one."""


@dataclass
class ShardRows:
    """Rows and failures of a shard, and where the time went."""

    rows: dict[int, ImageRows] = field(default_factory=dict)
    """By image_id."""
    failures: list[Failure] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)


Images = Sequence[tuple[int, Decoded | Postponed]]
"""Images of one padded shape, with their ids."""
Pending = deque[tuple[Images, Future[list[ImageRows] | Exception]]]
"""Batches that the device has finished, and their rows, which are still being made."""


class ShardComputer:
    """Runs a network over the images of shards. Two threads may call it: one computes while the other fetches."""

    def __init__(self, forward: Forward, policy: DecodePolicy, batch_size: int, threads: int) -> None:
        self.forward = forward
        self._policy = policy
        self._batch_size = batch_size
        self._threads = threads
        tiled = forward.plan.tile > 0
        self._upload = Uploader(forward.device) if forward.device.type == "cuda" and not tiled else None
        self._turn = threading.RLock()

    def compute(self, images: Sequence[ImageRef], failures: Iterable[Failure] = ()) -> ShardRows:
        """Predict images.

        Args:
            failures: images that are known to fail; they are not among `images`.

        Raises:
            ConfigError: not even one image fits the device's memory.
            ExecutionError: the device has failed.
            StorageUnavailableError: the store failed after every retry.
        """
        results = ShardRows(failures=list(failures))
        prefetched = Prefetch(self._batches(images, results.clock))
        with ThreadPoolExecutor(1, "rows") as postprocessing:
            try:
                with self._turn:
                    pending = self._predict_all(prefetched, postprocessing, results)
            finally:
                prefetched.close()
            for batch in pending:  # the device works on the other thread's shard meanwhile
                self._collect(*batch, results)
        return results

    def _batches(self, images: Sequence[ImageRef], clock: Clock) -> Iterator[Batch | Failure]:
        """Decoded batches; on a GPU their pixels are on the way there."""
        forward = self.forward
        tiled = forward.plan.tile > 0
        gives = MODEL_TASKS[forward.task]
        reducible = not tiled and gives.objects and not gives.stuff
        decoding = Decoding(self._policy, forward.rule.resized if reducible else None, tiled, clock)
        loaded = load(images, decoding, max(2, self._threads))
        for batch in batches(loaded, forward.rule, self._batch_size, forward.plan.tile):
            if self._upload is not None and isinstance(batch, Batch):
                batch.decoded = [_upload_ahead(ensure_decoded(image), self._upload) for image in batch.decoded]
            yield batch

    def _predict_all(
        self, prefetched: Iterable[Batch | Failure], postprocessing: Executor, results: ShardRows
    ) -> Pending:
        """Take batches as they come, and return the last ones: their rows are made while the device computes the next."""
        pending: Pending = deque()
        for batch in _waited_for(prefetched, results.clock):
            if isinstance(batch, Failure):
                results.failures.append(batch)
                continue
            images = list(zip((i.image_id for i in batch.images), batch.decoded, strict=True))
            outputs = self._outputs(images, results.clock)
            pending.append((images, postprocessing.submit(self._rows, images, outputs, results.clock)))
            if len(pending) > MAX_PENDING_BATCHES:
                with results.clock.spent("postprocess_wait"):
                    wait([pending[0][1]])
                self._collect(*pending.popleft(), results)
        return pending

    def _collect(self, images: Images, future: Future[list[ImageRows] | Exception], results: ShardRows) -> None:
        """Keep a batch's rows; after an error predict its images one by one, so that only the guilty one is quarantined."""
        rows = future.result()
        if not isinstance(rows, Exception):
            results.rows.update(zip((image_id for image_id, _ in images), rows, strict=True))
            return
        with self._turn:
            for image in images:
                error = self._alone(image, results) if len(images) > 1 and not is_broken(rows) else rows
                if error is not None:
                    results.failures.append(self._failure(*image, error))

    def _alone(self, image: tuple[int, Decoded | Postponed], results: ShardRows) -> Exception | None:
        rows = self._rows([image], self._outputs([image], results.clock), results.clock)
        if isinstance(rows, Exception):
            return rows
        results.rows[image[0]] = rows[0]
        return None

    def _failure(self, image_id: int, decoded: Decoded | Postponed, error: Exception) -> Failure:
        """Why an image that went alone could not be predicted.

        Raises:
            ExecutionError: the device has failed, which is no fault of the image.
            ConfigError: it does not fit the memory, which is none either.
        """
        device = self.forward.device
        if is_broken(error):
            raise ExecutionError(f"{device} failed and cannot be used any more ({error}): run the same command again")
        if is_out_of_memory(error):
            raise ConfigError(
                f"image {image_id} alone does not fit the memory of {device} "
                f"({decoded.width}x{decoded.height} pixels): use a smaller model or input size"
            )
        stage = "decode" if isinstance(decoded, Postponed) and isinstance(error, ImageError) else "predict"
        return Failure(image_id, stage, type(error).__name__, str(error) or "no message")

    def _outputs(self, images: Images, clock: Clock) -> list[Output] | Exception:
        with clock.spent("forward"):
            return _attempt(lambda: self.forward.outputs([decoded for _, decoded in images]))

    def _rows(self, images: Images, outputs: list[Output] | Exception, clock: Clock) -> list[ImageRows] | Exception:
        if isinstance(outputs, Exception):
            return outputs
        with clock.spent("rows"):
            return _attempt(lambda: self.forward.rows([decoded for _, decoded in images], outputs))


def _attempt(call: Callable[[], Result]) -> Result | Exception:
    """The result of `call`, or its error, without the memory that the traceback holds."""
    try:
        with torch.inference_mode():
            return call()
    except SystemExit as error:  # a network of the user's own that calls exit() ends no run
        return RuntimeError(f"the model ended the program (SystemExit: {error.code})")
    except Exception as error:  # noqa: BLE001 - whatever a network raises on an image is that image's outcome
        return error.with_traceback(None)


def _upload_ahead(image: Decoded, upload: Uploader) -> Decoded:
    """The image, the copy of its pixels begun; left to the forward pass, which explains the error, if the device refuses."""
    try:
        return upload(image)
    except RuntimeError:  # whatever CUDA reports
        return image


def _waited_for(prefetched: Iterable[Batch | Failure], clock: Clock) -> Iterator[Batch | Failure]:
    items = iter(prefetched)
    while True:
        with clock.spent("wait"):
            item = next(items, None)
        if item is None:
            return
        yield item
