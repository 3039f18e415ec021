"""The contract of a training run: what travels to its workers (`TrainJob`), and what a worker is to the loop (`Worker`)."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

from torch import nn

from shardlens import models
from shardlens.models.options import Value
from shardlens.models.spec import InputRule, ModelSpec
from shardlens.pipeline.executors.base import Progress
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.warehouse.layout import Warehouse

NOT_SETTINGS = {
    *("run", "warehouse", "executor", "cache_mb", "option"),
    *("checkpoint_every", "keep", "max_failures", "max_unreadable", "image_timeout", "strict"),
    "unannotated",  # which counts by the images that it leaves out
}
"""Fields of the configuration that change no weight."""
LATER_SETTINGS = {"value_range", "accept_missing_end"}
"""Fields that earlier versions lacked: they count only where they are not at their defaults."""


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
    """How many annotations and images cannot be trained on, by reason."""
    precision: str
    """What `auto` means for this run (see `prepare.settled`), else what was asked for."""
    best_metric: str
    """The metric of a validation that chooses the best checkpoint."""
    notes: tuple[str, ...]
    """What to know of the data before starting a long run, a sentence each."""
    unannotated: int = 0
    """Images left out because their annotations are missing or unreadable."""
    command: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)
    """Which command this is: of two that train one run, the newer one takes over."""

    @property
    def warehouse(self) -> Warehouse:
        """Where the tables and the checkpoint lie."""
        return Warehouse(self.config.warehouse)

    @property
    def folder(self) -> str:
        """Folder of the run: checkpoints, tables, report."""
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
        later = {f.name: f.default for f in fields(self.config) if f.name in LATER_SETTINGS}
        settings = {k: v for k, v in settings.items() if k not in later or v != later[k]}
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
        """Report the progress; called by rank 0 after every step, so it must cost next to nothing."""
        ...
