"""Panoptic FPN: Mask R-CNN and a light semantic branch on one feature pyramid. https://arxiv.org/abs/1901.02446

The network is given which labels are stuff (`stuff`, numbers with commas between); all others are things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from shardlens.models.backbones import Backbone
from shardlens.models.box_masks import PastedMasks, keeping_box_masks
from shardlens.models.errors import ModelError
from shardlens.models.losses.segmentation import VOID, cross_entropy
from shardlens.models.options import require
from shardlens.models.segmentation.panoptic_merging import NOTHING, STUFF, THING, MergeRule, merge
from shardlens.models.spec import ModelSpec
from shardlens.models.torchvision_zoo import transform_rule

LEVELS = ("0", "1", "2", "3")
"""Of the pyramid, strides 4 to 32; the fifth serves the proposals alone."""


class SemanticBranch(nn.Module):
    """Every level brought to stride 4 by convolutions and doublings, summed, then classified."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_stage(inputs, width, doublings) for doublings in range(len(LEVELS)))
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (N, K, 4 h, 4 w) of levels (N, C, h, w), (N, C, h / 2, w / 2), ..."""
        total = torch.stack([stage(features[level]) for stage, level in zip(self.stages, LEVELS, strict=True)]).sum(0)
        return F.interpolate(self.classifier(total), scale_factor=4.0, mode="bilinear", align_corners=False)


def _stage(inputs: int, width: int, doublings: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(max(doublings, 1)):
        layers += [nn.Conv2d(inputs if i == 0 else width, width, 3, padding=1, bias=False)]
        layers += [nn.GroupNorm(gcd(32, width), width), nn.ReLU(inplace=True)]
        if doublings:
            layers.append(nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)


class PanopticFPN(nn.Module):
    """Both branches on one pyramid, and the merging of what they find."""

    def __init__(
        self, instance: MaskRCNN, semantic: SemanticBranch, table: Tensor, rule: MergeRule, weight: float
    ) -> None:
        """`table` maps a label of the map to a class of the semantic branch; `weight` is that branch's in the loss."""
        super().__init__()
        self.transform = keeping_box_masks(instance.transform)
        self.backbone, self.rpn, self.roi_heads = instance.backbone, instance.rpn, instance.roi_heads
        self.semantic = semantic
        self.rule, self.weight = rule, weight
        self.register_buffer("table", table, persistent=False)

    def forward(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        """Losses in training; else for each image the things found and the panoptic map.

        Args:
            images: (3, H, W) in [0, 1].
            targets: boxes (N, 4) xyxy, labels (N,) int64, masks (N, H, W) uint8 of the things, map (H, W) uint8 of the
                labels of things and stuff, 0 = nothing, VOID = not learned from.

        Returns:
            In evaluation boxes, labels, scores (N,) of the things before the merging; panoptic (H, W) int64, the number
            of the segment that has the pixel, 0 = none; segment_labels (S,), segment_scores (S,) and segment_things
            (S,) bool of the segments 1 to S.
        """
        if self.training and targets is None:
            raise ModelError("panoptic_fpn needs targets in training")
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        resized, objects = self.transform(list(images), None if targets is None else [dict(t) for t in targets])
        features = self.backbone(resized.tensors)
        proposals, losses = self.rpn(resized, features, objects)
        found, more = self.roi_heads(features, proposals, resized.image_sizes, objects)
        logits = self.semantic(features)[..., : resized.tensors.shape[-2], : resized.tensors.shape[-1]]
        if self.training and targets is not None:
            truth = self._truth(targets, resized.image_sizes, resized.tensors.shape[-2:])
            return {**losses, **more, "loss_semantic": self.weight * cross_entropy(logits, truth)}
        found = self.transform.postprocess(found, resized.image_sizes, sizes)
        maps = [_restored(logits[i], *both) for i, both in enumerate(zip(resized.image_sizes, sizes, strict=True))]
        return [self._merged(things, probability) for things, probability in zip(found, maps, strict=True)]

    def _truth(
        self, targets: Sequence[Mapping[str, Tensor]], sizes: Sequence[tuple[int, int]], padded: Sequence[int]
    ) -> Tensor:
        """(N, H, W) int64 classes of the semantic branch at the size that it works on."""
        maps = []
        for target, (height, width) in zip(targets, sizes, strict=True):
            small = F.interpolate(target["map"][None, None].float(), (height, width), mode="nearest-exact")[0, 0]
            maps.append(F.pad(small.long(), (0, padded[1] - width, 0, padded[0] - height), value=VOID))
        truth: Tensor = self.get_buffer("table")[torch.stack(maps)]
        return truth

    def _merged(self, things: dict[str, Tensor], probability_khw: Tensor) -> dict[str, Tensor]:
        height, width = probability_khw.shape[1:]
        masks = PastedMasks(things.pop("box_masks"), things["boxes"], (height, width))
        segments = merge(masks, things["labels"], things["scores"], probability_khw, self.rule)
        return {**things, **segments}


def _restored(logits_khw: Tensor, inner: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Probabilities (K, H, W) at the image's own size."""
    cropped = logits_khw[None, :, : inner[0], : inner[1]]
    return F.interpolate(cropped, size, mode="bilinear", align_corners=False)[0].softmax(0)


def _stuff_labels(stuff: str, num_classes: int) -> tuple[int, ...]:
    try:
        labels = tuple(sorted({int(number) for number in stuff.split(",") if number.strip()}))
    except ValueError:
        labels = (0,)
    if any(not 0 < label < num_classes for label in labels):
        raise ModelError(f"option stuff is {stuff!r}; expected numbers of labels, 1 to {num_classes - 1}, such as 3,4")
    return labels


def _table(stuff: Sequence[int]) -> Tensor:
    """(256,) class of the semantic branch of each label."""
    table = torch.full((VOID + 1,), THING)
    table[0], table[VOID] = NOTHING, VOID
    for place, label in enumerate(stuff):
        table[label] = STUFF + place
    return table


class Pyramid(Backbone):
    """A classifier's features at strides 4 to 32, and a pyramid of equal channels over them."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__(name, (4, 8, 16, 32), widened=False)
        self.fpn = FeaturePyramidNetwork(list(self.channels), width, extra_blocks=LastLevelMaxPool())
        self.out_channels = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # by level
        """Levels "0" to "3" and "pool", (N, width, H / stride, W / stride) of images (N, 3, H, W)."""
        levels: dict[str, Tensor] = self.fpn(dict(zip(LEVELS, super().forward(images), strict=True)))
        return levels


def _build(
    *,
    num_classes: int,
    stuff: str = "",
    backbone: str = "resnet50",
    width: int = 256,
    hidden: int = 1024,
    semantic_width: int = 128,
    semantic_weight: float = 0.5,
    min_size: int = 800,
    max_size: int = 1333,
    score_threshold: float = 0.5,
    least_visible: float = 0.5,
    stuff_area: int = 4096,
    stuff_probability: float = 0.5,
) -> PanopticFPN:
    """The paper's is `stuff_probability` 0: every pixel without a thing goes to the likeliest stuff."""
    for name, value in (
        ("width", width),
        ("hidden", hidden),
        ("semantic_width", semantic_width),
        ("min_size", min_size),
    ):
        require(name, value, 1)
    require("score_threshold", score_threshold, 0, 1)
    require("semantic_weight", semantic_weight, 0)
    labels = _stuff_labels(stuff, num_classes)
    rule = MergeRule(labels, least_visible, stuff_area, stuff_probability)
    instance = MaskRCNN(
        Pyramid(backbone, width),
        box_head=TwoMLPHead(width * 49, hidden),
        box_predictor=FastRCNNPredictor(hidden, num_classes),
        mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(width, width, num_classes),
        min_size=min_size,
        max_size=max_size,
        box_score_thresh=score_threshold,
    )
    branch = SemanticBranch(width, semantic_width, STUFF + len(labels))
    return PanopticFPN(instance, branch, _table(labels), rule, semantic_weight)


SPEC = ModelSpec(
    name="panoptic_fpn",
    task="panoptic",
    build=_build,
    input_rule=transform_rule,
    paper="https://arxiv.org/abs/1901.02446",
    score_option="score_threshold",
)
