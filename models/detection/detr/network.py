"""The network of DETR. https://arxiv.org/abs/2005.12872"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d, box_convert, clip_boxes_to_image

from shardlens.models.backbones import MEAN, STD, Backbone
from shardlens.models.detection.detr.positions import padding, sine_positions
from shardlens.models.detection.detr.set_loss import Found, Truth, set_loss
from shardlens.models.detection.detr.transformer import Transformer
from shardlens.models.errors import ModelError

STRIDE = 32
_EARLY = ("conv1.", "layer1.", "features.0.", "features.1.")
"""What stays as ImageNet left it."""


class Body(nn.Module):
    """The backbone's last features. With `frozen` its norms and its first stage keep their values."""

    def __init__(self, name: str, stride: int, frozen: bool) -> None:
        super().__init__()
        self.body = Backbone(name, (stride,), widened=False)
        if frozen:
            _freeze_norms(self.body)
            for key, parameter in self.body.named_parameters():
                parameter.requires_grad_(not key.startswith(_EARLY))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H / stride, W / stride) of normalized images (N, 3, H, W)."""
        features: Tensor = self.body(images)[0]
        return features


def _freeze_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, child.eps))
        else:
            _freeze_norms(child)


class Perceptron(nn.Module):
    """Three linear layers with ReLU between."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, outputs)])

    def forward(self, x: Tensor) -> Tensor:
        """(..., outputs) of (..., width)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


class DETR(nn.Module):
    """Queries that each name one object or none, found by attention between them and to the image.

    The published checkpoints count 91 labels, COCO's ids with 0 standing for nothing, and "no object" behind them. Here
    label 0 is the background, which is the same: its logit is never asked for, and "no object" is one more, the last.
    """

    def __init__(
        self,
        num_classes: int,
        body: Body,
        transformer: Transformer,
        transform: nn.Module,
        queries: int,
        score_threshold: float,
    ) -> None:
        super().__init__()
        width = transformer.decoder.norm.normalized_shape[0]
        self.transformer = transformer
        self.class_embed = nn.Linear(width, num_classes + 1)
        self.bbox_embed = Perceptron(width, 4)
        self.query_embed = nn.Embedding(queries, width)
        self.input_proj = nn.Conv2d(body.body.channels[-1], width, 1)
        self.backbone = nn.ModuleList([body])
        self.transform: Any = transform
        self.score_threshold = score_threshold

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation, as the zoo's contract has it (`shardlens.models.spec.ModelSpec`)."""
        if self.training and targets is None:
            raise ModelError("DETR in training needs targets: for each image its boxes (N, 4) xyxy and labels (N,)")
        batch, scaled = self.transform(images, targets)
        layers = self.ask(batch.tensors, batch.image_sizes)
        if self.training:
            return losses(layers, _truths(scaled, batch.image_sizes))
        detections = select(layers[-1], batch.image_sizes, self.score_threshold)
        shown: list[dict[str, Tensor]] = self.transform.postprocess(
            detections, batch.image_sizes, [(image.shape[-2], image.shape[-1]) for image in images]
        )
        return shown

    def ask(self, batch: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Found]:
        """What the queries say after each decoder layer.

        Args:
            batch: (N, 3, H, W), normalized and padded with zeros right and below.
            sizes: (height, width) of the images within.
        """
        features = self.input_proj(self.backbone[0](batch))
        padded = padding(sizes, batch, features)
        positions = sine_positions(padded, features.shape[1]).to(features.dtype)
        layers = self.transformer(features, positions, padded, self.query_embed.weight)
        return [Found(self.class_embed(x), self.bbox_embed(x).sigmoid()) for x in layers]


def losses(layers: Sequence[Found], truths: Sequence[Truth]) -> dict[str, Tensor]:
    """The set loss of the last layer, and of those before it under names with their number."""
    found = {f"{name}_{i}": value for i, layer in enumerate(layers) for name, value in set_loss(layer, truths).items()}
    last = f"_{len(layers) - 1}"
    return {name.removesuffix(last): value for name, value in found.items()}


def _truths(targets: Sequence[Mapping[str, Tensor]], sizes: Sequence[tuple[int, int]]) -> list[Truth]:
    """Objects with their boxes as shares of the images, from boxes in the pixels of images of `sizes`."""
    centered = [box_convert(target["boxes"].float(), "xyxy", "cxcywh") for target in targets]
    return [
        Truth(target["labels"], boxes / boxes.new_tensor([width, height, width, height]))
        for target, boxes, (height, width) in zip(targets, centered, sizes, strict=True)
    ]


def select(found: Found, sizes: Sequence[tuple[int, int]], threshold: float) -> list[dict[str, Tensor]]:
    """Per image boxes xyxy in pixels of images of `sizes`, labels and scores above `threshold`, best first."""
    scores, labels = found.logits.float().softmax(-1)[..., 1:-1].max(-1)
    corners = box_convert(found.boxes.float(), "cxcywh", "xyxy")
    selected = []
    for image in range(len(scores)):
        height, width = sizes[image]
        order = scores[image].argsort(descending=True, stable=True)
        kept = order[scores[image][order] > threshold]
        pixels = corners[image, kept] * corners.new_tensor([width, height, width, height])
        boxes = clip_boxes_to_image(pixels, sizes[image])
        selected.append({"boxes": boxes, "labels": labels[image, kept] + 1, "scores": scores[image, kept]})
    return selected


def resize_and_normalize(min_size: int, max_size: int) -> GeneralizedRCNNTransform:
    """Torchvision's: the shorter side becomes `min_size`, ImageNet's mean and deviation, padded to a multiple of the stride."""
    return GeneralizedRCNNTransform(min_size, max_size, list(MEAN), list(STD), size_divisible=STRIDE)
