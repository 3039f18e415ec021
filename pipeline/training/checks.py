"""What is looked at before the first step: whatever can be seen to go wrong stops the run here, with its remedy.

What stops no run (a category without images, boxes that leave their image) is noted: the notes are told before the first
step and stand in the report, and with `--strict` they are an error.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from models.spec import InputRule, ModelSpec, Task
from pipeline.errors import ConfigError, DatasetError
from pipeline.metrics.coco import FIGURES
from pipeline.metrics.semantic import METRICS
from pipeline.predict import multiplies_bf16
from pipeline.shards import ImageRef
from pipeline.training.config import TrainConfig
from pipeline.training.truth import Truth, select

WHAT_IS_LEARNT = {"detection": "box", "instance": "object's mask", "semantic": "mask", "panoptic": "mask"}
VALIDATED_BY_DEFAULT = ("val", "test")
NAMED = 10
"""Categories, and images, that a message names."""
TOLERANCE = 0.5
"""Pixels by which a box may leave its image without being told: rounding."""
SMALL, LARGE = 96, 256
"""Networks are tried on images that they see smaller than SMALL pixels; if LARGE ones fail as well, size is not the fault."""


def choose_val_split(config: TrainConfig, images: pa.Table, split: str | None) -> str | None:
    """The split to validate on: the one asked for, else val, else test, but not the one learnt from; None = none.

    Raises:
        ConfigError: the dataset has no such split, or validation is off or cannot be, and something is asked of it.
    """
    known = sorted(s for s in images["split"].unique().to_pylist() if s is not None)
    if config.validate_every and config.val_split is not None:
        if config.val_split not in known:
            listed = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(
                f"dataset {config.dataset} has no split {config.val_split!r} to validate on: {listed}; name one of them, or "
                "ingest images with --split"
            )
        return config.val_split
    found = [s for s in VALIDATED_BY_DEFAULT if s in known and s != split] if config.validate_every else []
    if found:
        return found[0]
    for name in ("val_split", "best_metric", "patience"):
        if getattr(config, name):
            raise ConfigError(
                f"{name} is {getattr(config, name)!r}, but nothing is validated: "
                + (
                    "validate_every is 0"
                    if not config.validate_every
                    else f"dataset {config.dataset} has no split for it"
                )
                + "; name a split with --val-split, and validate every 1 epoch or more"
            )
    return None


def choose_metric(config: TrainConfig, task: Task) -> str:
    """The metric that chooses the best checkpoint.

    Raises:
        ConfigError: there is no such metric of the model's task.
    """
    coco = [figure.name for figure in FIGURES]
    boxes = [f"bbox/{name}" for name in coco]
    names = {
        "detection": coco,
        "instance": [*coco, *boxes],
        "semantic": [*METRICS, "pixel_accuracy"],
        "panoptic": ["PQ", "SQ", "RQ"],
    }[task]
    metric = config.best_metric or names[0]
    if metric not in names:
        raise ConfigError(
            f"best_metric is {metric!r}: a validation of {config.model} ({task}) gives {', '.join(names)}"
        )
    return metric


def check_truth(truth: Truth, images: pa.Table, split: str | None, config: TrainConfig, task: Task, aim: str) -> None:
    """Refuse to learn from nothing, or to validate on nothing.

    Args:
        aim: what the images are for: learn from, validate on.

    Raises:
        DatasetError: no row of these images is of use to the model's task.
    """
    if truth.rows.num_rows and truth.rows["category_id"].null_count < truth.rows.num_rows:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in truth.left_out.items()) or "no annotations at all"
    remedy = f"ingest {config.dataset} again with --annotations that have them"
    if aim == "validate on":
        remedy += ", name another split with --val-split, or turn validation off with --validate-every 0"
    raise DatasetError(
        f"nothing to {aim}: {config.model} needs at least one {WHAT_IS_LEARNT[task]} of a category in "
        f"{f'split {split!r}' if split else 'the images'} of {config.dataset} ({images.num_rows} images), which hold "
        f"{reasons}: {remedy}"
    )


def check_masks(truth: Truth, images: pa.Table, config: TrainConfig, task: Task) -> None:
    """Refuse masks of another size than their images; detection models draw none.

    Raises:
        DatasetError: there are some; the message names the first.
    """
    if task == "detection":
        return
    rows = truth.rows.filter(pc.is_valid(truth.rows["segmentation"])).combine_chunks()
    place = np.searchsorted(images["image_id"].to_numpy(), rows["image_id"].to_numpy())
    expected = np.stack([images[side].to_numpy()[place] for side in ("height", "width")], axis=1)
    found = np.array(pc.struct_field(rows["segmentation"], "size").to_pylist()).reshape(-1, 2)
    wrong = np.flatnonzero((found != expected).any(axis=1))
    if len(wrong):
        first = int(wrong[0])
        (height, width), (tall, wide) = found[first], expected[first]
        raise DatasetError(
            f"{len(wrong)} masks are of another size than their image, such as that of annotation "
            f"{rows['annotation_id'][first]} in {images['file_name'][int(place[first])]}, which is {height} x {width} pixels "
            f"(height x width) where the image is {tall} x {wide}: ingest {config.dataset} again from masks of the images' sizes"
        )


def check_validation(
    config: TrainConfig, spec: ModelSpec, annotations: pa.Table, images: pa.Table, categories: pa.Table, split: str
) -> None:
    """Refuse a split to validate on that cannot be scored.

    Args:
        annotations: rows of the dataset.
        images: all images of the dataset.

    Raises:
        DatasetError: it has no annotations of the model's task.
    """
    chosen = images.filter(pc.equal(images["split"], split))
    readable = chosen.filter(pc.is_valid(chosen["width"])).combine_chunks()
    truth = select(annotations, readable, spec.task, categories)
    check_truth(truth, readable, split, config, spec.task, "validate on")
    check_masks(truth, readable, config, spec.task)


def check_counts(config: TrainConfig, images: int) -> None:
    """Refuse more workers than images.

    Raises:
        ConfigError: a worker would have none.
    """
    if images < config.workers:
        raise ConfigError(
            f"{images} images for {config.workers} workers: expected one each at least; use fewer --workers"
        )


def notes(
    config: TrainConfig, task: Task, truth: Truth, images: pa.Table, categories: pa.Table, annotations: pa.Table
) -> list[str]:
    """What to know of the data before paying for a run.

    Args:
        truth: what is learnt from.
        images: those of the split.
        annotations: rows of the dataset.

    Raises:
        DatasetError: there is anything to note, and the run is to be strict.
    """
    found = [
        *_absent_categories(truth, categories),
        *(_boxes_outside(annotations, images) if task != "semantic" else []),
        *_large_step(config, images.num_rows),
    ]
    if found and config.strict:
        listed = "".join(f"\n  {note}" for note in found)
        raise DatasetError(f"refused by --strict, for there is something to note of {config.dataset}:{listed}")
    return found


def stated(config: TrainConfig, val_split: str | None, metric: str) -> str:
    """What is validated on, and which weights are kept."""
    if val_split is None:
        why = (
            "validate_every is 0"
            if not config.validate_every
            else f"{config.dataset} has no split for it (val or test)"
        )
        return f"nothing is validated, {why}: the last weights are kept"
    often = "every epoch" if config.validate_every == 1 else f"every {config.validate_every} epochs"
    ends = f", the run ends after {config.patience} without a better one" if config.patience else ""
    return f"validated on split {val_split!r} {often}: the weights of the best {metric} are kept{ends}"


def emulated(config: TrainConfig) -> list[str]:
    """That the precision asked for is not this machine's."""
    if config.precision != "bf16" or multiplies_bf16(config.device):
        return []
    return [
        f"bf16 is emulated on this {config.device}, several times slower than fp32: --precision auto takes what is fast"
    ]


