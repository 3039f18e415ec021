"""A contact sheet of what a run would learn from: images as it changes them, with their boxes, masks and labels drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

from shardlens import models
from shardlens.models.losses.segmentation import VOID
from shardlens.models.spec import BACKGROUND
from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, DatasetError
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.data import TrainingData
from shardlens.pipeline.training.job import TrainJob
from shardlens.pipeline.training.order import epoch_steps
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.training.samples import Sample
from shardlens.pipeline.training.stepper import init_report

TILE = 320
"""Pixels that an image is wide and high at most on the sheet."""
COLUMNS = 4
PALETTE = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c", "#008080", "#ffe119")
NOTHING = "#000000"
"""Where nothing is learned from."""
PICTURE = "preview.png"


def preview(config: TrainConfig, count: int) -> str:
    """Draw the first `count` images of the run as its first epochs change them, and publish the sheet.

    Returns:
        URI of the PNG, in the run's folder; the run itself is not begun.

    Raises:
        ShardlensError: `count` is not positive; see also `shardlens.pipeline.training.prepare.prepare` and `stepper.init_report`.
    """
    if count < 1:
        raise ConfigError(f"preview is {count}: expected the number of images to draw")
    job = prepare(config)
    init_report(job)
    tiles = [_tile(drawn(sample, job.labels)) for sample in samples(job, count)]
    sheet = make_grid(torch.stack(tiles), nrow=min(count, COLUMNS), padding=4, pad_value=255)
    place = storage.join(job.folder, PICTURE)
    storage.publish(place, png(sheet, job.labels))
    return place


def samples(job: TrainJob, count: int) -> Sequence[Sample]:
    """The first `count` samples that one worker would learn from, epoch after epoch.

    Raises:
        DatasetError: none of the images can be read.
    """
    with torch.random.fork_rng([]):
        rule = job.input_rule(models.build(job.config.model, len(job.labels), job.options))
    data = TrainingData(job, rule)
    found: list[Sample] = []
    for epoch in range(-(-count // job.images)):
        order = [int(i) for step in epoch_steps(job.images, job.images, job.config.seed, epoch) for i in step]
        wanted = order[: count - len(found)]
        found += [sample for _, sample in data.augmented(wanted, epoch) if sample is not None]
    if not found:
        raise DatasetError(f"none of the {job.images} images of {job.config.dataset} can be read: nothing to show")
    return found


def drawn(sample: Sample, labels: Sequence[str]) -> Tensor:
    """The image of a sample with what lies on it, (3, H, W) uint8."""
    target = sample.target
    if "map" in target:
        return _with_map(sample.image, target["map"], len(labels))
    image, ids = sample.image, target["labels"].tolist()
    if not ids:
        return image
    colors = [color(label) for label in ids]
    if "masks" in target:
        image = draw_segmentation_masks(image, target["masks"].bool(), alpha=0.4, colors=colors)
    names = [labels[label] for label in ids] if len(set(labels) - {BACKGROUND}) > 1 else None  # a legend tells of one
    boxed: Tensor = draw_bounding_boxes(image, target["boxes"], names, colors, width=2)
    return boxed


def _with_map(image: Tensor, classes: Tensor, labels: int) -> Tensor:
    present = [label for label in (*range(1, labels), VOID) if (classes == label).any()]
    if not present:
        return image
    masks = torch.stack([classes == label for label in present])
    painted: Tensor = draw_segmentation_masks(image, masks, alpha=0.4, colors=[color(label) for label in present])
    return painted


def color(label: int) -> str:
    """The color of a label."""
    return NOTHING if label == VOID else PALETTE[label % len(PALETTE)]


def _tile(image: Tensor) -> Tensor:
    """The image in the middle of a square, (3, TILE, TILE) uint8."""
    height, width = image.shape[-2:]
    share = TILE / max(height, width)
    small = F.resize(image, [max(1, round(height * share)), max(1, round(width * share))], antialias=True)
    missing = [TILE - side for side in small.shape[-2:]]
    before = [amount // 2 for amount in missing]
    padding = [before[1], before[0], missing[1] - before[1], missing[0] - before[0]]
    tile: Tensor = F.pad(small, padding, fill=255)
    return tile


def png(sheet: Tensor, labels: Sequence[str]) -> bytes:
    """The sheet (3, H, W) uint8 with the names of the labels above it, each in its color."""
    legend = 20
    picture = Image.new("RGB", (sheet.shape[2], sheet.shape[1] + legend), "white")
    picture.paste(Image.fromarray(sheet.permute(1, 2, 0).numpy()), (0, legend))
    pen = ImageDraw.Draw(picture)
    x = 6.0
    for label, name in enumerate(labels):
        if name != BACKGROUND:
            pen.rectangle((x, 5, x + 10, 15), fill=color(label))
            pen.text((x + 14, 4), name, fill="black")
            x += 24 + pen.textlength(name)
    sink = io.BytesIO()
    picture.save(sink, format="PNG")
    return sink.getvalue()
