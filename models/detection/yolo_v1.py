"""YOLO, the first: one look at the whole image, S x S cells, B boxes and one class for each of them.

https://arxiv.org/abs/1506.02640
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from shardlens.models.backbones import MEAN, STD, Backbone
from shardlens.models.detection.selection import NOTHING
from shardlens.models.errors import ModelError
from shardlens.models.losses.yolo_v1 import Cells, decode, losses, read_truth
from shardlens.models.options import require
from shardlens.models.spec import InputRule, ModelSpec

PAPER = "paper"
_STRIDES = (8, 16, 32, 64)
_CHANNELS = 1024  # of the maps that the fully connected layers see
_STAGES: tuple[tuple[tuple[int, int], ...], ...] = (
    ((192, 3),),
    ((128, 1), (256, 3), (256, 1), (512, 3)),
    (*4 * ((256, 1), (512, 3)), (512, 1), (1024, 3)),
    (*2 * ((512, 1), (1024, 3)),),
)
"""(filters, window) of the convolutions after each pooling."""


@dataclass(frozen=True)
class Layout:
    """The sizes of input and output, and which detections are kept."""

    input_size: int
    """Height and width in pixels that every image is stretched to."""
    grid: int
    """S: rows and columns of cells."""
    boxes: int
    """B: boxes of a cell."""
    classes: int
    """C."""
    score_threshold: float
    nms_threshold: float
    limit: int
    """At most so many detections an image."""


class Head(NamedTuple):
    """The sizes of the fully connected layers."""

    channels: int
    """Of the maps that come in."""
    hidden: int
    dropout: float


class YoloV1(nn.Module):
    """A backbone, one hidden layer, and S * S * (5 B + C) linear outputs.

    The paper's network as it stands, except that a position in the output means: first the cell, then x, y, width, height
    and confidence of each box, then the classes, where Darknet's .weights have all classes first.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Sequential | Backbone, neck: nn.Sequential, head: Head, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.backbone, self.neck = backbone, neck
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(head.channels * layout.grid**2, head.hidden),
            nn.LeakyReLU(0.1),
            nn.Dropout(head.dropout),
            nn.Linear(head.hidden, layout.grid**2 * (5 * layout.boxes + layout.classes)),
        )
        known = isinstance(backbone, Backbone)  # and then perhaps from ImageNet
        self.register_buffer("mean", torch.tensor(MEAN if known else (0.0,) * 3)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD if known else (1.0,) * 3)[:, None, None], persistent=False)
        _begin_in_the_middle(self.head[-1], layout)

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> list[dict[str, Tensor]] | dict[str, Tensor]:
        """Detections of each image, best first: boxes (N, 4) xyxy in its pixels, labels (N,) from 0, scores (N,).

        In training the losses of `targets` with boxes (N, 4) xyxy in pixels and labels (N,): `shardlens.models.losses.yolo_v1`.
        `images` are (3, h, w) floats in [0, 1], of any sizes; each is stretched to the network's.
        """
        side = self.layout.input_size
        batch = torch.stack([F.interpolate(image[None], (side, side), mode="bilinear")[0] for image in images])
        cells = self.cells(((batch - self.mean) / self.std).to(next(self.parameters()).dtype))
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        if not self.training:
            return [self.detect(Cells(*(part[i] for part in cells)), size) for i, size in enumerate(sizes)]
        if targets is None:
            raise ModelError(
                "a network in training needs targets (boxes and labels of each image); or call eval() first"
            )
        return losses(cells, read_truth(targets, sizes, self.layout.grid))

    def cells(self, batch: Tensor) -> Cells:
        """The output for images (N, 3, input_size, input_size), of at least float32."""
        s, b = self.layout.grid, self.layout.boxes
        maps = self.backbone(batch)
        output: Tensor = self.head(self.neck(maps[0] if isinstance(maps, list) else maps))
        output = output.to(torch.promote_types(output.dtype, torch.float32)).view(len(batch), s, s, -1)
        boxes = output[..., : 5 * b].reshape(-1, s, s, b, 5)
        return Cells(boxes[..., :4], boxes[..., 4], output[..., 5 * b :])

    def detect(self, cells: Cells, size: tuple[int, int]) -> dict[str, Tensor]:
        """The detections in one image of `size` (height, width), `cells` without their N.

        A score is the box's confidence x the probability of the class.
        """
        s, layout = self.layout.grid, self.layout
        row, column = torch.meshgrid(*2 * (torch.arange(s, device=self.mean.device),), indexing="ij")
        height, width = size
        boxes = decode(cells.boxes, row[..., None], column[..., None], s)
        pixels = (boxes * boxes.new_tensor([width, height, width, height])).flatten(0, 2)
        scores = (cells.confidence[..., None] * cells.classes[:, :, None]).flatten(0, 2).clamp(0, 1)
        rows, labels = torch.where(scores > layout.score_threshold)
        found = clip_boxes_to_image(pixels[rows], size)
        solid = remove_small_boxes(found, NOTHING)
        found, sure, labels = found[solid], scores[rows, labels][solid], labels[solid]
        kept = batched_nms(found, sure, labels, layout.nms_threshold)[: layout.limit]
        return {"boxes": found[kept], "labels": labels[kept], "scores": sure[kept]}


