"""Before the first step: read the tables, resolve what the configuration leaves open, and refuse what cannot work."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from shardlens import models
from shardlens.models.losses.segmentation import VOID
from shardlens.models.options import Value, coerce
from shardlens.models.spec import BACKGROUND, ModelSpec
from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.networks.checkpoints import of_run
from shardlens.pipeline.networks.precision import resolve_precision
from shardlens.pipeline.networks.resolve import read_options
from shardlens.pipeline.training import checks, notes
from shardlens.pipeline.training.augment.augmenter import Augmenter
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.job import TrainJob
from shardlens.pipeline.training.objectives import criterion
from shardlens.pipeline.training.stuff import stuff_labels
from shardlens.pipeline.training.transfer import read_init
from shardlens.pipeline.training.truth import Truth, count_unannotated, of_split, read, select, usable_images
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse, check_name


@dataclass(frozen=True)
class _Usable:
    """What of a dataset is trained on."""

    images: int
    truth: Truth
    left_out: Mapping[str, int]
    """How many annotations and images are not, by reason."""
    unannotated: int
    """Images that are left out because their annotations are not known."""


def prepare(config: TrainConfig) -> TrainJob:
    """Read the tables and check that there is something to train on.

    Raises:
        ConfigError: settings that do not go together, or not with the dataset: split, model, workers.
        DatasetError: no such dataset, or nothing in it that the model can be trained on.
        ModelError, WeightsError: an unknown model or option; nothing at `init`.
    """
    spec = models.find(config.model)
    _check_model(config, spec)
    name, _, version = config.dataset.partition("@")
    dataset = Dataset.open(Warehouse(config.warehouse), name, version or None)
    init = config.init and of_run(config.init, Warehouse(config.warehouse).path("checkpoints"))
    config = replace(config, dataset=name, init=init)
    split = choose_split(config, dataset.images)
    annotations = read(dataset)
    usable = _usable(config, spec, dataset, annotations, split)
    val_split, metric = checks.choose_val_split(config, dataset.images, split), checks.choose_metric(config, spec.task)
    if val_split is not None:
        checks.check_validation(config, spec, annotations, dataset.images, dataset.categories, val_split)
    labels, label_of = name_labels(spec, dataset.categories)
    criterion(config, labels)  # made here to be refused before any worker starts: a weight of an unknown label,
    Augmenter(config, spec.task, config.seed, config.epochs)  # and augmentations that do not go with the task
    job = TrainJob(
        config=config,
        run="draft",
        dataset_version=dataset.version,
        split=split,
        val_split=val_split,
        images=usable.images,
        labels=labels,
        label_of=label_of,
        options=_options(config, spec, usable.truth, labels, label_of),
        init_sha256=None if config.init is None else hashlib.sha256(read_init(config.init)).hexdigest(),
        left_out=usable.left_out,
        precision=config.precision,
        best_metric=metric,
        notes=_notes(config, spec, dataset, annotations, usable.truth, split, val_split, metric),
        unannotated=usable.unannotated,
    )
    return settled(named(job))


def _usable(
    config: TrainConfig, spec: ModelSpec, dataset: Dataset, annotations: pa.Table, split: str | None
) -> _Usable:
    """Choose the images and annotations to train on, and refuse them if they are none, or do not fit each other."""
    chosen = of_split(dataset.images, split)
    checks.check_readable(config, chosen, "train on")
    images, unreadable = usable_images(dataset.images, split, config.unannotated)
    unannotated = 0 if config.unannotated else count_unannotated(chosen)
    truth = select(annotations, images, spec.task, dataset.categories)
    checks.check_truth(truth, images, split, config, spec.task, "train on")
    checks.check_masks(truth, images, config, spec.task)
    checks.check_counts(config, images.num_rows)
    left_out = {"images without a readable header": unreadable, "images without known annotations": unannotated}
    left_out = dict(truth.left_out) | {reason: count for reason, count in left_out.items() if count}
    return _Usable(images.num_rows, truth, left_out, unannotated)


def _options(
    config: TrainConfig, spec: ModelSpec, truth: Truth, labels: tuple[str, ...], label_of: Mapping[int, int]
) -> Mapping[str, Value]:
    """The model's options; of a panoptic one also which labels are stuff, by the annotations if they are not named."""
    options = coerce(spec, read_options(spec, config.options))
    if not MODEL_TASKS[spec.task].stuff:
        return options
    stuff = stuff_labels(config.options.get("stuff"), truth.rows, labels, label_of)
    return {**options, "stuff": ",".join(map(str, stuff))}