def _absent_categories(truth: Truth, categories: pa.Table) -> list[str]:
    present = truth.rows["category_id"].unique()
    absent = categories.filter(pc.invert(pc.is_in(categories["category_id"], present)))["name"].to_pylist()
    if not absent:
        return []
    return [
        f"{len(absent)} of {categories.num_rows} categories are in no image that is learnt from ({_listed(absent)}): they will "
        "not be predicted; add images that show them, or ingest without them"
    ]


def _boxes_outside(annotations: pa.Table, images: pa.Table) -> list[str]:
    """Boxes of the images that reach out of them, or lie outside."""
    rows = annotations.filter(pc.is_in(annotations["image_id"], images["image_id"].combine_chunks()))
    rows = rows.filter(pc.is_valid(rows["bbox"]))
    place = np.searchsorted(images["image_id"].to_numpy(), rows["image_id"].to_numpy())
    width, height = (images[side].to_numpy()[place] for side in ("width", "height"))
    x, y, w, h = (pc.struct_field(rows["bbox"], side).to_numpy() for side in ("x", "y", "width", "height"))
    over = np.maximum.reduce([-x, -y, x + w - width, y + h - height]) > TOLERANCE
    if not over.any():
        return []
    names = images["file_name"].take(pa.array(np.unique(place[over]))).to_pylist()
    return [
        f"{int(over.sum())} boxes leave their image ({_listed(names)}): they are cut to it, and those left empty are not "
        "learnt from; mend the annotations and ingest them again"
    ]


