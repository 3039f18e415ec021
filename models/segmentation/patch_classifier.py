"""A network that classifies a pixel by the patch around it, run at every pixel at once.

https://papers.nips.cc/paper/4741-deep-neural-networks-segment-neuronal-membranes-in-electron-microscopy-images (its
network N4: four convolutions with poolings, patches of 95 pixels). Sliding it over an image repeats nearly all of the
work from patch to patch; the convolutionised form pools at every pixel and dilates what follows, with the same result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.errors import ModelError
from shardlens.models.options import require
from shardlens.models.segmentation.borders import mirror
from shardlens.models.spec import InputRule, ModelSpec

_KERNELS = (4, 5, 4, 4)
_LAST = 3
"""Sides of the convolutions' kernels, and of the last map, which a hidden layer sees whole."""
VALUES_AT_ONCE = 1 << 26
"""Of the windows that medians are taken of."""


class PatchClassifier(nn.Module):
    """`stages` convolutions of `width` channels, each pooled by two, then a hidden layer.

    Attributes:
        patch: side of the patch that decides on a pixel; `patch // 2` pixels of it lie above and left.
    """

    def __init__(self, num_classes: int, stages: int, width: int, hidden: int) -> None:
        super().__init__()
        kernels = _KERNELS[:stages]
        self.patch = _LAST
        for kernel in reversed(kernels):
            self.patch = 2 * self.patch + kernel - 1
        self.stages = nn.ModuleList(
            nn.Conv2d(width if stage else 3, width, kernel) for stage, kernel in enumerate(kernels)
        )
        self.hidden = nn.Conv2d(width, hidden, _LAST)
        self.classifier = nn.Conv2d(hidden, num_classes, 1)
        self.after: nn.Module = nn.Identity()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, H, W) under "out" of normalized images (N, 3, H, W), mirrored beyond their borders."""
        height, width = images.shape[-2:]
        border = self.patch - 1
        logits = self.convolutionised(mirror(images, self.patch // 2, height + border, width + border))
        return {"out": logits if self.training else self.after(logits)}

    def classify(self, patches: Tensor) -> Tensor:
        """Logits (M, K) of normalized patches (M, 3, patch, patch)."""
        x = patches
        for stage in self.stages:
            x = F.max_pool2d(F.relu(stage(x)), 2)
        logits: Tensor = self.classifier(F.relu(self.hidden(x)))
        return logits[:, :, 0, 0]

    def convolutionised(self, images: Tensor) -> Tensor:
        """Logits (N, K, H - patch + 1, W - patch + 1): of every patch of images (N, 3, H, W)."""
        x, step = images, 1
        for stage in self.stages:
            assert isinstance(stage, nn.Conv2d)
            x = F.relu(F.conv2d(x, stage.weight, stage.bias, dilation=step))
            x = F.max_pool2d(x, 2, stride=1, dilation=step)
            step *= 2
        x = F.relu(F.conv2d(x, self.hidden.weight, self.hidden.bias, dilation=step))
        logits: Tensor = self.classifier(x)
        return logits


class AfterClassification(nn.Module):
    """What follows a prediction: probabilities for other class frequencies, then a median over each pixel's neighbors.

    `log_ratio` (K,) is the logarithm of each class's frequency among the pixels to predict, over the one trained with.
    """

    log_ratio: Tensor

    def __init__(self, log_ratio: Tensor, radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.register_buffer("log_ratio", log_ratio, persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (N, K, H, W) to the same."""
        calibrated = logits + self.log_ratio[:, None, None]
        return median(calibrated.softmax(1), self.radius).clamp(min=1e-12).log() if self.radius else calibrated


def median(maps: Tensor, radius: int) -> Tensor:
    """The median of maps (N, K, H, W) over windows of 2 radius + 1 pixels a side, mirrored beyond the border."""
    side = 2 * radius + 1
    height, width = maps.shape[-2:]
    wider = mirror(maps, radius, height + 2 * radius, width + 2 * radius)
    rows = max(1, VALUES_AT_ONCE // (maps.shape[0] * maps.shape[1] * width * side**2))
    bands = [wider[:, :, top : top + rows + 2 * radius] for top in range(0, height, rows)]
    windows = (band.unfold(2, side, 1).unfold(3, side, 1).flatten(4) for band in bands)
    return torch.cat([window.median(dim=4).values for window in windows], dim=2)


def frequencies(name: str, text: str, classes: int) -> Tensor:
    """Class frequencies (K,) from an option such as "0.8,0.2"; equal ones where it is empty.

    Raises:
        ModelError: they are not as many positive numbers as there are classes.
    """
    try:
        values = [float(part) for part in text.split(",")] if text else [1.0] * classes
    except ValueError:
        values = []
    if len(values) != classes or min(values) <= 0:
        raise ModelError(f"option {name} is {text!r}; expected {classes} positive numbers, as in 0.8,0.2")
    return torch.tensor(values) / sum(values)


def _build(
    *,
    num_classes: int,
    stages: int = 4,
    width: int = 48,
    hidden: int = 200,
    median_radius: int = 0,
    priors: str = "",
    trained_priors: str = "",
) -> PatchClassifier:
    """`priors` are the classes' frequencies where it predicts, `trained_priors` where it learned: "0.8,0.2", or equal.

    They, and the median over `median_radius` pixels around (2 in the paper), change what it predicts, not what it learns.
    """
    require("stages", stages, 1, len(_KERNELS))
    require("width", width, 1, 1024)
    require("hidden", hidden, 1, 4096)
    require("median_radius", median_radius, 0, 16)
    model = PatchClassifier(num_classes, stages, width, hidden)
    wanted = frequencies("priors", priors, num_classes)
    trained = frequencies("trained_priors", trained_priors, num_classes)
    if median_radius or not torch.equal(wanted, trained):
        model.after = AfterClassification((wanted / trained).log(), median_radius)
    return model


def _rule(model: nn.Module) -> InputRule:
    return InputRule(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


SPEC = ModelSpec(
    name="patch_classifier",
    task="semantic",
    build=_build,
    input_rule=_rule,
    paper="https://papers.nips.cc/paper/4741-deep-neural-networks-segment-neuronal-membranes-in-electron-microscopy-images",
)
