"""OverFeat: a class head and a box head on one coarse grid of features over several scales; boxes merge.

https://arxiv.org/abs/1312.6229
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from shardlens.models.boxes.merging import greedy_merge
from shardlens.models.boxes.windows import Pyramid, WindowSample, inside, joined, parse_scales, sample_windows
from shardlens.models.detection.convolutional_classifier import pyramid_of
from shardlens.models.detection.region_heads import Target
from shardlens.models.detection.selection import NOTHING, Detections
from shardlens.models.detection.two_stage import resizing
from shardlens.models.detection.window_classifier import WindowTrunk, as_convolution, listed
from shardlens.models.options import require
from shardlens.models.spec import ModelSpec
from shardlens.models.torchvision_zoo import transform_rule

_CANDIDATES = 200
"""Windows of a class that are merged, at most; the most confident ones."""


class OverFeat(nn.Module):
    """Both heads stand on the trunk's features, which are computed once."""

    def __init__(
        self,
        transform: nn.Module,
        trunk: WindowTrunk,
        num_classes: int,
        pyramid: Pyramid,
        *,
        samples: int,
        score_threshold: float,
        merge_limit: float,
        detections: int,
    ) -> None:
        super().__init__()
        self.transform = transform
        self.trunk = trunk
        hidden = trunk.second.out_features
        self.classes = nn.Linear(hidden, num_classes)
        self.box_hidden = nn.Linear(hidden, hidden)
        self.boxes = nn.Linear(hidden, 4 * num_classes)
        self.pyramid = pyramid
        self.samples = samples
        self.score_threshold = score_threshold
        self.merge_limit = merge_limit
        self.detections = detections

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, T, K) and box edges (N, T, K, 4) of the pyramid's T windows over images (N, 3, H, W).

        An edge is given from the window's own edge, in parts of the window's side.
        """
        size = (images.shape[2], images.shape[3])
        logits, edges = [], []
        for scaled in pyramid_of(images, self.pyramid, size):
            features = self.trunk.convolved(scaled)
            logits.append(listed(as_convolution(self.classes, features)))
            edges.append(listed(as_convolution(self.boxes, F.relu(as_convolution(self.box_hidden, features)))))
        moved = torch.cat(edges, 1).float()
        return torch.cat(logits, 1).float(), moved.reshape(*moved.shape[:2], -1, 4)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """`classification` and `box` in training; else detections of each image, in its pixels."""
        sizes = [tuple(image.shape[-2:]) for image in images]
        batch, resized = self.transform(list(images), targets)
        windows = self.pyramid.boxes(tuple(batch.tensors.shape[-2:])).to(batch.tensors.device)
        logits, edges = self.judge(batch.tensors)
        if self.training:
            return self._losses(logits, edges, windows, resized, batch.image_sizes)
        found = [
            self._detect(scores, windows + moves * _sides(windows), size, inside(windows, size))
            for scores, moves, size in zip(
                logits.softmax(2).unbind(), edges.transpose(1, 2).unbind(), batch.image_sizes, strict=True
            )
        ]
        detections: list[Detections] = self.transform.postprocess(found, batch.image_sizes, sizes)  # type: ignore[operator]
        return detections

    def _losses(
        self,
        logits: Tensor,
        edges: Tensor,
        windows: Tensor,
        targets: Sequence[Target],
        sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Tensor]:
        """Cross entropy, and the squared error of the true class's edges where there is an object."""
        samples = [
            sample_windows(windows, target["boxes"], target["labels"], self.samples, size)
            for target, size in zip(targets, sizes, strict=True)
        ]
        index, labels = joined(samples, len(windows))
        objects = labels > 0
        own = edges.flatten(0, 1)[index[objects], labels[objects]]
        wanted = torch.cat(
            [_edges(sample, windows, target["boxes"]) for sample, target in zip(samples, targets, strict=True)]
        )
        box = F.mse_loss(own, wanted, reduction="sum") / objects.sum().clamp(min=1)
        return {"classification": F.cross_entropy(logits.flatten(0, 1)[index], labels), "box": box}

    def _detect(self, scores: Tensor, boxes: Tensor, size: tuple[int, int], seen: Tensor) -> Detections:
        """Merge class by class, then keep the most confident.

        Args:
            scores: (T, K).
            boxes: (K, T, 4) xyxy.
            seen: (T,) which windows count.
        """
        found = []
        for label in range(1, scores.shape[1]):
            strong = torch.where(seen & (scores[:, label] > self.score_threshold))[0]
            strong = strong[scores[strong, label].argsort(descending=True, stable=True)[:_CANDIDATES]]
            each = clip_boxes_to_image(boxes[label, strong], size)
            kept = remove_small_boxes(each, NOTHING)
            found.append((label, *greedy_merge(each[kept], scores[strong[kept], label], self.merge_limit)))
        merged, sums = torch.cat([f[1] for f in found]), torch.cat([f[2] for f in found])
        labels = torch.cat([torch.full((len(f[2]),), f[0], device=scores.device) for f in found])
        best = sums.argsort(descending=True, stable=True)[: self.detections]
        return {"boxes": merged[best], "labels": labels[best], "scores": sums[best] / (1 + sums[best])}


def _sides(windows: Tensor) -> Tensor:
    """Length of the sides of square windows (T, 4), as (T, 1)."""
    return windows[:, 2:3] - windows[:, 0:1]


def _edges(sample: WindowSample, windows: Tensor, boxes: Tensor) -> Tensor:
    """Edges (S, 4) of the true boxes of a sample's objects, as `OverFeat.judge` gives them."""
    objects = sample.labels > 0
    own = windows[sample.index[objects]]
    return (boxes[sample.truth[objects]] - own) / _sides(own)


def _build(
    *,
    num_classes: int,
    backbone: str = "vgg16",
    window: int = 224,
    stride: int = 32,
    scales: str = "1,1.15,1.29,1.59,1.73,1.88",
    hidden: int = 4096,
    samples: int = 64,
    min_size: int = 245,
    max_size: int = 461,
    score_threshold: float = 0.5,
    merge_limit: float = 0.8,
    detections_per_image: int = 100,
) -> nn.Module:
    """`scales` multiply the image resized to `min_size`; the defaults give the paper's six sizes. `merge_limit`: boxes
    merge while their centers' distance in parts of their diagonal plus 1 - IoU stays below it.
    """
    require("samples", samples, 2)
    require("score_threshold", score_threshold, 0, 1)
    require("merge_limit", merge_limit, 0)
    require("detections_per_image", detections_per_image, 1)
    return OverFeat(
        resizing(min_size, max_size),
        WindowTrunk(backbone, window, stride, hidden),
        num_classes,
        Pyramid(window, stride, parse_scales(scales)),
        samples=samples,
        score_threshold=score_threshold,
        merge_limit=merge_limit,
        detections=detections_per_image,
    )


SPEC = ModelSpec(
    name="overfeat",
    task="detection",
    build=_build,
    input_rule=transform_rule,
    paper="https://arxiv.org/abs/1312.6229",
    score_option="score_threshold",
)
