"""Random changes of where things are: shift, turn and zoom in one, elastic deformation, input scale, crop."""

from __future__ import annotations

import math

import torch
from numpy.random import Generator
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from shardlens.pipeline.training.augment.config import Augmentation
from shardlens.pipeline.training.augment.scene import Scene

BILINEAR = InterpolationMode.BILINEAR


def shifted(scene: Scene, config: Augmentation, rng: Generator) -> Scene:
    """Turned, zoomed and shifted about its middle, on a canvas of the same size."""
    height, width = scene.size
    angle = float(rng.uniform(-config.rotate, config.rotate))
    zoom = float(rng.uniform(1 - config.scale, 1 + config.scale))
    share_x, share_y = rng.uniform(-config.translate, config.translate, 2).tolist()
    shift = [round(share_x * width), round(share_y * height)]
    if not (config.rotate or config.scale or config.translate):
        return scene
    return scene.filled(
        F.affine, zoom**2, angle=angle, translate=shift, scale=zoom, shear=[0.0, 0.0], interpolation=BILINEAR
    )


def deformed(scene: Scene, config: Augmentation, rng: Generator) -> Scene:
    """Deformed by random shifts on a coarse grid, smoothly interpolated. U-Net, https://arxiv.org/abs/1505.04597."""
    if not config.elastic:
        return scene
    height, width = scene.size
    coarse = [math.ceil(side / config.elastic_grid) + 1 for side in (height, width)]
    shifts = torch.from_numpy(rng.normal(0, config.elastic, (1, 2, *coarse))).float()
    smooth = torch.nn.functional.interpolate(shifts, (height, width), mode="bicubic", align_corners=True)
    share = smooth[0].permute(1, 2, 0)[None] * torch.tensor([2 / width, 2 / height])
    return scene.filled(F.elastic, displacement=share, interpolation=BILINEAR)


def rescaled(scene: Scene, config: Augmentation, rng: Generator) -> Scene:
    """Of another size, for networks that take images of any."""
    factor = float(rng.uniform(1 - config.multi_scale, 1 + config.multi_scale))
    if not config.multi_scale:
        return scene
    size = [max(1, round(side * factor)) for side in scene.size]
    return scene.moved(F.resize, factor**2, size=size, antialias=True)


def cropped(scene: Scene, config: Augmentation, rng: Generator) -> Scene:
    """A random part of the size that is asked for; a smaller image lies at a random place on an empty canvas."""
    if config.crop is None:
        return scene
    missing = [max(0, wanted - side) for wanted, side in zip(config.crop, scene.size, strict=True)]
    above, before = (int(rng.integers(0, amount, endpoint=True)) for amount in missing)
    padding = [before, above, missing[1] - before, missing[0] - above]
    full = scene.filled(F.pad, padding=padding) if any(missing) else scene
    spare = [side - wanted for wanted, side in zip(config.crop, full.size, strict=True)]
    top, left = (int(rng.integers(0, amount, endpoint=True)) for amount in spare)
    return full.moved(F.crop, top=top, left=left, height=config.crop[0], width=config.crop[1])
