"""A classifier with its dense layers turned into convolutions: one pass over an image scores all of its windows.

https://arxiv.org/abs/1312.6229, section 3.5; https://arxiv.org/abs/1411.4038, section 3.1
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.boxes.windows import Pyramid, inside, joined, parse_scales, sample_windows
from shardlens.models.detection.region_heads import Target
from shardlens.models.detection.selection import Detections, Selection, by_class, selection
from shardlens.models.detection.two_stage import resizing
from shardlens.models.detection.window_classifier import WindowClassifier, WindowTrunk, fitted, listed
from shardlens.models.options import require
from shardlens.models.spec import ModelSpec
from shardlens.models.torchvision_zoo import transform_rule


class ConvolutionalClassifier(nn.Module):
    """The grids of window scores at several scales, and the detections that come of them."""

    def __init__(
        self, transform: nn.Module, classifier: WindowClassifier, pyramid: Pyramid, select: Selection, samples: int
    ) -> None:
        super().__init__()
        self.transform = transform
        self.classifier = classifier
        self.pyramid = pyramid
        self.select = select
        self.samples = samples

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, T, K) of the pyramid's T windows over images (N, 3, H, W)."""
        size = (images.shape[2], images.shape[3])
        return torch.cat(
            [listed(self.classifier.convolved(each)) for each in pyramid_of(images, self.pyramid, size)], 1
        )

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """`classification` in training, of cells of the grids; else detections of each image, in its pixels."""
        sizes = [tuple(image.shape[-2:]) for image in images]
        batch, resized = self.transform(list(images), targets)
        windows = self.pyramid.boxes(tuple(batch.tensors.shape[-2:])).to(batch.tensors.device)
        logits = self.logits(batch.tensors).float()
        if self.training:
            samples = [
                sample_windows(windows, target["boxes"], target["labels"], self.samples, size)
                for target, size in zip(resized, batch.image_sizes, strict=True)
            ]
            index, labels = joined(samples, len(windows))
            return {"classification": F.cross_entropy(logits.flatten(0, 1)[index], labels)}
        found = []
        for scores, size in zip(logits.softmax(2), batch.image_sizes, strict=True):
            seen = inside(windows, size)
            found.append(self.select(*by_class(windows[seen], scores[seen]), size))
        detections: list[Detections] = self.transform.postprocess(found, batch.image_sizes, sizes)  # type: ignore[operator]
        return detections


def pyramid_of(images: Tensor, pyramid: Pyramid, size: tuple[int, int]) -> list[Tensor]:
    """Images (N, 3, H, W) of `size` at each scale, padded to what the windows fill."""
    return [fitted(images, pyramid.resized(size, scale), pyramid.padded(size, scale)) for scale in pyramid.scales]


def _build(
    *,
    num_classes: int,
    backbone: str = "vgg16",
    window: int = 224,
    stride: int = 32,
    scales: str = "1,0.71,0.5",
    hidden: int = 4096,
    samples: int = 64,
    min_size: int = 480,
    max_size: int = 800,
    score_threshold: float = 0.5,
    nms_threshold: float = 0.3,
    suppression: str = "hard",
    detections_per_image: int = 100,
) -> nn.Module:
    """`window` is the classifier's input; its first dense layer spans `window` / `stride` features each way."""
    require("samples", samples, 2)
    pyramid = Pyramid(window, stride, parse_scales(scales))
    classifier = WindowClassifier(WindowTrunk(backbone, window, stride, hidden), num_classes)
    select = selection(score_threshold, nms_threshold, detections_per_image, suppression)
    return ConvolutionalClassifier(resizing(min_size, max_size), classifier, pyramid, select, samples)


SPEC = ModelSpec(
    name="convolutional_classifier",
    task="detection",
    build=_build,
    input_rule=transform_rule,
    paper="https://arxiv.org/abs/1312.6229",
    score_option="score_threshold",
)
