"""Images into a semantic network's batch and its logits back to the images' sizes, as the model's `InputRule` has it.

Detection networks do this inside themselves. Each image is resized alone and padded to a shape that depends on itself
and the rule alone, so its result does not depend on the batch it shares.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from shardlens.models.errors import ModelError
from shardlens.models.spec import InputRule

Size = tuple[int, int]
"""(height, width) in pixels."""


def prepare(images: Sequence[Tensor], rule: InputRule) -> Tensor:
    """The batch (N, C, H, W), float32, normalized, zeros right and below each image up to the padded shape.

    `images` are (C, h, w), uint8 in [0, 255] or float in [0, 1], all of one padded shape by `rule`. The resize is
    bilinear with antialiasing, as torchvision's `SemanticSegmentation` preset has it.
    """
    shapes = {rule.shape(*image.shape[-2:]) for image in images}
    if len(shapes) != 1:
        raise ModelError(f"a batch needs images of one padded shape; got {len(images)} images of {sorted(shapes)}")
    ((height, width),) = shapes
    ready = [normalize(resize(scaled(image), rule.resized(*image.shape[-2:])), rule) for image in images]
    return torch.stack([F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in ready])


def restore(logits: Tensor, rule: InputRule, sizes: Sequence[Size]) -> list[Tensor]:
    """Per image the logits (K, h, w) at its own size: the padding cut off, the rest resized (bilinear).

    `logits` are (N, K, H, W) as the network gives them for `prepare`'s batch, `sizes` the images' (h, w).
    """
    return [_restored(logits[i], rule.resized(*size), size) for i, size in enumerate(sizes)]


def scaled(image: Tensor) -> Tensor:
    """uint8 in [0, 255] as float32 in [0, 1]; floats as float32."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def resize(image: Tensor, size: Size) -> Tensor:
    """`image` (C, h, w) at `size`, bilinear with antialiasing."""
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def normalize(image: Tensor, rule: InputRule) -> Tensor:
    """`image` (C, h, w) in [0, 1], less the rule's mean, by its standard deviation."""
    if rule.mean is None or rule.std is None:
        return image
    if len(rule.mean) != image.shape[0]:
        raise ModelError(f"the model takes {len(rule.mean)} channels; the image has {image.shape[0]}")
    mean, std = (image.new_tensor(values)[:, None, None] for values in (rule.mean, rule.std))
    return (image - mean) / std


def _restored(logits: Tensor, inner: Size, size: Size) -> Tensor:
    cropped = logits[:, : inner[0], : inner[1]].float()
    if inner == size:
        return cropped
    return F.interpolate(cropped[None], size, mode="bilinear", align_corners=False)[0]
