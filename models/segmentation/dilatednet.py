"""DilatedNet: a VGG without its last two poolings, and a context module of growing dilation.

https://arxiv.org/abs/1511.07122. Here every convolution keeps the size; the paper pads its images by mirrored pixels. The
paper trains the front end first and plugs the context module in; here both learn at once, the front end's own scores
being an auxiliary output: the module lets pass what is positive alone, and a class that never is would stay dead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.backbones import MEAN, STD
from shardlens.models.errors import ModelError
from shardlens.models.options import require
from shardlens.models.segmentation.borders import pad_to_multiple
from shardlens.models.segmentation.vgg import VGG, convolutionised
from shardlens.models.spec import InputRule, ModelSpec

_STRIDE = 8
_DILATIONS = (1, 1, 2, 4, 8, 16, 1)
_GROWTHS = {"basic": (1, 1, 1, 1, 1, 1, 1), "large": (2, 2, 4, 8, 16, 32, 32)}
_NOISE = 0.01


class DilatedNet(nn.Module):
    """The front end's scores at stride 8, seen in their context, and interpolated."""

    def __init__(self, num_classes: int, backbone: VGG, head_width: int, context: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.dilate()
        self.head = convolutionised(backbone.channels[-1], head_width, dilation=4)
        self.score = nn.Conv2d(head_width, num_classes, 1)
        self.context = context

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, H, W) under "out" of normalized images (N, 3, H, W); any H and W, padded with zeros inside.

        In training the front end's own stand under "aux", where there is a context module behind it.
        """
        height, width = images.shape[-2:]
        scores = self.score(self.head(self.backbone(pad_to_multiple(images, _STRIDE))[-1]))
        found = {"out": self.context(scores)}
        if self.training and not isinstance(self.context, nn.Identity):
            found["aux"] = scores
        return {key: _upsampled(each)[..., :height, :width] for key, each in found.items()}


def _upsampled(scores: Tensor) -> Tensor:
    return F.interpolate(scores, scale_factor=_STRIDE, mode="bilinear", align_corners=False)


def context_module(channels: int, kind: str) -> nn.Sequential:
    """Scores (N, channels, H, W) to the same: seven dilated 3x3 convolutions and a 1x1, each output sees 67x67 inputs.

    The basic one has `channels` throughout; the large one up to 32 times as many in between. It begins as the identity
    on positive scores, but for noise that tells equal channels apart.
    """
    if kind not in _GROWTHS:
        raise ModelError(f"option context is {kind!r}; it must be basic, large or none")
    layers: list[nn.Module] = []
    inputs = channels
    for dilation, growth in zip(_DILATIONS, _GROWTHS[kind], strict=True):
        convolution = nn.Conv2d(inputs, channels * growth, 3, padding=dilation, dilation=dilation)
        layers += [_identity(convolution, channels), nn.ReLU(inplace=True)]
        inputs = channels * growth
    return nn.Sequential(*layers, _identity(nn.Conv2d(inputs, channels, 1), channels))


@torch.no_grad()
def _identity(convolution: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Let each of `channels` groups of outputs begin as a share of the sum of the same group of inputs."""
    outputs, inputs = convolution.out_channels, convolution.in_channels
    share = channels / outputs
    middle = convolution.kernel_size[0] // 2
    nn.init.normal_(convolution.weight, std=_NOISE * share)
    group_out = torch.arange(outputs) * channels // outputs
    group_in = torch.arange(inputs) * channels // inputs
    same = (group_out[:, None] == group_in[None, :]).to(convolution.weight)
    convolution.weight[:, :, middle, middle] += share * same
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def _build(
    *, num_classes: int, backbone: str = "vgg16", width: int = 64, head_width: int = 4096, context: str = "basic"
) -> DilatedNet:
    """`backbone` is one of VGG's, `width` its channels at the largest scale; `context` is basic, large or none."""
    require("head_width", head_width, 1, 4096)
    module = nn.Identity() if context == "none" else context_module(num_classes, context)
    return DilatedNet(num_classes, VGG(backbone, width), head_width, module)


def _rule(model: nn.Module) -> InputRule:
    return InputRule(multiple=_STRIDE, mean=MEAN, std=STD)


SPEC = ModelSpec(
    name="dilatednet",
    task="semantic",
    build=_build,
    input_rule=_rule,
    paper="https://arxiv.org/abs/1511.07122",
)
