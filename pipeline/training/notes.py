"""Warnings about the data, and what is validated: reported before the first step, and kept in the report.

They stop no run (a category without training images, boxes that leave their image) unless `--strict` makes them an error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.models.spec import Task
from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.networks.precision import resolve_precision
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.truth import Truth, readable
from shardlens.pipeline.warehouse.datasets import annotated

NAMED = 10
"""Categories, and images, that a message names."""
TOLERANCE = 0.5
"""Pixels by which a box may leave its image without a warning: rounding."""


def data_warnings(
    config: TrainConfig,
    task: Task,
    truth: Truth,
    trained: pa.Table,
    validated: pa.Table | None,
    categories: pa.Table,
    annotations: pa.Table,
) -> list[str]:
    """Defects of the data that do not prevent training.

    Args:
        truth: annotations to train on.
        trained: images to train on, the unreadable ones too.
        validated: images to validate on; None without validation.
        annotations: rows of the dataset.

    Raises:
        DatasetError: there is a warning, and `config.strict` is set.
    """
    sides = [(trained, "train on"), *([(validated, "validate on")] if validated is not None else [])]
    left_out = [] if config.unannotated else [note for side in sides for note in _unannotated(*side)]
    trained = trained if config.unannotated else annotated(trained)
    images = readable(trained)
    warnings = [
        *left_out,
        *_unreadable(trained, "train on", "they are left out"),
        *(_unreadable(validated, "validate on", "their objects count as missed") if validated is not None else []),
        *_absent_categories(truth, categories),
        *(_boxes_outside(annotations, images) if MODEL_TASKS[task].objects else []),
        *_large_step(config, images.num_rows),
    ]
    if warnings and config.strict:
        listed = "".join(f"\n  {note}" for note in warnings)
        raise DatasetError(f"refused by --strict, because of warnings about {config.dataset}:{listed}")
    return warnings


def validation_notes(
    config: TrainConfig, split: str | None, val_split: str | None, metric: str, at_once: bool
) -> list[str]:
    """What is validated on, and which weights are kept.

    Args:
        split: the training split.
        at_once: whether the model is fitted in one pass, without a gradient.
    """
    if at_once:
        return [f"{config.model} is fitted in one pass over the images, nothing is validated: its weights are kept"]
    same = f"split {split!r} is both trained on and validated on: the metrics say nothing about other images"
    return [_validation(config, val_split, metric), *([same] if split is not None and split == val_split else [])]


def _validation(config: TrainConfig, val_split: str | None, metric: str) -> str:
    if val_split is None and not config.validate_every:
        return "nothing is validated, validate_every is 0: the last weights are kept"
    if val_split is None:
        return (
            f"nothing is validated, {config.dataset} has no split for it (val or test): the last weights are kept; "
            "'shardlens ingest --holdout 0.2' sets a split val apart"
        )
    often = "every epoch" if config.validate_every == 1 else f"every {config.validate_every} epochs"
    ends = f", the run ends after {config.patience} without a better one" if config.patience else ""
    return f"validated on split {val_split!r} {often}: the weights of the best {metric} are kept{ends}"


def precision_warnings(precision: str, device: str) -> list[str]:
    """Whether the precision is slow on this machine."""
    if precision != "bf16" or resolve_precision("auto", device) == "bf16":
        return []
    return [
        f"bf16 gains little or nothing on this {device}, and where it is emulated it is several times slower than fp32: "
        "a new run with --precision auto takes what is fast"
    ]


def _unreadable(images: pa.Table, aim: str, outcome: str) -> list[str]:
    names = images.filter(pc.is_null(images["width"]))["file_name"].to_pylist()
    if not names:
        return []
    return [
        f"{len(names)} of the {images.num_rows} images to {aim} could not be read when they were ingested "
        f"({_listed(names)}): {outcome}; fix them and ingest them again"
    ]


def _unannotated(images: pa.Table, aim: str) -> list[str]:
    known = annotated(images)
    if known.num_rows == images.num_rows:
        return []
    unknown = pc.invert(pc.is_in(images["image_id"], known["image_id"].combine_chunks()))
    names = images.filter(unknown)["file_name"].to_pylist()
    return [
        f"{len(names)} of the {images.num_rows} images to {aim} have missing or unreadable annotations ({_listed(names)}): "
        "they are left out; ingest them with annotations, or take them for images without objects (--unannotated)"
    ]


def _absent_categories(truth: Truth, categories: pa.Table) -> list[str]:
    present = truth.rows["category_id"].unique()
    absent = categories.filter(pc.invert(pc.is_in(categories["category_id"], present)))["name"].to_pylist()
    if not absent:
        return []
    return [
        f"{len(absent)} of {categories.num_rows} categories have no training images ({_listed(absent)}): they will "
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
        "trained on; fix the annotations and ingest them again"
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
