"""FCN: scores at strides 32, 16 and 8, fused and upsampled by learned interpolation. https://arxiv.org/abs/1411.4038

The paper pads its images by 100 pixels so that fc6 fits; here fc6 keeps the size, and images are padded with zeros to
a multiple of 32, so that the streams meet pixel by pixel without crops. The last interpolation is learned too.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from shardlens.models.backbones import MEAN, STD, Backbone
from shardlens.models.errors import ModelError
from shardlens.models.options import require
from shardlens.models.segmentation.borders import pad_to_multiple
from shardlens.models.segmentation.upsampling import bilinear_upsampling
from shardlens.models.segmentation.vgg import NAMES, VGG, convolutionised
from shardlens.models.spec import InputRule, ModelSpec

_MULTIPLE = 32


class FCN(nn.Module):
    """Scores of the backbone's maps from stride 32 down to `finest`, added from coarse to fine."""

    def __init__(self, num_classes: int, backbone: VGG | Backbone, finest: int, head_width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.finest = finest
        *skipped, deep = backbone.channels[-_scales(finest) :]
        self.head = convolutionised(deep, head_width) if head_width else nn.Identity()
        self.score = nn.Conv2d(head_width or deep, num_classes, 1)
        self.skips = nn.ModuleList(_zero(nn.Conv2d(channels, num_classes, 1)) for channels in skipped)
        self.up = nn.ModuleList(bilinear_upsampling(num_classes, 2) for _ in skipped)
        self.last_up = bilinear_upsampling(num_classes, finest)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, H, W) under "out" of normalized images (N, 3, H, W); any H and W."""
        height, width = images.shape[-2:]
        *skipped, deep = self.backbone(pad_to_multiple(images, _MULTIPLE))[-_scales(self.finest) :]
        scores = self.score(self.head(deep))
        for up, skip, features in reversed(list(zip(self.up, self.skips, skipped, strict=True))):
            scores = up(scores) + skip(features)
        return {"out": self.last_up(scores)[..., :height, :width]}


def _zero(convolution: nn.Conv2d) -> nn.Conv2d:
    """Zero at first, so that a skip starts by changing nothing."""
    nn.init.zeros_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def _scales(finest: int) -> int:
    return {32: 1, 16: 2, 8: 3}[finest]


def _build(finest: int, *, num_classes: int, backbone: str = "vgg16", width: int = 64, head_width: int = 4096) -> FCN:
    """`width` is a VGG's; `head_width` 0 leaves fc6 and fc7 out: the scores then come from the backbone's last map."""
    require("head_width", head_width, 0, 4096)
    if backbone in NAMES:
        return FCN(num_classes, VGG(backbone, width), finest, head_width)
    if width != 64:
        raise ModelError(f"option width is {width}: only a VGG has another than 64; the backbone is {backbone}")
    return FCN(num_classes, Backbone(backbone, (8, 16, 32)), finest, head_width)


def _rule(model: nn.Module) -> InputRule:
    return InputRule(multiple=_MULTIPLE, mean=MEAN, std=STD)


SPECS = tuple(
    ModelSpec(
        name=f"fcn{finest}s",
        task="semantic",
        build=partial(_build, finest),
        input_rule=_rule,
        paper="https://arxiv.org/abs/1411.4038",
    )
    for finest in (32, 16, 8)
)
