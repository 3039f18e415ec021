"""VGG's convolutions by stage, at any width, for encoders that keep where each maximum came from.

Layers are numbered as torchvision numbers them, so that at width 64 an ImageNet classifier's file fits.
https://arxiv.org/abs/1409.1556
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from shardlens.models.errors import ModelError
from shardlens.models.options import nearest, require

_CONVOLUTIONS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2,) * 5, "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
NAMES = (*_CONVOLUTIONS, *(f"{name}_bn" for name in _CONVOLUTIONS))


class VGG(nn.Module):
    """`stages` of the five, a pooling behind each; `width` channels in the first, doubled up to eightfold.

    Attributes:
        channels: of each stage.
        normalized: whether batch normalization follows each convolution.
    """

    def __init__(self, name: str, width: int = 64, stages: int = 5) -> None:
        super().__init__()
        if name not in NAMES:
            close = ", ".join(nearest(name, NAMES) or NAMES)
            raise ModelError(f"option backbone is {name!r}; this network is built on a VGG, nearest: {close}")
        require("width", width, 1, 256)
        require("stages", stages, 1, 5)
        self.channels = tuple(width * 2 ** min(stage, 3) for stage in range(stages))
        self.normalized = name.endswith("_bn")
        layers: list[nn.Module] = []
        self._ends = []
        for (inputs, outputs), count in zip(
            pairwise((3, *self.channels)), _CONVOLUTIONS[name.removesuffix("_bn")], strict=False
        ):
            for convolution in range(count):
                layers += convolution_layers(outputs if convolution else inputs, outputs, self.normalized)
            self._ends.append(len(layers))
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The pooled maps pool1 to pool5, (N, C, H / stride, W / stride), rounded down, of images (N, 3, H, W)."""
        maps = []
        x = images
        for stage, end in zip(self.stages(), self._ends, strict=True):
            x = self.features[end](stage(x))
            maps.append(x)
        return maps

    def dilate(self) -> VGG:
        """Drop the last two poolings and dilate the last stage in their stead: pool4 and pool5 then lie at stride 8."""
        for end in self._ends[3:]:
            self.features[end] = nn.Identity()
        for convolution in convolutions(self.stages()[4]):
            convolution.dilation = convolution.padding = (2, 2)
        return self

    def stages(self) -> list[nn.Sequential]:
        """The layers of each stage, without the pooling behind it."""
        starts = [0, *(end + 1 for end in self._ends)]
        return [self.features[start:end] for start, end in zip(starts, self._ends, strict=False)]


def convolution_layers(inputs: int, outputs: int, normalized: bool) -> list[nn.Module]:
    """A 3x3 convolution that keeps the size, its normalization if wanted, and a rectifier."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    norm = [nn.BatchNorm2d(outputs)] if normalized else []
    return [convolution, *norm, nn.ReLU(inplace=True)]


def convolutions(stage: nn.Sequential) -> list[nn.Conv2d]:
    """The stage's convolutions, in order."""
    return [layer for layer in stage if isinstance(layer, nn.Conv2d)]


def convolutionised(channels: int, width: int, size: int = 7, dilation: int = 1) -> nn.Sequential:
    """VGG's fc6 and fc7 as convolutions that keep the size, `width` channels each."""
    return nn.Sequential(
        nn.Conv2d(channels, width, size, padding=dilation * (size // 2), dilation=dilation),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Conv2d(width, width, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(),
    )
