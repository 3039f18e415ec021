"""The network of CornerNet: hourglasses, corner pooling, and three maps for each kind of corner.

https://arxiv.org/abs/1808.01244
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from shardlens.models.boxes.suppression import Suppression, suppress
from shardlens.models.detection.cornernet.decoding import CornerMaps, best_corners, pair
from shardlens.models.detection.cornernet.losses import (
    PULL_WEIGHT,
    PUSH_WEIGHT,
    heat_loss,
    offset_loss,
    pull_loss,
    push_loss,
)
from shardlens.models.detection.cornernet.targets import CornerTargets, corner_targets, gaussian_radius
from shardlens.models.detection.selection import NOTHING
from shardlens.models.errors import ModelError
from shardlens.models.hourglass import STRIDE, Hourglass, Residual, convolution, norm_of

_GROWTH = (1.0, 1.5, 1.5, 1.5, 2.0)
_PRIOR = -2.19
"""Logit of a heat map before training: a score of 0.1."""


def corner_pool(vertical: Tensor, horizontal: Tensor, from_end: bool) -> Tensor:
    """Running maxima down the columns of one map plus those along the rows of another, both (N, C, H, W).

    With `from_end` they run up and to the left, so that a cell knows of all below it and to its right: the box of a top
    left corner. Otherwise down and to the right, for a bottom right corner.
    """
    return _running(vertical, 2, from_end) + _running(horizontal, 3, from_end)


def _running(x: Tensor, axis: int, from_end: bool) -> Tensor:
    turned = x.flip(axis) if from_end else x
    highest = turned.cummax(axis).values
    return highest.flip(axis) if from_end else highest


class CornerBranch(nn.Module):
    """Corner pooling in a residual block, then heat, embedding and offsets of one kind of corner (figure 7)."""

    def __init__(self, width: int, classes: int, top_left: bool) -> None:
        super().__init__()
        half = max(1, width // 2)
        self.top_left = top_left
        self.vertical = convolution(width, half, 3)
        self.horizontal = convolution(width, half, 3)
        self.pooled = norm_of(nn.Conv2d(half, width, 3, padding=1, bias=False))
        self.skip = norm_of(nn.Conv2d(width, width, 1, bias=False))
        self.after = convolution(width, width, 3)
        self.heat, self.embedding, self.offsets = (_predictor(width, outputs) for outputs in (classes, 1, 2))
        nn.init.constant_(self.heat[-1].bias, _PRIOR)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> CornerMaps:
        """Maps of H x W of features (N, C, H, W)."""
        pooled = self.pooled(corner_pool(self.vertical(features), self.horizontal(features), self.top_left))
        x = self.after(F.relu(pooled + self.skip(features)))
        return CornerMaps(self.heat(x), self.embedding(x), self.offsets(x))


def _predictor(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, outputs, 1))


def channels_at(width: int, depth: int) -> tuple[int, ...]:
    """Channels of each scale, the finest first: 256, 256, 384, 384, 384, 512 for the paper's width 256 and depth 5."""
    growth = [_GROWTH[min(level, len(_GROWTH) - 1)] for level in range(depth)]
    return (width, *(int(width * factor) for factor in growth))


