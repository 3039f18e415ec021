"""A contact sheet of augmented training images, with their boxes, masks and labels drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor
from torchvision.utils import draw_segmentation_masks

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

TILE, LEGEND, DPI = 3.2, 0.5, 120
"""Inches of an image's place on the sheet, and of the legend above; dots per inch."""
COLUMNS = 4
PALETTE = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c", "#008080", "#ffe119")
NOTHING = "#000000"
"""The color of void pixels."""
PICTURE = "preview.png"


def preview(config: TrainConfig, count: int) -> str:
    """Draw the first `count` images of the run as its first epochs augment them, and publish the sheet.

    Returns:
        URI of the PNG, in the run's folder; the run itself is not started.

    Raises:
        ShardlensError: `count` is not positive; see also `shardlens.pipeline.training.prepare.prepare` and `stepper.init_report`.
    """
    if count < 1:
        raise ConfigError(f"preview is {count}: expected the number of images to draw")
    job = prepare(config)
    init_report(job)
    place = storage.join(job.folder, PICTURE)
    storage.publish(place, sheet(samples(job, count), job.labels))
    return place


def samples(job: TrainJob, count: int) -> Sequence[Sample]:
    """The first `count` samples that one worker would train on, epoch after epoch.

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


def sheet(samples: Sequence[Sample], labels: Sequence[str]) -> bytes:
    """The samples as a PNG, in rows, below the names of the labels in their colors."""
    columns = min(len(samples), COLUMNS)
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(TILE * columns, TILE * rows + LEGEND), dpi=DPI, layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, sample in zip(figure.axes, samples, strict=False):
        _draw(axes, sample, labels)
    named = [(color(label), name) for label, name in enumerate(labels) if name != BACKGROUND]
    figure.legend(
        [Patch(color=shade) for shade, _ in named],
        [name for _, name in named],
        loc="outside upper center",
        ncols=min(len(named), 2 * columns),
        frameon=False,
    )
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()


def _draw(axes: Axes, sample: Sample, labels: Sequence[str]) -> None:
    """The image of a sample, its masks over it, its boxes with their labels."""
    image, target = sample.image, sample.target
    ids = target["labels"].tolist() if "labels" in target else []
    if "map" in target:
        image = _with_map(image, target["map"], len(labels))
    elif "masks" in target and ids:
        colors = [color(label) for label in ids]
        image = draw_segmentation_masks(image, target["masks"].bool(), alpha=0.4, colors=colors)
    height, width = image.shape[-2:]
    axes.imshow(image.permute(1, 2, 0).numpy(), extent=(0, width, height, 0))
    several = len(set(labels) - {BACKGROUND}) > 1  # the legend names a single one
    for label, (left, top, right, bottom) in zip(ids, target["boxes"].tolist() if ids else (), strict=True):
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, edgecolor=color(label), fill=False, lw=1.5))
        if several:
            box = {"facecolor": color(label), "edgecolor": "none", "pad": 1}
            axes.text(
                left,
                top,
                labels[label],
                fontsize=8,
                color="white",
                bbox=box,
                va="bottom" if top > height / 10 else "top",
                clip_on=True,
            )


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
