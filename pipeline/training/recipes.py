"""Recipes: complete settings of a training run by name, to be used as they are or with some fields changed.

`shardlens train --recipe NAME` takes one, and other options override its fields; in Python::

    train(replace(recipes.find("bccd"), epochs=10, run="short"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from shardlens.models.options import nearest
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.training.config import TrainConfig

MOBILENET = "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"
"""Torchvision's ImageNet weights of mobilenet_v2, top-1 71.878."""
LIGHT_FCOS = ("backbone=mobilenet_v2", "width=64", "convolutions=2", "levels=3", "min_size=320", "max_size=448")


def bccd() -> TrainConfig:
    """Blood cells by a light FCOS from an ImageNet backbone: 205 images of 640 x 480, made for two CPU cores."""
    return TrainConfig(
        "bccd",
        model="fcos",
        option=LIGHT_FCOS,
        init=MOBILENET,
        transfer="fine-tune",
        epochs=10,
        batch_size=8,
        optimizer="adamw",
        learning_rate=2e-3,
        backbone_factor=0.5,
        weight_decay=1e-2,
        warmup=0.05,
        schedule="cosine",
        clip_norm=5.0,
        ema=0.99,
        flip_vertical=True,
        scale=0.25,
        translate=0.1,
        hue=0.02,
        saturation=0.2,
        brightness=0.2,
        contrast=0.2,
        mosaic=0.3,
        plain_epochs=3,
        precision="auto",
        validate_every=5,
        threads=2,
    )


def nuclei() -> TrainConfig:
    """Nuclei against the background by a small U-Net from scratch: 160 images of 256 x 256 of five kinds of microscopy.

    Convolutions this narrow are a quarter faster on CPUs as NCHW.
    """
    return TrainConfig(
        "dsb2018-200",
        model="unet",
        option=("width=12", "depth=4"),
        epochs=30,
        batch_size=8,
        learning_rate=3e-3,
        weight_decay=1e-2,
        schedule="cosine",
        ema=0.98,
        flip_vertical=True,
        scale=0.25,
        rotate=90.0,
        brightness=0.3,
        contrast=0.3,
        crop=(192, 192),
        channels_last=False,
        precision="auto",
        validate_every=15,
        threads=2,
    )


def membranes() -> TrainConfig:
    """Membranes of neurons by a U-Net with its elastic deformation: 24 images of 512 x 512."""
    return TrainConfig(
        "isbi-membrane",
        model="unet",
        option=("width=12", "depth=4"),
        epochs=40,
        batch_size=4,
        learning_rate=3e-3,
        weight_decay=1e-2,
        schedule="cosine",
        ema=0.98,
        flip_vertical=True,
        rotate=15.0,
        elastic=10.0,
        elastic_grid=128,
        brightness=0.2,
        contrast=0.2,
        crop=(384, 384),
        channels_last=False,
        precision="auto",
        validate_every=10,
        threads=2,
    )


def detection_1x() -> TrainConfig:
    """The '1x' schedule of Detectron for COCO: SGD at 0.02 for steps of 16 images, 12 epochs, two falls to a tenth."""
    return TrainConfig(
        "coco",
        model="fasterrcnn_resnet50_fpn",
        init="https://download.pytorch.org/models/resnet50-0676ba61.pth",
        transfer="fine-tune",
        epochs=12,
        batch_size=2,
        accumulate=8,
        optimizer="sgd",
        learning_rate=0.02,
        weight_decay=1e-4,
        warmup=0.006,
        schedule="step",
        precision="auto",
    )


def segmentation_poly() -> TrainConfig:
    """Torchvision's and DeepLab's recipe for semantic segmentation: SGD at 0.01 along poly 0.9, crops of 480 x 480."""
    return TrainConfig(
        "voc",
        model="deeplabv3_resnet50",
        init="https://download.pytorch.org/models/resnet50-0676ba61.pth",
        transfer="fine-tune",
        epochs=30,
        batch_size=8,
        optimizer="sgd",
        learning_rate=0.01,
        weight_decay=1e-4,
        dice_weight=0.0,
        warmup=0.0,
        schedule="poly",
        scale=0.5,
        crop=(480, 480),
        precision="auto",
    )


RECIPES: Mapping[str, Callable[[], TrainConfig]] = {
    "bccd": bccd,
    "dsb2018-200": nuclei,
    "isbi-membrane": membranes,
    "detection-1x": detection_1x,
    "segmentation-poly": segmentation_poly,
}


def changed(config: TrainConfig) -> dict[str, Any]:
    """The fields in which a recipe differs from the defaults, and its dataset and model."""
    plain = TrainConfig("", model="")
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: value for name, value in values.items() if value != getattr(plain, name)}


def find(name: str) -> TrainConfig:
    """The recipe called `name`.

    Raises:
        ConfigError: there is none; the message lists them all.
    """
    if name not in RECIPES:
        close = nearest(name, RECIPES)
        hint = f"nearest: {', '.join(close)}; " if close else ""
        raise ConfigError(f"no recipe is called {name!r}; {hint}there are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]()
