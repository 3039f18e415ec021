"""Localization as regression: for exactly N objects, N x 4 coordinates and N x K class scores from one network.

As in VGG's entry to ILSVRC-2014: https://arxiv.org/abs/1409.1556, appendix A
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from shardlens.models.backbones import MEAN, STD, Backbone
from shardlens.models.detection.region_heads import Target
from shardlens.models.detection.selection import Detections
from shardlens.models.options import require
from shardlens.models.spec import ModelSpec
from shardlens.models.torchvision_zoo import transform_rule

_STRIDE = 32


class Localiser(nn.Module):
    """A class head and a box head over all features of an image, which is stretched to a square.

    Slot i answers for the i-th object from left to right, by the boxes' centers (those level with each other from top to
    bottom). Of more than N objects the N largest count; slots without an object are background.

    Attributes:
        objects: the N.
        train_backbone: False = the heads alone learn, on features that stay as they were loaded.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        objects: int,
        *,
        side: int,
        hidden: int,
        train_backbone: bool,
        score_threshold: float,
    ) -> None:
        super().__init__()
        size = (side, side)
        self.transform: nn.Module = GeneralizedRCNNTransform(side, side, list(MEAN), list(STD), fixed_size=size)
        self.backbone = backbone.requires_grad_(train_backbone)
        self.train_backbone = train_backbone
        self.objects = objects
        features = backbone.channels[0] * (-(-side // _STRIDE)) ** 2
        self.classes = _head(features, hidden, objects * num_classes)
        self.boxes = _head(features, hidden, objects * 4)
        with torch.no_grad():  # begin with the middle of the image
            self.boxes.get_parameter("2.bias").copy_(torch.tensor([0.25, 0.25, 0.75, 0.75]).repeat(objects))
        self.score_threshold = score_threshold

    def train(self, mode: bool = True) -> Localiser:
        """Switch to training; a backbone that does not learn keeps its statistics too."""
        super().train(mode)
        self.backbone.train(mode and self.train_backbone)
        return self

    def answers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, N, K), and boxes (B, N, 4) xyxy in parts of the image's sides, of images (B, 3, side, side)."""
        features = self.backbone(images)[0].flatten(1)
        logits = self.classes(features).reshape(len(images), self.objects, -1)
        return logits.float(), self.boxes(features).reshape(len(images), self.objects, 4).float()

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """`classification` and `box` in training; else at most N detections of each image, in its pixels."""
        sizes = [tuple(image.shape[-2:]) for image in images]
        batch, resized = self.transform(list(images), targets)
        height, width = batch.image_sizes[0]
        scale = batch.tensors.new_tensor([width, height, width, height])
        logits, boxes = self.answers(batch.tensors)
        if self.training:
            return self._losses(
                logits, boxes, [{**target, "boxes": target["boxes"] / scale} for target in resized or ()]
            )
        found = [
            self._filled(scores, each)
            for scores, each in zip(logits.softmax(2), boxes.clamp(0, 1) * scale, strict=True)
        ]
        detections: list[Detections] = self.transform.postprocess(found, batch.image_sizes, sizes)  # type: ignore[operator]
        return detections

    def _losses(self, logits: Tensor, boxes: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross entropy of every slot, and the squared error of the four coordinates of those with an object."""
        wanted, labels = zip(
            *(slots(target["boxes"], target["labels"], self.objects) for target in targets), strict=True
        )
        label = torch.stack(labels)
        taken = label > 0
        box = F.mse_loss(boxes[taken], torch.stack(wanted)[taken], reduction="sum") / taken.sum().clamp(min=1)
        return {"classification": F.cross_entropy(logits.flatten(0, 1), label.flatten()), "box": box}

    def _filled(self, scores: Tensor, boxes: Tensor) -> Detections:
        """The slots whose best class other than the background is likely enough, best first."""
        best, labels = scores[:, 1:].max(1)
        order = best.argsort(descending=True, stable=True)
        solid = (boxes[:, 2:] > boxes[:, :2]).all(1)
        kept = order[solid[order] & (best[order] > self.score_threshold)]
        return {"boxes": boxes[kept], "labels": labels[kept] + 1, "scores": best[kept]}


def slots(boxes: Tensor, labels: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    """What N slots should say: boxes (N, 4) and labels (N,), 0 where there is no object; see `Localiser` for the order.

    Args:
        boxes: (M, 4) xyxy.
        labels: (M,) int64.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    largest = sides.prod(1).argsort(descending=True, stable=True)[:objects]
    centers = (boxes[largest, :2] + boxes[largest, 2:]) / 2
    by_row = centers[:, 1].argsort(stable=True)
    order = largest[by_row[centers[by_row, 0].argsort(stable=True)]]
    free = objects - len(order)
    return F.pad(boxes[order], (0, 0, 0, free)), F.pad(labels[order], (0, free))


def _head(features: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs))


def _build(
    *,
    num_classes: int,
    objects: int = 1,
    backbone: str = "vgg16",
    train_backbone: bool = True,
    image_size: int = 224,
    hidden: int = 4096,
    score_threshold: float = 0.05,
) -> nn.Module:
    """`objects` is the paper's N. Train the heads alone with `train_backbone` false, then go on from that checkpoint with
    it true: the parameters' names are the same.
    """
    require("objects", objects, 1)
    require("image_size", image_size, _STRIDE)
    require("hidden", hidden, 1)
    require("score_threshold", score_threshold, 0, 1)
    return Localiser(
        Backbone(backbone, (_STRIDE,)),
        num_classes,
        objects,
        side=image_size,
        hidden=hidden,
        train_backbone=train_backbone,
        score_threshold=score_threshold,
    )


SPEC = ModelSpec(
    name="localiser",
    task="detection",
    build=_build,
    input_rule=transform_rule,
    paper="https://arxiv.org/abs/1409.1556",
    score_option="score_threshold",
)
