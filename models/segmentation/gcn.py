"""GCN: large kernels by pairs of thin ones, and boundaries refined by residuals. https://arxiv.org/abs/1703.02719"""

from __future__ import annotations

from torch import Tensor, nn

from shardlens.models.backbones import MEAN, STD, Backbone
from shardlens.models.errors import ModelError
from shardlens.models.options import require
from shardlens.models.segmentation.borders import pad_to_multiple
from shardlens.models.segmentation.upsampling import bilinear_upsampling
from shardlens.models.spec import InputRule, ModelSpec

_STRIDES = (4, 8, 16, 32)


class GlobalConvolution(nn.Module):
    """k x 1 then 1 x k, plus 1 x k then k x 1: each output sees k x k inputs, for 2k weights a path instead of k * k."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        tall, wide = ((kernel, 1), (kernel // 2, 0)), ((1, kernel), (0, kernel // 2))
        self.tall_first = nn.Sequential(
            nn.Conv2d(inputs, outputs, tall[0], padding=tall[1]), nn.Conv2d(outputs, outputs, wide[0], padding=wide[1])
        )
        self.wide_first = nn.Sequential(
            nn.Conv2d(inputs, outputs, wide[0], padding=wide[1]), nn.Conv2d(outputs, outputs, tall[0], padding=tall[1])
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        summed: Tensor = self.tall_first(features) + self.wide_first(features)
        return summed


class BoundaryRefinement(nn.Module):
    """Scores plus what two 3x3 convolutions make of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, scores: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        refined: Tensor = scores + self.residual(scores)
        return refined


class GCN(nn.Module):
    """Scores at strides 4 to 32 by global convolutions, refined, and added from coarse to fine."""

    def __init__(self, num_classes: int, backbone: Backbone, kernel: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.scores = nn.ModuleList(
            nn.Sequential(GlobalConvolution(channels, num_classes, kernel), BoundaryRefinement(num_classes))
            for channels in backbone.channels
        )
        self.up = nn.ModuleList(bilinear_upsampling(num_classes, 2) for _ in range(5))
        self.refine = nn.ModuleList(BoundaryRefinement(num_classes) for _ in range(5))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, H, W) under "out" of normalized images (N, 3, H, W); any H and W, padded with zeros inside."""
        height, width = images.shape[-2:]
        features = self.backbone(pad_to_multiple(images, _STRIDES[-1]))
        *finer, logits = [score(x) for score, x in zip(self.scores, features, strict=True)]
        for up, refine in zip(self.up, self.refine, strict=True):
            logits = up(logits)
            logits = refine(logits + finer.pop() if finer else logits)
        return {"out": logits[..., :height, :width]}


def _build(*, num_classes: int, backbone: str = "resnet152", kernel: int = 7) -> GCN:
    """`kernel` is odd, so that a border of (kernel - 1) / 2 keeps the size."""
    require("kernel", kernel, 1, 99)
    if kernel % 2 == 0:
        raise ModelError(f"option kernel is {kernel}; it must be odd, so that (kernel - 1) / 2 pixels keep the size")
    return GCN(num_classes, Backbone(backbone, _STRIDES), kernel)


def _rule(model: nn.Module) -> InputRule:
    return InputRule(multiple=_STRIDES[-1], mean=MEAN, std=STD)


SPEC = ModelSpec(
    name="gcn",
    task="semantic",
    build=_build,
    input_rule=_rule,
    paper="https://arxiv.org/abs/1703.02719",
)
