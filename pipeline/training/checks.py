"""Checks before the first step: what cannot work is refused here, with its remedy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.models.spec import ModelSpec, Task
from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline.errors import ConfigError, DatasetError
from shardlens.pipeline.metrics.tasks import metric_names
from shardlens.pipeline.training.config import SEMANTIC_LOSSES, TrainConfig
from shardlens.pipeline.training.truth import Truth, readable, select
from shardlens.pipeline.warehouse.datasets import annotated, require_images

VALIDATED_BY_DEFAULT = ("val", "test")
LEFT_ALONE = ("patience", "best_metric", "ema", "backbone_factor", "multi_scale")
"""Settings without a meaning for a network that is fitted in one pass."""


def check_losses(config: TrainConfig, spec: ModelSpec) -> None:
    """Refuse settings of the losses of semantic models for a model that has losses of its own.

    Raises:
        ConfigError: one is not what it is by default.
    """
    given = next((name for name in SEMANTIC_LOSSES if getattr(config, name) != getattr(TrainConfig, name)), None)
    if given is not None:
        raise ConfigError(
            f"{given} is for semantic models; {spec.name} ({spec.task}) has losses of its own: leave it out"
        )


def check_one_pass(config: TrainConfig) -> None:
    """Refuse what a network that is fitted in one pass would ignore.

    Raises:
        ConfigError: several workers, or a setting that only a gradient or a validation gives a meaning.
    """
    once = f"{config.model} is fitted in one pass over the images, without gradients or validations"
    if config.workers > 1:
        raise ConfigError(f"{once}, by one worker; {config.workers} were asked for: leave --workers out")
    for name in LEFT_ALONE:
        value, usual = getattr(config, name), getattr(TrainConfig, name)
        if value != usual:
            raise ConfigError(f"{name} is {value!r}, but {once}: leave --{name.replace('_', '-')} out")
    if config.transfer in ("fine-tune", "head-then-all"):
        raise ConfigError(
            f"transfer is {config.transfer!r}, but {once}: leave --transfer out, the backbone stays as --init has it"
        )


def choose_val_split(config: TrainConfig, images: pa.Table, split: str | None) -> str | None:
    """The split to validate on: the one asked for, else val, else test, but not the training split; None without validation.

    Raises:
        ConfigError: the dataset has no such split, or validation is off or cannot be, and something is asked of it.
    """
    known = sorted(s for s in images["split"].unique().to_pylist() if s is not None)
    if config.validate_every and config.val_split is not None:
        if config.val_split not in known:
            listed = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(
                f"dataset {config.dataset} has no split {config.val_split!r} to validate on: {listed}; name one of them, or "
                "ingest images with --split, or set a share of them apart with --holdout"
            )
        return config.val_split
    found = [s for s in VALIDATED_BY_DEFAULT if s in known and s != split] if config.validate_every else []
    if found:
        return found[0]
    why, remedy = "validate_every is 0", "validate every 1 epoch or more"
    if config.validate_every:
        why = f"dataset {config.dataset} has no split for it"
        remedy = "name a split with --val-split, or set one apart with 'shardlens ingest --holdout 0.2'"
    for name in ("val_split", "best_metric", "patience"):
        if getattr(config, name):
            raise ConfigError(f"{name} is {getattr(config, name)!r}, but nothing is validated: {why}; {remedy}")
    return None


def choose_metric(config: TrainConfig, task: Task) -> str:
    """The metric that chooses the best checkpoint.

    Raises:
        ConfigError: there is no such metric of the model's task.
    """
    names = metric_names(task)
    metric = config.best_metric or names[0]
    if metric not in names:
        raise ConfigError(
            f"best_metric is {metric!r}: a validation of {config.model} ({task}) gives {', '.join(names)}"
        )
    return metric


def check_truth(truth: Truth, images: pa.Table, split: str | None, config: TrainConfig, task: Task, aim: str) -> None:
    """Refuse to train or to validate without annotations.

    Args:
        aim: what the images are for: train on, validate on.

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
        f"nothing to {aim}: {config.model} needs at least one {MODEL_TASKS[task].needs} of a category in "
        f"{f'split {split!r}' if split else 'the images'} of {config.dataset} ({images.num_rows} images), which hold "
        f"{reasons}: {remedy}"
    )


def check_masks(truth: Truth, images: pa.Table, config: TrainConfig, task: Task) -> None:
    """Refuse masks of another size than their images; detection models draw none.

    Raises:
        DatasetError: there are some; the message names the first.
    """
    if not MODEL_TASKS[task].masks:
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


def check_readable(config: TrainConfig, images: pa.Table, aim: str) -> None:
    """Refuse a split of which ingest could not read more images than allowed.

    Raises:
        DatasetError: there are too many; the message names the last one.
    """
    require_images(images, config.dataset)
    unknown = images.filter(pc.is_null(images["width"])).select(["image_id", "file_name"]).to_pylist()
    if len(unknown) > config.tolerated(images.num_rows):
        raise DatasetError(
            f"{len(unknown)} of the {images.num_rows} images to {aim} cannot be read, more than the "
            f"{config.max_unreadable:.1%} of --max-unreadable; the last is image {unknown[-1]['image_id']} "
            f"({unknown[-1]['file_name']}), which ingest could not read either: fix or remove them and ingest "
            f"{config.dataset} again, or raise --max-unreadable"
        )


def check_validation(
    config: TrainConfig, spec: ModelSpec, annotations: pa.Table, images: pa.Table, categories: pa.Table, split: str
) -> None:
    """Refuse a split to validate on that cannot be scored.

    Args:
        annotations: rows of the dataset.
        images: all images of the dataset.

    Raises:
        DatasetError: it has no annotations of the model's task, or too many images that cannot be read.
    """
    chosen = images.filter(pc.equal(images["split"], split))
    check_readable(config, chosen, "validate on")
    scored = readable(chosen if config.unannotated else annotated(chosen))
    truth = select(annotations, scored, spec.task, categories)
    check_truth(truth, scored, split, config, spec.task, "validate on")
    check_masks(truth, scored, config, spec.task)


def check_counts(config: TrainConfig, images: int) -> None:
    """Refuse more workers than images.

    Raises:
        ConfigError: a worker would have none.
    """
    if images < config.workers:
        raise ConfigError(
            f"{images} images for {config.workers} workers: expected one each at least; use fewer --workers"
        )
