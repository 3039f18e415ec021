"""Networks that find the drawn shapes by their colors, well enough for figures between 0 and 1, without any training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.spec import InputRule, ModelSpec


class Colors(nn.Module):
    """Sees a disc in what is red, a square in what is green, a triangle in what is blue; at most one of each."""

    def __init__(self, masks: bool, nan_on_red: float) -> None:
        super().__init__()
        self.masks, self.nan_on_red = masks, nan_on_red
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5))

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> object:
        noise = self.body(torch.stack([image[:, :8, :8] for image in images]))
        if self.training:
            return {"noise": noise.square().mean()}
        return [self.found(image) for image in images]

    def found(self, image: Tensor) -> dict[str, Tensor]:
        smooth = F.avg_pool2d(image[None], 3, 1, 1)[0]
        rest = torch.stack([smooth[[c for c in range(3) if c != k]].amax(0) for k in range(3)])
        clear = (smooth > 0.6) & (smooth - rest > 0.1)
        labels = [k for k in range(3) if int(clear[k].sum()) > 20]
        boxes = torch.tensor([box_xyxy(clear[k]) for k in labels]).reshape(-1, 4)
        scores = torch.tensor([float(clear[k].float().mean()) for k in labels])
        if float(image[0].max()) > self.nan_on_red:
            scores = scores * torch.nan
        rows = {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64) + 1, "scores": scores}
        return {**rows, "masks": clear[labels][:, None].float()} if self.masks else rows


def box_xyxy(mask: Tensor) -> list[float]:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return [float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1]


def boxes(*, num_classes: int, nan_on_red: float = 2.0) -> nn.Module:
    return Colors(False, nan_on_red)


def instances(*, num_classes: int) -> nn.Module:
    return Colors(True, 2.0)


class Pixels(nn.Module):
    """Tells a pixel's class by its strongest color."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(8.0))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        rest = images.sum(1, keepdim=True) / 2
        return {"out": torch.cat([torch.zeros_like(rest) + 2, self.gain * (images * 1.5 - rest)], 1)}


class Wide(nn.Module):
    """A convolution that is wider than small images."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, num_classes, 9)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": F.interpolate(self.head(images), images.shape[-2:])}


def wide(*, num_classes: int) -> nn.Module:
    return Wide(num_classes)


def pixels(*, num_classes: int) -> nn.Module:
    return Pixels()


def rule(model: nn.Module) -> InputRule:
    return InputRule(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def plain_rule(model: nn.Module) -> InputRule:
    return InputRule()


HERE, PAPER = "tests.training.color_models", "https://example.org"
BOXES = ModelSpec(f"{HERE}:BOXES", "detection", boxes, plain_rule, PAPER)
INSTANCES = ModelSpec(f"{HERE}:INSTANCES", "instance", instances, plain_rule, PAPER)
PIXELS = ModelSpec(f"{HERE}:PIXELS", "semantic", pixels, rule, PAPER)
WIDE = ModelSpec(f"{HERE}:WIDE", "semantic", wide, rule, PAPER)
