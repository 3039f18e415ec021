"""Classification networks of torchvision as backbones: the features at the strides that a head wants.

Parameters keep torchvision's own names, so that an ImageNet classifier's file fits whatever is built on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

from shardlens.models.errors import ModelError
from shardlens.models.norms import keeping_up
from shardlens.models.options import nearest

_RESNET = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per channel, of images in [0, 1]: what torchvision's ImageNet classifiers were trained with."""


class Backbone(nn.Module):
    """The convolutional part of a classifier, without what lies behind the last stride that is asked for.

    Without `widened` it ends before the 1x1 convolution in which an EfficientNet or a MobileNet widens its last features
    for the classifier alone.

    Attributes:
        strides: input pixels per feature, ascending.
        channels: of the features at each stride.
    """

    def __init__(self, name: str, strides: Sequence[int] = (8, 16, 32), widened: bool = True) -> None:
        super().__init__()
        classifier = _classifier(name)
        parts = _RESNET if hasattr(classifier, "layer4") else tuple(_children(classifier))
        if not widened and _only_widens(classifier.get_submodule(parts[-1])):
            parts = parts[:-1]
        layers = [classifier.get_submodule(part) for part in parts]
        ends, channels = _last_at(layers)
        missing = [stride for stride in strides if stride not in ends]
        if missing:
            raise ModelError(f"backbone {name} has no features at stride {missing[0]}; it has {sorted(ends)}")
        self.strides = tuple(sorted(strides))
        self.channels = tuple(channels[stride] for stride in self.strides)
        self._ends = tuple(ends[stride] for stride in self.strides)
        self._parts = parts[: self._ends[-1] + 1]
        if hasattr(classifier, "layer4"):
            for part, layer in zip(self._parts, layers, strict=False):
                self.add_module(part, layer)
        else:
            named = zip(self._parts, layers, strict=False)
            self.features = nn.Sequential(OrderedDict((part.removeprefix("features."), layer) for part, layer in named))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features (N, C, H / stride, W / stride), rounded up, for each stride of images (N, 3, H, W)."""
        found = []
        x = images
        for i, part in enumerate(self._parts):
            x = self.get_submodule(part)(x)
            if i in self._ends:
                found.append(x)
        return found


def _classifier(name: str) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ModelError(f"no backbone is called {name!r}; nearest: {', '.join(nearest(name, known)) or 'none'}")
    classifier = keeping_up(torchvision.models.get_model(name, weights=None))
    if not hasattr(classifier, "layer4") and not isinstance(getattr(classifier, "features", None), nn.Sequential):
        raise ModelError(f"{name} cannot serve as a backbone; expected one such as resnet50, vgg16 or mobilenet_v2")
    return classifier


def _only_widens(layer: nn.Module) -> bool:
    return isinstance(layer, Conv2dNormActivation) and layer[0].kernel_size == (1, 1)


def _children(classifier: nn.Module) -> list[str]:
    return [f"features.{name}" for name, _ in classifier.get_submodule("features").named_children()]


@torch.no_grad()
def _last_at(layers: Sequence[nn.Module]) -> tuple[dict[int, int], dict[int, int]]:
    """For each stride the last layer whose output has it, and that output's channels."""
    side = 256
    ends, channels = {}, {}
    x = torch.zeros(1, 3, side, side)
    for i, layer in enumerate(layers):
        training = layer.training
        x = layer.eval()(x)
        layer.train(training)
        stride = side // x.shape[-1]
        ends[stride], channels[stride] = i, x.shape[1]
    return ends, channels
