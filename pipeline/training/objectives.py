"""What a step minimizes: the losses that a detection model gives, and the chosen ones of a semantic model's maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.errors import ModelError
from shardlens.models.inputs import normalize, scaled
from shardlens.models.losses.segmentation import VOID, SegmentationLoss
from shardlens.models.options import nearest
from shardlens.models.spec import InputRule
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.training.config import TrainConfig

EXTRA = {"aux": 0.5, "stack": 1.0}
"""Weight of an extra classifier by the beginning of its name: torchvision's recipes, and the stacked hourglass."""

Parts = dict[str, Tensor]


def criterion(config: TrainConfig, labels: Sequence[str]) -> SegmentationLoss:
    """The loss of a semantic model that the configuration chooses.

    Raises:
        ConfigError: a class weight names no label.
    """
    given = config.class_weights
    strange = next((name for name in given if name not in labels), None)
    if strange is not None:
        close = nearest(strange, labels)
        known = ", ".join([*close, *(label for label in labels if label not in close)][:8])
        raise ConfigError(f"--class-weight {strange}={given[strange]}: there is no such label; expected one of {known}")
    weights = tuple(given.get(label, 1.0) for label in labels) if given else None
    return SegmentationLoss(
        config.cross_entropy_weight, config.dice_weight, config.focal_weight, config.focal_gamma, weights
    )


def detection(model: nn.Module, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> Parts:
    """Losses by name of a detection or instance model in training; their sum is minimized.

    Args:
        images: (3, H, W) uint8 each, of any sizes.
        targets: for each boxes (N, 4) xyxy float32, labels (N,) int64, masks (N, H, W) uint8 of instance models.
    """
    losses: Parts = model([scaled(image) for image in images], [dict(target) for target in targets])
    return losses


def semantic(
    model: nn.Module,
    images: Sequence[Tensor],
    targets: Sequence[Mapping[str, Tensor]],
    rule: InputRule,
    loss: SegmentationLoss,
) -> Parts:
    """Losses by name of a semantic model: each the mean over the images of the image's own loss.

    So a step costs the same however its images are spread over workers. An extra classifier's losses are one part.

    Args:
        images: (3, h, w) uint8 each.
        targets: for each map (h, w) uint8 labels, VOID where a pixel is not learned from; and perhaps border (h, w)
            float, what its pixels weigh in the cross entropy, in addition to their class's weight.

    Raises:
        ModelError: the model gives a map under a name that says nothing of its weight.
    """
    output = model(_stack([normalize(scaled(image), rule) for image in images], rule.multiple, 0.0))
    truth = _stack([target["map"] for target in targets], rule.multiple, VOID).long()
    border = None
    if targets and "border" in targets[0]:
        border = _stack([target["border"] for target in targets], rule.multiple, 0.0)
    parts = loss(output["out"], truth, border)
    for name, logits in output.items():
        if name != "out":
            parts[name] = _extra_weight(name) * torch.stack(list(loss(logits, truth, border).values())).sum()
    return parts


def _extra_weight(name: str) -> float:
    found = next((weight for start, weight in EXTRA.items() if name.startswith(start)), None)
    if found is None:
        raise ModelError(f"the model gives maps under {name!r}: expected out, and names that begin with aux or stack")
    return found


def _stack(arrays: Sequence[Tensor], multiple: int, fill: float) -> Tensor:
    """Pad right and below to the largest height and width, rounded up to `multiple`, and stack."""
    height, width = (-(-max(a.shape[d] for a in arrays) // multiple) * multiple for d in (-2, -1))
    padded = [F.pad(a, (0, width - a.shape[-1], 0, height - a.shape[-2]), value=fill) for a in arrays]
    return torch.stack(padded)
