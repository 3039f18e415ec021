"""A loaded network as a function: decoded images of one padded shape go in, their rows come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.inputs import prepare, restore
from models.spec import InputRule, Task
from pipeline.decode import Decoded
from pipeline.rows import ImageRows, from_detection, from_semantic

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, eq=False)
class Forward:
    """A network in evaluation mode, and how its input is made; callers choose no_grad or inference_mode."""

    model: nn.Module
    task: Task
    rule: InputRule
    device: torch.device
    precision: str
    score_threshold: float | None = None
    """The lowest score kept; None = all that the network gives."""

    def __call__(self, images: Sequence[Decoded]) -> list[ImageRows]:
        """Predict images of one padded shape.

        Raises:
            FloatingPointError: the network gave something that is not a finite number.
        """
        tensors = [self._tensor(image) for image in images]
        dtype = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            if self.task != "semantic":
                outputs = self.model(tensors)
                return [
                    from_detection(o, image, self.score_threshold) for o, image in zip(outputs, images, strict=True)
                ]
            batch = prepare(tensors, self.rule).contiguous(memory_format=torch.channels_last)
            logits = self.model(batch)["out"]
        sizes = [(int(t.shape[1]), int(t.shape[2])) for t in tensors]
        maps = restore(logits.float(), self.rule, sizes)
        return [from_semantic(m.softmax(0), image) for m, image in zip(maps, images, strict=True)]

    def _tensor(self, image: Decoded) -> Tensor:
        """CHW float in [0, 1]: the bytes travel to the device, the floats are made there."""
        pixels = torch.from_numpy(image.pixels.copy() if not image.pixels.flags.writeable else image.pixels)
        return pixels.to(self.device, non_blocking=True).permute(2, 0, 1).float().div_(255)