def _convolution(inputs: int, filters: int, size: int, stride: int = 1, norm: bool = False) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, filters, size, stride, size // 2, bias=not norm)
    nn.init.kaiming_normal_(convolution.weight, a=0.1)  # 24 layers without normalization vanish otherwise
    return nn.Sequential(convolution, *([nn.BatchNorm2d(filters)] if norm else []), nn.LeakyReLU(0.1, inplace=True))


def _paper(width: float, norm: bool) -> tuple[nn.Sequential, nn.Sequential]:
    """The paper's convolutions, of stride 64: the 20 that it trained on ImageNet first, and the 4 that follow."""
    channels = _scaled(64, width)
    layers: list[nn.Module] = [_convolution(3, channels, 7, 2, norm)]
    for stage in _STAGES:
        layers.append(nn.MaxPool2d(2))
        for filters, size in stage:
            inputs, channels = channels, _scaled(filters, width)
            layers.append(_convolution(inputs, channels, size, 1, norm))
    return nn.Sequential(*layers), nn.Sequential(*(_convolution(channels, channels, 3, s, norm) for s in (1, 2, 1, 1)))


def _known(name: str, stride: int, width: float) -> tuple[Backbone, nn.Sequential]:
    """One of torchvision's backbones, and a convolution that brings its stride to 64 where that is asked for."""
    backbone = Backbone(name, (min(stride, 32),))
    channels = _scaled(_CHANNELS, width)
    return backbone, _convolution(backbone.channels[0], channels, 3, stride // min(stride, 32), norm=True)


def _scaled(filters: int, width: float) -> int:
    return max(1, round(filters * width))


@torch.no_grad()
def _begin_in_the_middle(last: nn.Module, layout: Layout) -> None:
    """Let the output begin with boxes of a third of the image in the middle of their cells, and a low confidence."""
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=0.01)
    box = torch.tensor([0.5, 0.5, 0.58, 0.58, 0.1])
    cell = torch.cat([box.repeat(layout.boxes), torch.full((layout.classes,), 1 / layout.classes)])
    last.bias.copy_(cell.repeat(layout.grid**2))


def _build(
    *,
    num_classes: int,
    backbone: str = PAPER,
    width: float = 1.0,
    hidden: int = 4096,
    dropout: float = 0.5,
    batch_norm: bool = False,
    input_size: int = 448,
    grid: int = 7,
    boxes: int = 2,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    detections_per_image: int = 100,
) -> YoloV1:
    """`backbone` is the paper's or one of torchvision's; `width` multiplies the filters of what is ours of it."""
    require("width", width, 0.01, 4)
    require("dropout", dropout, 0, 1)
    for name, value in (
        ("hidden", hidden),
        ("grid", grid),
        ("boxes", boxes),
        ("detections_per_image", detections_per_image),
    ):
        require(name, value, 1)
    require("score_threshold", score_threshold, 0, 1)
    require("nms_threshold", nms_threshold, 0, 1)
    stride = _stride(backbone, input_size, grid)
    body, neck = _paper(width, batch_norm) if backbone == PAPER else _known(backbone, stride, width)
    layout = Layout(input_size, grid, boxes, num_classes, score_threshold, nms_threshold, detections_per_image)
    return YoloV1(body, neck, Head(_scaled(_CHANNELS, width), hidden, dropout), layout)


def _stride(backbone: str, input_size: int, grid: int) -> int:
    """Pixels of the input per cell, which the backbone must be able to have."""
    known = _STRIDES[-1:] if backbone == PAPER else _STRIDES
    if input_size not in {stride * grid for stride in known}:
        sizes = ", ".join(str(stride * grid) for stride in known)
        raise ModelError(
            f"option input_size is {input_size}; with grid={grid} and backbone={backbone} it must be {sizes}"
        )
    return input_size // grid


def _rule(model: nn.Module) -> InputRule:
    assert isinstance(model, YoloV1)
    return InputRule(fixed=(model.layout.input_size,) * 2)


SPEC = ModelSpec(
    name="yolo_v1",
    task="detection",
    build=_build,
    input_rule=_rule,
    paper="https://arxiv.org/abs/1506.02640",
    background=False,
    score_option="score_threshold",
)
