"""How the weights are found: optimizer, schedule, regularization and precision, in the field's terms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from shardlens.pipeline.training.settings import check

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "step", "poly", "constant"]
Precision = Literal["fp32", "bf16", "fp16", "auto"]
LARGEST_SEED = 2**63 - 1
"""What torch takes, and the JSON of a run's record."""


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How the weights are found."""

    optimizer: Optimizer = "adamw"
    """adamw, or sgd with momentum."""
    learning_rate: float = 1e-3
    """At its peak, after the warm-up."""
    momentum: float = 0.9
    """Of sgd; of adamw the first beta."""
    weight_decay: float = 1e-4
    """Not applied to biases and norms."""
    backbone_factor: float = 1.0
    """The backbone learns at this share of the learning rate; where a model has none, what --init filled."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    schedule: Schedule = "cosine"
    """After the warm-up: cosine (half a wave down to 0), step (times gamma at each milestone), poly, or constant."""
    milestones: Annotated[tuple[float, ...], Parameter(negative="")] = (2 / 3, 8 / 9)
    """step: shares of the run after which the rate falls; the default is the '1x' schedule of Detectron."""
    gamma: float = 0.1
    """step: what the rate is multiplied with at each milestone."""
    power: float = 0.9
    """poly: the rate is (1 - share of the run) to this power, as DeepLab has it."""
    clip_norm: float = 10.0
    """Gradients longer than this are shortened to it; 0 = never."""
    accumulate: int = 1
    """Batches of a worker whose gradients make up one step."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is validated and kept; 0 = none."""
    seed: int = 0
    """Equal seeds and workers give equal weights, bit for bit on the CPU."""
    precision: Precision = "fp32"
    """fp32, bf16, fp16 (autocast), or auto: bf16 where the hardware of who gives the command gains by it."""
    channels_last: bool = True
    """Keep weights and images as NHWC in memory, which convolutions of CPUs and tensor cores prefer."""

    def __post_init__(self) -> None:
        check(self, "learning_rate", 0 < self.learning_rate < math.inf, "a number above 0")
        check(self, "accumulate", self.accumulate >= 1, "1 or more")
        check(self, "seed", 0 <= self.seed <= LARGEST_SEED, f"a whole number from 0 to {LARGEST_SEED}")
        for name in ("weight_decay", "backbone_factor", "clip_norm", "power", "gamma"):
            check(self, name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("momentum", "ema"):
            check(self, name, 0 <= getattr(self, name) < 1, "0 or more, less than 1")
        check(self, "warmup", 0 <= self.warmup <= 1, "a share from 0 to 1")
        rising = all(a < b for a, b in pairwise((0.0, *self.milestones, 1.0)))
        check(self, "milestones", rising, "shares of the run between 0 and 1, rising")
        kinds = (("optimizer", Optimizer), ("schedule", Schedule), ("precision", Precision))
        for name, kind in kinds:
            check(self, name, getattr(self, name) in get_args(kind), f"one of {', '.join(get_args(kind))}")
