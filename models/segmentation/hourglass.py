"""Stacked hourglasses: each sees the whole image again, with the output of the one before. https://arxiv.org/abs/1603.06937

The paper finds joints; here each stack's 1x1 classifier gives classes. Every stack has its own loss.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.backbones import MEAN, STD
from shardlens.models.hourglass import STRIDE, Bottleneck, Hourglass, convolution
from shardlens.models.options import require
from shardlens.models.segmentation.borders import pad_to_multiple
from shardlens.models.spec import InputRule, ModelSpec


class StackedHourglass(nn.Module):
    """`stacks` hourglasses of `depth` halvings, on features a quarter as large as the image."""

    def __init__(self, num_classes: int, stacks: int, width: int, depth: int, blocks: int) -> None:
        super().__init__()
        self.multiple = STRIDE * 2**depth
        self.stem = _stem(width)
        scales = (width,) * (depth + 1)
        self.hourglasses = nn.ModuleList(Hourglass(scales, blocks, blocks, Bottleneck) for _ in range(stacks))
        self.after = nn.ModuleList(
            nn.Sequential(*(Bottleneck(width, width) for _ in range(blocks)), convolution(width, width, 1))
            for _ in range(stacks)
        )
        self.classifiers = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for _ in range(stacks))
        self.features_back = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(stacks - 1))
        self.classes_back = nn.ModuleList(nn.Conv2d(num_classes, width, 1) for _ in range(stacks - 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, H, W) under "out" of normalized images (N, 3, H, W), any H and W, padded with zeros inside.

        In training also those of the stacks before the last, under "stack0", "stack1", ...
        """
        height, width = images.shape[-2:]
        found = self._stacks(self.stem(pad_to_multiple(images, self.multiple)))
        wanted = found if self.training else found[-1:]
        names = [f"stack{i}" for i in range(len(wanted) - 1)] + ["out"]
        return {name: _enlarged(logits, height, width) for name, logits in zip(names, wanted, strict=True)}

    def _stacks(self, x: Tensor) -> list[Tensor]:
        """The logits (N, K, h, w) of each stack."""
        found: list[Tensor] = []
        for i, (hourglass, after) in enumerate(zip(self.hourglasses, self.after, strict=True)):
            features = after(hourglass(x))
            found.append(self.classifiers[i](features))
            if i < len(self.features_back):
                x = x + self.features_back[i](features) + self.classes_back[i](found[-1])
        return found


def _stem(width: int) -> nn.Sequential:
    """Images (N, 3, H, W) to (N, width, H / 4, W / 4)."""
    half = max(1, width // 2)
    narrow = max(1, half // 2)
    halved = convolution(3, narrow, 7, 2)
    return nn.Sequential(halved, Bottleneck(narrow, half), Bottleneck(half, half, 2), Bottleneck(half, width))


def _enlarged(logits: Tensor, height: int, width: int) -> Tensor:
    full = F.interpolate(logits, scale_factor=float(STRIDE), mode="bilinear", align_corners=False)
    return full[..., :height, :width]


def _build(*, num_classes: int, stacks: int = 8, width: int = 256, depth: int = 4, blocks: int = 1) -> StackedHourglass:
    """`blocks` residual blocks at each place of an hourglass."""
    require("stacks", stacks, 1, 16)
    require("width", width, 2, 1024)
    require("depth", depth, 1, 6)
    require("blocks", blocks, 1, 8)
    return StackedHourglass(num_classes, stacks, width, depth, blocks)


def _rule(model: nn.Module) -> InputRule:
    multiple = model.multiple
    assert isinstance(multiple, int)
    return InputRule(multiple=multiple, mean=MEAN, std=STD)


SPEC = ModelSpec(
    name="hourglass",
    task="semantic",
    build=_build,
    input_rule=_rule,
    paper="https://arxiv.org/abs/1603.06937",
)