def _notes(
    config: TrainConfig,
    spec: ModelSpec,
    dataset: Dataset,
    annotations: pa.Table,
    truth: Truth,
    split: str | None,
    val_split: str | None,
    metric: str,
) -> tuple[str, ...]:
    trained, validated = (of_split(dataset.images, name) for name in (split, val_split))
    warnings = notes.data_warnings(
        config, spec.task, truth, trained, validated if val_split else None, dataset.categories, annotations
    )
    return (*notes.validation_notes(config, split, val_split, metric, spec.fits_at_once), *warnings)


def named(job: TrainJob) -> TrainJob:
    """Give the job its name: the one asked for, or the model's and some digits of what is asked for."""
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", job.config.model)
    return replace(job, run=check_name(job.config.run or f"{plain}-{job.fingerprint[:8]}", "run"))


def settled(job: TrainJob) -> TrainJob:
    """Resolve `auto`: the precision that the run was started with, on whatever machine, else the one that suits the hardware."""
    begun = runs.setting(job.folder, "precision") if job.precision == "auto" else None
    precision = begun or resolve_precision(job.precision, job.config.device)
    return replace(
        job, precision=precision, notes=(*job.notes, *notes.precision_warnings(precision, job.config.device))
    )


def _check_model(config: TrainConfig, spec: ModelSpec) -> None:
    if not spec.trainable:
        known = ", ".join(sorted(name for name, other in models.MODELS.items() if other.trainable))
        raise ConfigError(f"model {spec.name} cannot be trained here, only predict; these can: {known}")
    resizes = MODEL_TASKS[spec.task].objects
    if config.image_size and resizes:
        sizes = ", ".join(f"{key}=..." for key in ("min_size", "max_size"))
        raise ConfigError(
            f"image_size is for semantic models; {spec.name} resizes by itself: give its options ({sizes})"
        )
    if resizes:
        checks.check_losses(config, spec)
    if spec.fits_at_once:
        checks.check_one_pass(config)


def choose_split(config: TrainConfig, images: pa.Table) -> str | None:
    """The split to train on; None for all images of a dataset that has no splits.

    Raises:
        ConfigError: the dataset has no such split, or splits of other names than train.
    """
    known = sorted(s for s in images["split"].unique().to_pylist() if s is not None)
    wanted = config.split or ("train" if known else None)
    if wanted is None or wanted in known:
        return wanted
    listed = f"it has {', '.join(known)}" if known else "it has none: leave --split out to train on all its images"
    raise ConfigError(f"dataset {config.dataset} has no split {wanted!r}: {listed}")


def name_labels(spec: ModelSpec, categories: pa.Table) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names of the labels, one for each category after the background, and category id -> label.

    Raises:
        ConfigError: more categories than a label map can tell apart.
    """
    names = tuple(categories["name"].to_pylist())
    first = 1 if spec.background else 0
    if MODEL_TASKS[spec.task].label_map and first + len(names) > VOID:
        raise ConfigError(f"{len(names)} categories: a {spec.task} model tells at most {VOID - first} apart here")
    label_of = {category: first + i for i, category in enumerate(categories["category_id"].to_pylist())}
    return ((BACKGROUND,) * first + names, label_of)
