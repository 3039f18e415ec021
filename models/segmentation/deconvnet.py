"""DeconvNet: a VGG, its fc6 and fc7, and all of it mirrored: unpooling by switches, transposed convolutions.

https://arxiv.org/abs/1505.04366. The paper's fc6 shrinks the last 7x7 map of a 224x224 proposal to one pixel; here fc6
and its transpose keep the size, so that images of any size pass. The paper labels proposals; here complete images are labeled.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.backbones import MEAN, STD
from shardlens.models.options import require
from shardlens.models.segmentation.borders import pad_to_multiple
from shardlens.models.segmentation.unpooling import unpool_add
from shardlens.models.segmentation.vgg import VGG, convolutions
from shardlens.models.spec import InputRule, ModelSpec

_FC6 = 7


class DeconvNet(nn.Module):
    """`head_width` channels in fc6 and fc7. `window` pixels a side are pooled, at every second one: from 3 on they overlap.

    Where `tied`, the decoder's kernels are the encoder's, flipped: its stages have none of their own but the last, whose
    counterpart sees an image's three channels. The mirror of fc6 has its own in any case.
    """

    def __init__(self, num_classes: int, backbone: VGG, head_width: int, window: int, tied: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.window = window
        self.multiple = 1 << len(backbone.channels)
        deep, norm = backbone.channels[-1], backbone.normalized
        self.head = nn.Sequential(
            *_block(nn.Conv2d(deep, head_width, _FC6, padding=_FC6 // 2), head_width, norm),
            *_block(nn.Conv2d(head_width, head_width, 1), head_width, norm),
            *_block(nn.ConvTranspose2d(head_width, deep, _FC6, padding=_FC6 // 2), deep, norm),
        )
        self.lends_kernels = tied
        self.decoder = nn.ModuleList(MirroredStage(stage, norm, tied) for stage in backbone.stages())
        self.classifier = nn.Conv2d(backbone.channels[0], num_classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, H, W) under "out" of normalized images (N, 3, H, W); any H and W, padded with zeros inside."""
        height, width = images.shape[-2:]
        x, switches = self.encode(pad_to_multiple(images, self.multiple))
        x = self.decode(self.head(x), switches)
        return {"out": self.classifier(x)[..., :height, :width]}

    def encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The last pooled map of images whose sides are multiples of `multiple`, and each pooling's switches."""
        x = images
        switches = []
        for stage in self.backbone.stages():
            border = (self.window - 1) // 2
            x, where = F.max_pool2d_with_indices(stage(x), [self.window] * 2, [2, 2], [border] * 2)
            switches.append(where)
        return x, switches

    def decode(self, x: Tensor, switches: list[Tensor]) -> Tensor:
        """Unpool by each of `switches`, deepest first, with the mirrored convolutions behind it."""
        for stage, mirrored, where in reversed(list(zip(self.backbone.stages(), self.decoder, switches, strict=True))):
            x = mirrored(unpool_add(x, where, 2 * x.shape[-2], 2 * x.shape[-1]), stage)
        return x


class MirroredStage(nn.ModuleList):
    """A transposed convolution for each convolution of a stage, in the stage's order; they run from the last to the first."""

    def __init__(self, stage: nn.Sequential, normalized: bool, tied: bool) -> None:
        super().__init__(Transposed(layer, normalized, tied) for layer in convolutions(stage))

    def forward(self, x: Tensor, stage: nn.Sequential) -> Tensor:
        """Features with the stage's input channels; `stage` lends its kernels where the decoder is tied."""
        for layer, convolution in reversed(list(zip(self, convolutions(stage), strict=True))):
            x = layer(x, convolution.weight)
        return x


class Transposed(nn.Module):
    """A convolution's mirror image: transposed, then normalized and rectified; `tied`, it has no kernel of its own."""

    def __init__(self, convolution: nn.Conv2d, normalized: bool, tied: bool) -> None:
        super().__init__()
        from_image = convolution.in_channels == 3
        inputs = convolution.out_channels
        outputs = inputs if from_image else convolution.in_channels
        self.weight = None if tied and not from_image else nn.Parameter(torch.empty(inputs, outputs, 3, 3))
        if self.weight is not None:
            nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.norm = nn.BatchNorm2d(outputs) if normalized else nn.Identity()

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Features (N, outputs, H, W); `kernel` (inputs, outputs, 3, 3) is the convolution's own, used where tied.

        A transposed convolution with a convolution's weight is a convolution with that weight flipped.
        """
        weight = kernel if self.weight is None else self.weight
        return F.relu(self.norm(F.conv_transpose2d(x, weight, self.bias, padding=1)))


def _block(convolution: nn.Module, outputs: int, normalized: bool) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(outputs) if normalized else nn.Identity(), nn.ReLU(inplace=True)]


def _build(
    *,
    num_classes: int,
    backbone: str = "vgg16_bn",
    width: int = 64,
    stages: int = 5,
    head_width: int = 4096,
    window: int = 2,
    tied: bool = False,
) -> DeconvNet:
    """`backbone` is one of VGG's, `width` its channels at the largest scale, `stages` how often it pools."""
    require("head_width", head_width, 1, 4096)
    require("window", window, 2, 4)
    return DeconvNet(num_classes, VGG(backbone, width, stages), head_width, window, tied)


def _rule(model: nn.Module) -> InputRule:
    multiple = model.multiple
    assert isinstance(multiple, int)
    return InputRule(multiple=multiple, mean=MEAN, std=STD)


SPEC = ModelSpec(
    name="deconvnet",
    task="semantic",
    build=_build,
    input_rule=_rule,
    paper="https://arxiv.org/abs/1505.04366",
)