def _large_step(config: TrainConfig, images: int) -> list[str]:
    if config.global_batch <= images:
        return []
    return [
        f"a step could hold {config.global_batch} images (batch size x accumulation x workers), the epoch has {images}: every "
        "epoch is one step of all of them; lower --batch-size for more steps"
    ]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


@dataclass(frozen=True)
class Trial:
    """A network's forward pass in training, on two images of one size with an object in each."""

    network: nn.Module
    task: Task
    rule: InputRule
    device: torch.device

    def error(self, height: int, width: int) -> str | None:
        """What goes wrong at this size of image; None = nothing."""
        network = copy.deepcopy(self.network).train()
        try:
            with torch.no_grad(), torch.random.fork_rng([self.device.index or 0] if self.device.type == "cuda" else []):
                self._run(network, height, width)
        except (RuntimeError, ValueError) as error:
            return str(error).partition("\n")[0]
        return None

    def _run(self, network: nn.Module, height: int, width: int) -> None:
        if self.task == "semantic":
            network(torch.zeros(2, 3, *self.rule.shape(height, width), device=self.device))
            return
        image = torch.full((3, height, width), 0.5, device=self.device)
        network([image, image], [self._target(height, width), self._target(height, width)])

    def _target(self, height: int, width: int) -> Mapping[str, Tensor]:
        boxes = torch.tensor([[0.0, 0.0, width, height]], device=self.device)
        target = {"boxes": boxes, "labels": torch.ones(1, dtype=torch.int64, device=self.device)}
        mask = torch.ones(1, height, width, dtype=torch.uint8, device=self.device)
        pixels = torch.ones(height, width, dtype=torch.uint8, device=self.device)
        more = {"detection": {}, "instance": {"masks": mask}, "panoptic": {"masks": mask, "map": pixels}}
        return {**target, **more[self.task]}


def check_smallest(trial: Trial, images: Sequence[ImageRef], model: str) -> None:
    """Refuse images that are too small for the network, by trying it on the smallest one's size.

    Args:
        images: those with a known size.

    Raises:
        ConfigError: it fails there, and not on a large image.
    """
    smallest = min(images, key=lambda image: min(trial.rule.shape(image.height or 0, image.width or 0)))
    height, width = smallest.height or 0, smallest.width or 0
    seen = trial.rule.shape(height, width)
    if min(seen) >= SMALL:
        return
    error = trial.error(height, width)
    if error is not None and trial.error(LARGE, LARGE) is None:
        raise ConfigError(
            f"image {smallest.image_id} ({smallest.file_name}) of {width}x{height} pixels is too small for {model}, which sees "
            f"it as {seen[1]}x{seen[0]} ({error}): expected larger images; leave it out of the dataset, or choose a model or "
            "options (min_size, image_size) for small ones"
        )
