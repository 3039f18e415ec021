"""Detection by classification: every window of an image at several scales is cut out and classified, then suppressed.

As of old (https://doi.org/10.1023/B:VISI.0000013087.49260.fb, https://doi.org/10.1109/CVPR.2005.177), with a
convolutional network for the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from shardlens.models.boxes.windows import Pyramid, inside, parse_scales, sample_windows
from shardlens.models.detection.region_heads import Target
from shardlens.models.detection.selection import Detections, Selection, by_class, selection
from shardlens.models.detection.two_stage import resizing
from shardlens.models.detection.window_classifier import WindowClassifier, WindowTrunk
from shardlens.models.options import require
from shardlens.models.spec import ModelSpec
from shardlens.models.torchvision_zoo import transform_rule

_AT_ONCE = 512
"""Windows that go through the network together."""


class SlidingWindow(nn.Module):
    """A classifier of windows, and where the windows lie."""

    def __init__(
        self, transform: nn.Module, classifier: WindowClassifier, pyramid: Pyramid, select: Selection, samples: int
    ) -> None:
        super().__init__()
        self.transform = transform
        self.classifier = classifier
        self.pyramid = pyramid
        self.select = select
        self.samples = samples

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """`classification` in training, of windows cut from the images; else detections of each image, in its pixels."""
        sizes = [tuple(image.shape[-2:]) for image in images]
        batch, resized = self.transform(list(images), targets)
        if self.training:
            return {"classification": self._loss(batch.tensors, resized, batch.image_sizes)}
        found = [self._detect(image, size) for image, size in zip(batch.tensors, batch.image_sizes, strict=True)]
        detections: list[Detections] = self.transform.postprocess(found, batch.image_sizes, sizes)  # type: ignore[operator]
        return detections

    def _loss(self, images: Tensor, targets: Sequence[Target], sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Cross entropy, the mean over sampled windows; the true boxes themselves are windows too."""
        cut, labels = [], []
        for target, size in zip(targets, sizes, strict=True):
            windows = torch.cat([self.pyramid.boxes(size).to(images.device), target["boxes"]])
            sample = sample_windows(windows, target["boxes"], target["labels"], self.samples, size)
            cut.append(windows[sample.index])
            labels.append(sample.labels)
        return F.cross_entropy(self.classifier(self._crops(images, cut)).float(), torch.cat(labels))

    def _crops(self, images: Tensor, windows: Sequence[Tensor]) -> Tensor:
        """The windows of each image, stretched to the classifier's input: (S, 3, window, window)."""
        crops: Tensor = roi_align(images, [each.to(images) for each in windows], self.pyramid.window, aligned=True)
        return crops

    def _detect(self, image: Tensor, size: tuple[int, int]) -> Detections:
        windows = self.pyramid.boxes(size).to(image.device)
        windows = windows[inside(windows, size)]
        logits = [self.classifier(self._crops(image[None], [part])) for part in torch.split(windows, _AT_ONCE)]
        return self.select(*by_class(windows, torch.cat(logits).float().softmax(1)), size)


def _build(
    *,
    num_classes: int,
    backbone: str = "resnet18",
    features_stride: int = 16,
    window: int = 64,
    stride: int = 16,
    scales: str = "1,0.71,0.5,0.35,0.25",
    hidden: int = 256,
    samples: int = 64,
    min_size: int = 320,
    max_size: int = 640,
    score_threshold: float = 0.5,
    nms_threshold: float = 0.3,
    suppression: str = "hard",
    detections_per_image: int = 100,
) -> nn.Module:
    """`window` and `stride` in pixels of the image resized to `min_size` and then by each of `scales`; `samples` windows
    of an image are learned from in a step.
    """
    require("samples", samples, 2)
    require("features_stride", features_stride, 1)
    pyramid = Pyramid(window, stride, parse_scales(scales))
    classifier = WindowClassifier(WindowTrunk(backbone, window, features_stride, hidden), num_classes)
    select = selection(score_threshold, nms_threshold, detections_per_image, suppression)
    return SlidingWindow(resizing(min_size, max_size), classifier, pyramid, select, samples)


SPEC = ModelSpec(
    name="sliding_window",
    task="detection",
    build=_build,
    input_rule=transform_rule,
    paper="https://doi.org/10.1109/CVPR.2005.177",
    score_option="score_threshold",
)
