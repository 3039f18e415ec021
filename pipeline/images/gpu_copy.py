"""Pixels on their way to a GPU and results on their way back, so that the GPU waits for neither.

The bytes of a batch are copied from pinned memory on a stream of their own while the batch before computes; floats are
made of them on the GPU. What a network gives for a batch comes back in one copy for each of its kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shardlens.pipeline.images.decode import Decoded

OF_PIXELS = "masks"
"""The output that is as large as the image for each object: what is wanted of it is taken on the device."""


@dataclass(frozen=True, eq=False)
class Uploaded:
    """The pixels of an image (height, width, 3) uint8 on a GPU, or soon there."""

    pixels: Tensor
    copied: torch.cuda.Event

    def ready(self) -> Tensor:
        """The pixels, for use on the current stream, which waits for their copy; the host does not."""
        stream = torch.cuda.current_stream(self.pixels.device)
        stream.wait_event(self.copied)
        self.pixels.record_stream(stream)  # their memory is not given away before the stream has used it
        return self.pixels


@dataclass(frozen=True, eq=False)
class UploadedImage(Decoded):
    """An image whose pixels are on a GPU too, or soon there."""

    there: Uploaded


class Uploader:
    """Holds the stream on which pixels are copied."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, image: Decoded) -> UploadedImage:
        """Begin to copy the pixels of an image; the call returns before the copy has ended."""
        pinned = as_tensor(image.pixels).pin_memory()
        with torch.cuda.stream(self._stream):
            there = pinned.to(self._device, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(self._stream)
        return UploadedImage(image.pixels, image.orientation, image.height, image.width, Uploaded(there, copied))


def as_tensor(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """The same memory as a tensor; a copy where it may not be written, which torch warns of."""
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())


def brought_back(outputs: Sequence[Mapping[str, Tensor]]) -> list[Mapping[str, Tensor]]:
    """The outputs of a batch in the host's memory, each kind of them copied at once; `masks` stay where they are."""
    kinds = set.intersection(*(set(output) for output in outputs)) - {OF_PIXELS} if outputs else set()
    back = {kind: at_once([output[kind] for output in outputs]) for kind in kinds}
    return [{**output, **{kind: back[kind][i] for kind in kinds}} for i, output in enumerate(outputs)]


def at_once(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one dtype and device in the host's memory, by one copy."""
    if not tensors or tensors[0].device.type == "cpu":
        return list(tensors)
    return joined_and_split(tensors)


def joined_and_split(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What `at_once` does to those of another device."""
    joined = torch.cat([each.flatten() for each in tensors]).cpu()
    parts = torch.split(joined, [each.numel() for each in tensors])
    return [part.view(each.shape) for part, each in zip(parts, tensors, strict=True)]
