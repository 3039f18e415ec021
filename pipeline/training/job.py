"""A training run prepared: everything that its workers must agree on, checked before the first step."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from torch import nn

from shardlens import models
from shardlens.models.losses.segmentation import VOID
from shardlens.models.options import Value, coerce
from shardlens.models.spec import BACKGROUND, InputRule, ModelSpec
from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, LocationNotFoundError, WeightsError
from shardlens.pipeline.executors.base import Progress
from shardlens.pipeline.networks.checkpoints import weights_file
from shardlens.pipeline.networks.precision import resolve_precision
from shardlens.pipeline.networks.resolve import read_options
from shardlens.pipeline.training import checks, notes
from shardlens.pipeline.training.augment.augmenter import Augmenter
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.objectives import criterion
from shardlens.pipeline.training.stuff import stuff_labels
from shardlens.pipeline.training.truth import read, readable, select
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.datasets import Dataset, annotated
from shardlens.pipeline.warehouse.layout import Warehouse, check_name

NOT_SETTINGS = {
    *("run", "warehouse", "executor", "cache_mb", "option"),
    *("checkpoint_every", "keep", "max_failures", "max_unreadable", "strict"),
    "unannotated",  # which counts by the images that it leaves out
}
"""Fields of the configuration that change no weight."""


@dataclass(frozen=True)
class TrainJob:
    """What travels to the workers: the configuration, and what was resolved from it."""

    config: TrainConfig
    run: str
    dataset_version: str
    split: str | None
    val_split: str | None
    """Split to validate on; None = no validation."""
    images: int
    """Images of an epoch."""
    labels: tuple[str, ...]
    """Names of the model's labels, the background's included."""
    label_of: Mapping[int, int]
    """Category id -> label."""
    options: Mapping[str, Value]
    init_sha256: str | None
    left_out: Mapping[str, int]
    """How many annotations and images cannot be learned from, by reason."""
    precision: str
    """What `auto` means for this run (see `settled`), else what was asked for."""
    best_metric: str
    """The metric of a validation that chooses the best checkpoint."""
    notes: tuple[str, ...]
    """What to know of the data before paying for a run, a sentence each."""
    unannotated: int = 0
    """Images left out because their annotations are missing or unreadable."""
    command: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)
    """Which command this is: of two that train one run, the one that took it up last goes on."""

    @property
    def warehouse(self) -> Warehouse:
        """Where the tables and the checkpoint lie."""
        return Warehouse(self.config.warehouse)

    @property
    def folder(self) -> str:
        """Where the checkpoint goes."""
        return self.warehouse.checkpoints(self.run)

    @property
    def spec(self) -> ModelSpec:
        """The zoo's row."""
        return models.find(self.config.model)

    def input_rule(self, network: nn.Module) -> InputRule:
        """What becomes of images before the network."""
        return self.spec.input_rule(network).stretched(self.config.image_size)

    @property
    def stuff(self) -> frozenset[int]:
        """Labels of a panoptic model that are no things."""
        return frozenset(int(label) for label in str(self.options.get("stuff", "")).split(",") if label)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that can change a weight, as JSON gives it back."""
        settings = {k: v for k, v in asdict(self.config).items() if k not in NOT_SETTINGS}
        settings |= {
            "dataset_version": self.dataset_version,
            "split": self.split,
            "val_split": self.val_split,
            "best_metric": self.best_metric,
            "labels": list(self.labels),
            "options": dict(self.options),
            "init": self.init_sha256,
            "workers": self.config.workers,
            "precision": self.precision,
            "device": self.config.device,
        }
        settings |= {"unannotated": self.unannotated} if self.unannotated else {}
        return dict(json.loads(json.dumps(settings)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()


class Worker(Protocol):
    """What the loop knows of the process that it runs in; whoever starts it has set torch.distributed up."""

    @property
    def rank(self) -> int:
        """0 for the first worker."""
        ...

    @property
    def world_size(self) -> int:
        """Workers in all."""
        ...

    @property
    def device(self) -> str:
        """What torch calls the device that it computes on."""
        ...

    def report(self, progress: Progress) -> None:
        """Say how far the run is; called by rank 0 after every step, so it must cost next to nothing."""
        ...


def prepare(config: TrainConfig) -> TrainJob:
    """Read the tables and see that there is something to learn.

    Raises:
        ConfigError: settings that do not go together, or not with the dataset: split, model, workers.
        DatasetError: no such dataset, or nothing in it that the model can learn from.
        ModelError, WeightsError: an unknown model or option; nothing at `init`.
    """
    spec = models.find(config.model)
    _check_model(config, spec)
    name, _, version = config.dataset.partition("@")
    dataset = Dataset.open(Warehouse(config.warehouse), name, version or None)
    config = replace(config, dataset=name)
    split = choose_split(config, dataset.images)
    checks.check_readable(config, of_split(dataset.images, split), "learn from")
    images, unreadable = usable_images(dataset.images, split, config.unannotated)
    unannotated = 0 if config.unannotated else count_unannotated(of_split(dataset.images, split))
    annotations = read(dataset)
    truth = select(annotations, images, spec.task, dataset.categories)
    checks.check_truth(truth, images, split, config, spec.task, "learn from")
    checks.check_masks(truth, images, config, spec.task)
    checks.check_counts(config, images.num_rows)
    val_split, metric = checks.choose_val_split(config, dataset.images, split), checks.choose_metric(config, spec.task)
    if val_split is not None:
        checks.check_validation(config, spec, annotations, dataset.images, dataset.categories, val_split)
    labels, label_of = name_labels(spec, dataset.categories)
    criterion(config, labels)  # made here to be refused before any worker starts: a weight of an unknown label,
    Augmenter(config, spec.task, config.seed, config.epochs)  # and changes of images that do not go with the task
    left_out = dict(truth.left_out) | ({"images without a readable header": unreadable} if unreadable else {})
    left_out |= {"images without known annotations": unannotated} if unannotated else {}
    options, init = coerce(spec, read_options(spec, config.options)), _init_digest(config.init)
    if MODEL_TASKS[spec.task].stuff:
        stuff = stuff_labels(config.options.get("stuff"), truth.rows, labels, label_of)
        options = {**options, "stuff": ",".join(map(str, stuff))}
    validated = None if val_split is None else of_split(dataset.images, val_split)
    faults = notes.faults(
        config, spec.task, truth, of_split(dataset.images, split), validated, dataset.categories, annotations
    )
    job = TrainJob(
        config,
        "draft",
        dataset.version,
        split,
        val_split,
        images.num_rows,
        labels,
        label_of,
        options,
        init,
        left_out,
        config.precision,
        metric,
        (*notes.stated(config, split, val_split, metric, spec.fits_at_once), *faults),
        unannotated,
    )
    return settled(named(job))


def named(job: TrainJob) -> TrainJob:
    """Give the job its name: the one asked for, or the model's and some digits of what is asked for."""
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", job.config.model)
    return replace(job, run=check_name(job.config.run or f"{plain}-{job.fingerprint[:8]}", "run"))


