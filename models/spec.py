"""A row of the zoo: a model's task, how to build it, and how its input is resized and padded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # torch takes seconds to import, and what a model is can be read without it
    from torch import nn

Task = Literal["detection", "instance", "semantic", "panoptic"]
BACKGROUND = "__background__"


@dataclass(frozen=True)
class InputRule:
    """How an image's size becomes the model's input size, from the image and the model alone.

    Detection and instance models resize and normalize inside; for them the rule only foretells the padded shape, so
    that images of one padded shape can share a batch. For semantic models `shardlens.models.inputs` applies it.
    """

    fixed: tuple[int, int] | None = None
    """(height, width) that every image is stretched to; None = keep the aspect."""
    min_size: int | None = None
    """Length of the shorter side after the resize; None = keep the size."""
    max_size: int | None = None
    """The longer side is at most this after the resize."""
    multiple: int = 1
    """Both sides are padded (right and below) to a multiple of this."""
    mean: tuple[float, ...] | None = None
    """Per channel, of images in [0, 1]; None = the model normalizes inside, or wants none."""
    std: tuple[float, ...] | None = None
    scale: float = 1.0
    """Factor on the size that all this gives: to look at an image at several scales."""

    def stretched(self, size: tuple[int, int] | None) -> InputRule:
        """The rule with all images stretched to `size`, (height, width); itself where that is None."""
        return self if size is None else replace(self, fixed=size)

    def __str__(self) -> str:
        """As 300x300, 800..1333 (shorter and longer side), any; then what both sides are padded to a multiple of."""
        if self.fixed is not None:
            return f"{self.fixed[0]}x{self.fixed[1]}"
        sides = str(self.min_size or "any") + (f"..{self.max_size}" if self.max_size else "")
        return f"{sides} by {self.multiple}" if self.multiple > 1 else sides

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after the resize, before the padding; equal to torchvision's to the pixel.

        Without `max_size` the shorter side is exact, as `torchvision.transforms.functional.resize` has it. With it
        both sides are floored products of a float, as in `GeneralizedRCNNTransform`, where 799 can stand for 800.
        That one refuses an image whose shorter side would vanish; here it keeps one pixel.
        """
        if self.scale != 1:
            high, wide = replace(self, scale=1.0).resized(height, width)
            return max(1, round(high * self.scale)), max(1, round(wide * self.scale))
        if self.fixed is not None:
            return self.fixed
        if self.min_size is None:
            return height, width
        shorter, longer = min(height, width), max(height, width)
        if self.max_size is None:
            return self.min_size * height // shorter, self.min_size * width // shorter
        scale = min(self.min_size / shorter, self.max_size / longer)
        return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the padded input: images of equal shape may share a batch."""
        high, wide = self.resized(height, width)
        return -(-high // self.multiple) * self.multiple, -(-wide // self.multiple) * self.multiple


@dataclass(frozen=True)
class Published:
    """Weights that a network's authors published."""

    url: str
    sha256: str | None = None
    """The file's digest, or its first digits; None = not known."""
    options: Mapping[str, float] = field(default_factory=dict)
    """Options that `build` needs to give these weights the figures they were published with."""


@dataclass(frozen=True)
class ModelSpec:
    """One row of the zoo.

    `build(num_classes=K, **options)` returns the network with random weights; K counts the background where
    `background` is true (label 0, as torchvision has it). Detection and instance networks take a list of CHW float
    images in [0, 1] and give `[{boxes (N, 4) xyxy float, labels (N,) int64, scores (N,), masks? (N, 1, H, W)}]` in
    evaluation, a dict of losses in training. Panoptic networks (models/segmentation/panoptic_fpn.py) take such a list
    too, targets with masks and a map, and give a panoptic map in addition to the boxes. Semantic networks take NCHW and give
    `{"out": (N, K, H, W) logits}`.
    """

    name: str
    task: Task
    build: Callable[..., nn.Module]
    input_rule: Callable[[nn.Module], InputRule]
    paper: str
    """URL of the paper."""
    source: str = "shardlens"
    """Where the network's code comes from: shardlens, torchvision, or the package of an extra."""
    background: bool = True
    """Whether label 0 is the background."""
    labels: tuple[str, ...] | None = None
    """Names of the labels of the published weights, the background's included; None = they must be given."""
    text_options: tuple[str, ...] = ()
    """Options that hold the text of a file; users give its URI, the pipeline reads it."""
    score_option: str | None = None
    """The option of `build` that takes the score threshold; None = the scores are filtered afterwards."""
    published: Mapping[str, Published] | None = None
    """Published weights by name; `labels` names what they tell apart."""
    trainable: bool = True
    """Whether `shardlens train` can fit it."""
    fits_at_once: bool = False
    """Whether `fit_batches`, called once with the batches of an epoch, stands in the place of the gradient loop."""