class CornerHourglass(nn.Module):
    """Stacked hourglasses; each but the first reads the input and the output of the one before."""

    def __init__(self, stacks: int, width: int, depth: int, blocks: int) -> None:
        super().__init__()
        self.width = width
        self.stem = nn.Sequential(convolution(3, max(1, width // 2), 7, 2), Residual(max(1, width // 2), width, 2))
        scales = channels_at(width, depth)
        self.hourglasses = nn.ModuleList(Hourglass(scales, blocks, 2 * blocks, Residual) for _ in range(stacks))
        self.after = nn.ModuleList(convolution(width, width, 3) for _ in range(stacks))
        self.read = nn.ModuleList(_pointwise(width) for _ in range(stacks - 1))
        self.said = nn.ModuleList(_pointwise(width) for _ in range(stacks - 1))
        self.join = nn.ModuleList(Residual(width, width) for _ in range(stacks - 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features (N, width, H / 4, W / 4) of each stack."""
        x = self.stem(images)
        found: list[Tensor] = []
        for i, (hourglass, after) in enumerate(zip(self.hourglasses, self.after, strict=True)):
            found.append(after(hourglass(x)))
            if i < len(self.join):
                x = self.join[i](F.relu(self.read[i](x) + self.said[i](found[-1])))
        return found


def _pointwise(width: int) -> nn.Sequential:
    return norm_of(nn.Conv2d(width, width, 1, bias=False))


class CornerNet(nn.Module):
    """Objects as pairs of corners. Label 0 is the background, and has no heat map."""

    def __init__(
        self,
        num_classes: int,
        backbone: CornerHourglass,
        transform: nn.Module,
        corner_iou: float,
        score_threshold: float,
        suppression: Suppression,
        limit: int,
    ) -> None:
        super().__init__()
        width, stacks, classes = backbone.width, len(backbone.hourglasses), num_classes - 1
        self.transform: Any = transform
        self.backbone = backbone
        self.top_left = nn.ModuleList(CornerBranch(width, classes, True) for _ in range(stacks))
        self.bottom_right = nn.ModuleList(CornerBranch(width, classes, False) for _ in range(stacks))
        self.classes = classes
        self.corner_iou = corner_iou
        self.score_threshold = score_threshold
        self.suppression = suppression
        self.limit = limit

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation, as the zoo's contract has it (`shardlens.models.spec.ModelSpec`)."""
        if self.training and targets is None:
            raise ModelError(
                "CornerNet in training needs targets: for each image its boxes (N, 4) xyxy and labels (N,)"
            )
        batch, scaled = self.transform(images, targets)
        stacks = self.backbone(batch.tensors)
        if self.training:
            return self.losses(stacks, scaled)
        maps = self.top_left[-1](stacks[-1]), self.bottom_right[-1](stacks[-1])
        found = [self.select(*maps, image, size) for image, size in enumerate(batch.image_sizes)]
        shown: list[dict[str, Tensor]] = self.transform.postprocess(
            found, batch.image_sizes, [(image.shape[-2], image.shape[-1]) for image in images]
        )
        return shown

    def losses(self, stacks: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """heat, pull, push and offsets: the means over the images, summed over the stacks."""
        shape = (self.classes, stacks[0].shape[2], stacks[0].shape[3])
        wanted = [self._wanted(target, shape) for target in targets]
        parts = []
        for features, top_left, bottom_right in zip(stacks, self.top_left, self.bottom_right, strict=True):
            maps = top_left(features), bottom_right(features)
            parts += [image_losses(maps, i, pair_of) for i, pair_of in enumerate(wanted)]
        return {name: torch.stack([part[name] for part in parts]).sum() / len(wanted) for name in parts[0]}

    def _wanted(self, target: Mapping[str, Tensor], shape: tuple[int, int, int]) -> tuple[CornerTargets, CornerTargets]:
        boxes, labels = target["boxes"].float(), target["labels"] - 1
        sides = ((boxes[:, 2:] - boxes[:, :2]) / STRIDE).ceil()
        radii = boxes.new_tensor([gaussian_radius(float(h), float(w), self.corner_iou) for w, h in sides])
        kinds = (boxes[:, :2], boxes[:, 2:])
        first, second = (corner_targets(corners, radii, labels, shape, STRIDE) for corners in kinds)
        return first, second

    def select(
        self, top_left: CornerMaps, bottom_right: CornerMaps, image: int, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Boxes xyxy in pixels of the batch, labels and scores of one image of `size` (height, width), best first."""
        boxes, scores, classes = pair(best_corners(top_left, image), best_corners(bottom_right, image))
        boxes = clip_boxes_to_image(boxes * STRIDE, size)
        likely = remove_small_boxes(boxes, NOTHING)
        likely = likely[scores[likely] > self.score_threshold]
        boxes, scores, labels = boxes[likely], scores[likely], classes[likely] + 1
        kept, lowered = suppress(boxes, scores, labels, self.suppression, self.limit)
        above = lowered > self.score_threshold
        return {"boxes": boxes[kept][above], "labels": labels[kept][above], "scores": lowered[above]}


def image_losses(
    maps: tuple[CornerMaps, CornerMaps], image: int, wanted: tuple[CornerTargets, CornerTargets]
) -> dict[str, Tensor]:
    """The weighted losses of one image; heat and offsets are the sums over both kinds of corners."""
    embeddings, heat, offsets = [], [], []
    for found, target in zip(maps, wanted, strict=True):
        at = (slice(None), target.rows, target.columns)
        heat.append(heat_loss(found.heat[image].float(), target.heat))
        embeddings.append(found.embedding[image].float()[at][0])
        offsets.append(offset_loss(found.offsets[image].float()[at].T, target.offsets))
    return {
        "heat": heat[0] + heat[1],
        "pull": PULL_WEIGHT * pull_loss(*embeddings),
        "push": PUSH_WEIGHT * push_loss(*embeddings),
        "offsets": offsets[0] + offsets[1],
    }