def settled(job: TrainJob) -> TrainJob:
    """Say what auto means: what the run was begun with, on whatever machine, else what suits the hardware."""
    begun = runs.setting(job.folder, "precision") if job.precision == "auto" else None
    precision = begun or resolve_precision(job.precision, job.config.device)
    return replace(job, precision=precision, notes=(*job.notes, *notes.unsuited(precision, job.config.device)))


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
    """The split to learn from; None = all images of a dataset that has no splits.

    Raises:
        ConfigError: the dataset has no such split, or splits of other names than train.
    """
    known = sorted(s for s in images["split"].unique().to_pylist() if s is not None)
    wanted = config.split or ("train" if known else None)
    if wanted is None or wanted in known:
        return wanted
    listed = f"it has {', '.join(known)}" if known else "it has none: leave --split out to learn from all its images"
    raise ConfigError(f"dataset {config.dataset} has no split {wanted!r}: {listed}")


def of_split(images: pa.Table, split: str | None) -> pa.Table:
    """Images of a split, the unreadable ones too; None = all."""
    return images if split is None else images.filter(pc.equal(images["split"], split))


def count_unannotated(images: pa.Table) -> int:
    """How many of the images have no known annotations."""
    return int(images.num_rows - annotated(images).num_rows)


def usable_images(images: pa.Table, split: str | None, unannotated: bool = False) -> tuple[pa.Table, int]:
    """Images of the split that are trained on, and the number of those that could not be read at ingest.

    Args:
        unannotated: keep the images whose annotations are not known, as images without objects.
    """
    chosen = of_split(images, split)
    chosen = chosen if unannotated else annotated(chosen)
    usable = readable(chosen)
    return usable, chosen.num_rows - usable.num_rows


def name_labels(spec: ModelSpec, categories: pa.Table) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names of the labels, one for each category by its id after the background, and category id -> label.

    Raises:
        ConfigError: more categories than a label map can tell apart.
    """
    names = tuple(categories["name"].to_pylist())
    first = 1 if spec.background else 0
    if MODEL_TASKS[spec.task].label_map and first + len(names) > VOID:
        raise ConfigError(f"{len(names)} categories: a {spec.task} model tells at most {VOID - first} apart here")
    label_of = {category: first + i for i, category in enumerate(categories["category_id"].to_pylist())}
    return ((BACKGROUND,) * first + names, label_of)


def _init_digest(uri: str | None) -> str | None:
    return None if uri is None else hashlib.sha256(read_init(uri)).hexdigest()


def read_init(uri: str) -> bytes:
    """Read the weights to start from: a file, or a checkpoint's folder, as `predict --weights` takes them.

    Raises:
        WeightsError: nothing is there.
    """
    try:
        return storage.read(weights_file(storage.normalize(uri)))
    except LocationNotFoundError as error:
        raise WeightsError(f"no weights to start from at {error}") from None
