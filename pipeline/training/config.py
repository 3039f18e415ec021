"""What to train, on what, and how: the settings of a training run."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.networks.named_values import named_numbers, named_options
from shardlens.pipeline.training.augment.config import Augmentation
from shardlens.pipeline.training.optimization import Optimization, Optimizer, Precision, Schedule
from shardlens.pipeline.training.settings import check
from shardlens.pipeline.warehouse.layout import WarehouseRoot

__all__ = ["Optimizer", "Precision", "Schedule", "Subject", "TrainConfig", "Transfer"]
"""The first three name the types of inherited fields, which the command line and the forms look up here."""

Transfer = Literal["scratch", "feature-extractor", "fine-tune", "head-then-all"]
LOSS_WEIGHTS = ("cross_entropy_weight", "dice_weight", "focal_weight")
SEMANTIC_LOSSES = (*LOSS_WEIGHTS, "focal_gamma", "class_weight", "border_weight", "border_sigma")
"""Settings of the losses of semantic models."""


@dataclass(frozen=True)
class Subject:
    """What to train, and on what."""

    dataset: str
    """Name of an ingested dataset; NAME@VERSION for another version than its latest."""
    _: KW_ONLY
    model: str
    """Name in the zoo ('shardlens models' lists them), or package.module:SPEC, a ModelSpec of your own, whose module is
    imported and so runs its code."""
    option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """K=V, an option of the model, as often as needed."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Augmentation, Optimization, Subject):
    """What to train, on what, and how."""

    run: str | None = None
    """Name of the training run; default: the model's name and a digest of the settings."""
    split: str | None = None
    """Split to train on; default: train, or all images of a dataset without splits."""
    val_split: str | None = None
    """Split to validate on; default: val, else test, if the dataset has it and it is not the training split; else none."""
    validate_every: int = 1
    """Epochs from one validation to the next; the last epoch is always validated; 0 = never."""
    best_metric: str | None = None
    """Metric of the validation that chooses the best checkpoint; default: AP, Dice of semantic, PQ of panoptic models."""
    patience: int = 0
    """Early stopping: validations without an improvement after which the run ends; 0 = never."""
    init: str | None = None
    """URI of initial weights, of a backbone or a complete model, or the name of a training run: tensors that match by
    name and shape are loaded."""
    transfer: Transfer | None = None
    """scratch; feature-extractor: the backbone is frozen, its norms included; fine-tune: everything is trained;
    head-then-all: feature-extractor for --head-epochs, then fine-tune. Default: fine-tune with --init, else scratch."""
    head_epochs: int = 1
    """head-then-all: epochs in which the backbone is frozen."""
    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 8
    """Images per batch and worker. A step has batch_size x accumulate x the maximum number of workers images."""
    cross_entropy_weight: float = 1.0
    """Semantic models: weight of the cross entropy in the loss."""
    dice_weight: float = 1.0
    """Semantic models: weight of the soft Dice loss."""
    focal_weight: float = 0.0
    """Semantic models: weight of the focal loss."""
    focal_gamma: float = 2.0
    """Power of the focal loss; 0 makes it the cross entropy."""
    class_weight: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """Semantic models: LABEL=F, the weight of a label's pixels in cross entropy and focal loss, as often as needed; others
    have 1."""
    border_weight: float = 0.0
    """Semantic models: U-Net's w_0 (10 in the paper), the extra weight of pixels between two objects in the cross entropy."""
    border_sigma: float = 5.0
    """Standard deviation, in pixels, over which that weight falls off."""
    image_size: Annotated[tuple[int, int] | None, Parameter(negative="")] = None
    """Semantic models: height and width that images are resized to, in training and in prediction; default: the
    model's input rule."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 = at the end of each epoch."""
    keep: int = 2
    """How many of the last checkpoints are kept, in addition to the best one."""
    max_failures: int = 3
    """Times in a row, without a checkpoint in between, that dead workers are replaced within one command."""
    executor: Annotated[ExecutorConfig, Parameter(name="*")] = field(default_factory=ExecutorConfig)
    """Where the workers run. --workers N: exactly N (default 1); MIN:MAX: as many as the cluster has room for at the time.
    A step's images, and so the result, are those of the maximum, however many workers there are."""
    threads: int = 1
    """Threads that torch computes with in a worker on the CPU."""
    cache_mb: int = 1024
    """Megabytes of decoded images that a worker keeps in memory, so that a small dataset is decoded once."""
    strict: bool = False
    """Make warnings about the data an error: unreadable images, categories without training images, boxes that leave
    their image."""
    max_unreadable: float = 0.01
    """Share of the training images, and of the validation images, that may be unreadable; below 100 images one may be.
    They are left out of training, and their objects count as missed in validation."""
    unannotated: bool = False
    """Also train and validate on the images whose annotations are missing or unreadable, as images without objects."""
    max_pixels: int = 100_000_000
    """Images of more pixels count as unreadable."""
    value_range: str = "auto"
    """LOW:HIGH, such as 0:4095: the values that become 0 and 255 in images of more than 8 bits a value; auto: the smallest
    usual depth that holds an image's values."""
    accept_missing_end: Annotated[bool, Parameter(negative="")] = False
    """Accept JPEGs that have all of their pixels and lack only the marker of their end."""
    image_timeout: float = 60.0
    """Seconds after which the decoding of an image is ended, and the image is unreadable; 0: never."""
    warehouse: WarehouseRoot = "./warehouse"
    """Root of the tables."""

    @property
    def decode_policy(self) -> DecodePolicy:
        """How images are decoded."""
        return DecodePolicy(
            max_pixels=self.max_pixels,
            value_range=self.value_range,
            accept_missing_end=self.accept_missing_end,
            image_timeout=self.image_timeout,
        )

    def __post_init__(self) -> None:
        _ = self.decode_policy.values
        Optimization.__post_init__(self)
        Augmentation.__post_init__(self)
        for name in ("epochs", "batch_size", "head_epochs", "keep", "threads", "max_pixels"):
            check(self, name, getattr(self, name) >= 1, "1 or more")
        for name in (*LOSS_WEIGHTS, "focal_gamma", "border_weight", "cache_mb", "validate_every", "patience"):
            check(self, name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("checkpoint_every", "max_failures"):
            check(self, name, getattr(self, name) >= 0, "0 or more")
        check(self, "max_unreadable", 0 <= self.max_unreadable <= 1, "a share from 0 to 1")
        check(self, "transfer", self.transfer in (None, *get_args(Transfer)), f"one of {', '.join(get_args(Transfer))}")
        expected = "the URI of initial weights" if self.method != "scratch" else "none, with --transfer scratch"
        check(self, "init", (self.init is None) == (self.method == "scratch"), expected)
        check(self, "border_sigma", 0 < self.border_sigma < math.inf, "a number above 0")
        check(
            self,
            "cross_entropy_weight",
            any(getattr(self, name) for name in LOSS_WEIGHTS),
            "at least one loss with a weight above 0",
        )
        of_pixels = self.cross_entropy_weight > 0 or self.focal_weight > 0
        check(self, "class_weight", of_pixels or not self.class_weight, "none, with the Dice loss alone")
        check(
            self, "border_weight", self.cross_entropy_weight > 0 or not self.border_weight, "0, without cross entropy"
        )
        check(self, "class_weight", all(0 <= weight < math.inf for weight in self.class_weights.values()), "0 or more")
        check(self, "image_size", self.image_size is None or min(self.image_size) >= 1, "a height and a width")

    @property
    def method(self) -> Transfer:
        """How the weights of `init` are used."""
        return self.transfer or ("scratch" if self.init is None else "fine-tune")

    @property
    def options(self) -> dict[str, str]:
        """The model's options by name.

        Raises:
            ConfigError: one is not K=V.
        """
        return named_options(self.option)

    @property
    def class_weights(self) -> dict[str, float]:
        """Weights by label.

        Raises:
            ConfigError: one is not LABEL=F.
        """
        return named_numbers("--class-weight", self.class_weight)

    @property
    def border(self) -> tuple[float, float] | None:
        """w_0 and sigma of the border weights; None without them."""
        return (self.border_weight, self.border_sigma) if self.border_weight else None

    @property
    def workers(self) -> int:
        """Maximum number of workers that share each step."""
        return self.executor.bounds[1] or 1

    @property
    def fewest_workers(self) -> int:
        """Minimum number of workers that share each step: the maximum, unless both are given."""
        return self.executor.bounds[0] if ":" in (self.executor.workers or "") else self.workers

    @property
    def elastic_workers(self) -> bool:
        """Whether the number of workers may change."""
        return self.fewest_workers < self.workers

    @property
    def slots(self) -> int:
        """Batches of a step, whatever the number of workers that compute them."""
        return self.workers * self.accumulate

    @property
    def global_batch(self) -> int:
        """Images of a step, at most."""
        return self.batch_size * self.slots

    def tolerated(self, images: int) -> int:
        """How many of so many images may be unreadable: the share of --max-unreadable, but one image unless it is 0."""
        share = math.floor(self.max_unreadable * images)
        return min(images - 1, max(1, share)) if self.max_unreadable else 0

    @property
    def device(self) -> str:
        """cpu or cuda."""
        return "cuda" if self.executor.gpus_per_worker > 0 else "cpu"
