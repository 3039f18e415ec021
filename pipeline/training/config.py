"""What to train, on what, and how: the settings of a training run."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from pipeline.errors import ConfigError
from pipeline.executors.config import ExecutorConfig
from pipeline.networks import named_options
from pipeline.warehouse import WarehouseRoot

Optimizer = Literal["adamw", "sgd"]
Precision = Literal["fp32", "bf16", "fp16", "auto"]


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and how."""

    dataset: str
    """Name of an ingested dataset."""
    _: KW_ONLY
    model: str
    """Name in the zoo ('shardlens models' lists them)."""
    option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """K=V, an option of the model, as often as needed."""
    run: str | None = None
    """Name of the training run; None = the model's name and the fingerprint's first digits."""
    split: str | None = None
    """Split to learn from; None = train, or all images of a dataset without splits."""
    val_split: str | None = None
    """Split to validate on; None = val, else test, where the dataset has it beside the one learnt from; else none."""
    validate_every: int = 1
    """Epochs from one validation to the next; the last epoch is always validated; 0 = never."""
    best_metric: str | None = None
    """Metric of the validation that chooses the best checkpoint; None = AP, or Dice of semantic models."""
    patience: int = 0
    """Validations without a better figure after which the run ends early; 0 = never."""
    init: str | None = None
    """URI of a checkpoint to start from, of the same model with the same labels; None = random weights."""
    epochs: int = 20
    """Times that every image is seen."""
    batch_size: int = 8
    """Images that a worker computes at once, at most. A step has batch_size x accumulate x the most workers images."""
    optimizer: Optimizer = "adamw"
    """adamw, or sgd (momentum 0.9)."""
    learning_rate: float = 1e-3
    """At its peak, after the warm-up; it then falls to 0 along half a cosine."""
    weight_decay: float = 1e-4
    """Not applied to biases and norms."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    clip_norm: float = 10.0
    """Gradients longer than this are shortened to it; 0 = never."""
    dice_weight: float = 1.0
    """Semantic models: weight of the soft Dice loss beside the cross entropy."""
    image_size: Annotated[tuple[int, int] | None, Parameter(negative="")] = None
    """Semantic models: height and width that images are stretched to; None = as the model's input rule has it."""
    flip: bool = True
    """Mirror half of the images, with their boxes and masks."""
    accumulate: int = 1
    """Batches of each worker whose gradients make up a step: steps of more images than fit into memory at once."""
    checkpoint_every: int = 0
    """Steps from one checkpoint to the next; 0 = at the end of each epoch."""
    keep: int = 2
    """Checkpoints that are kept, the last ones; the best one is kept beside them."""
    max_failures: int = 3
    """Times that workers which died are replaced, within one command; the run goes on from the last checkpoint."""
    seed: int = 0
    """Equal seeds and workers give equal weights, bit for bit on the CPU."""
    precision: Precision = "fp32"
    """fp32, bf16, fp16, or auto: bf16 where the hardware multiplies it natively."""
    executor: Annotated[ExecutorConfig, Parameter(name="*")] = field(default_factory=ExecutorConfig)
    """Where the workers run. --workers N: exactly N; MIN:MAX: as many as there is room for, at any time of the run; none
    named: 1. A step's images, and so the result, are those of the most workers, however many there are."""
    threads: int = 1
    """Computing threads of a worker on the CPU."""
    cache_mb: int = 1024
    """Memory of a worker for decoded images, so that a small dataset is decoded once."""
    max_unreadable: float = 0.01
    """Share of images that may turn out to be unreadable before the run fails; they are left out."""
    max_pixels: int = 100_000_000
    """Images of more pixels count as unreadable."""
    warehouse: WarehouseRoot = "./warehouse"
    """Root of the tables."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "keep", "threads", "max_pixels"):
            _check(self, name, getattr(self, name) >= 1, "1 or more")
        _check(self, "learning_rate", 0 < self.learning_rate < math.inf, "a number above 0")
        for name in ("weight_decay", "clip_norm", "dice_weight", "cache_mb", "seed", "validate_every", "patience"):
            _check(self, name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("checkpoint_every", "max_failures"):
            _check(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("warmup", "max_unreadable"):
            _check(self, name, 0 <= getattr(self, name) <= 1, "a share from 0 to 1")
        for name, known in (("optimizer", get_args(Optimizer)), ("precision", get_args(Precision))):
            _check(self, name, getattr(self, name) in known, f"one of {', '.join(known)}")
        _check(self, "image_size", self.image_size is None or min(self.image_size) >= 1, "a height and a width")

    @property
    def options(self) -> dict[str, str]:
        """The model's options by name.

        Raises:
            ConfigError: one is not K=V.
        """
        return named_options(self.option)

    @property
    def workers(self) -> int:
        """The most workers that share each step."""
        return self.executor.bounds[1] or 1

    @property
    def fewest_workers(self) -> int:
        """The fewest workers that share each step: as many as the most, unless both are named."""
        return self.executor.bounds[0] if ":" in (self.executor.workers or "") else self.workers

    @property
    def slots(self) -> int:
        """Batches that a step is cut into, whatever the number of workers that compute them."""
        return self.workers * self.accumulate

    @property
    def global_batch(self) -> int:
        """Images of a step, at most."""
        return self.batch_size * self.slots

    @property
    def device(self) -> str:
        """cpu or cuda."""
        return "cuda" if self.executor.gpus_per_worker > 0 else "cpu"


def _check(config: TrainConfig, name: str, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"{name} is {getattr(config, name)!r}: expected {expected}")
