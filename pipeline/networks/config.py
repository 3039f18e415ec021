"""Which network, with which weights: settings, imported without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.networks.named_values import named_options


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Which network, with which weights."""

    model: str | None = None
    """Name in the zoo ('shardlens models' lists them), or package.module:SPEC, a ModelSpec of your own, whose module is
    imported and so runs its code; default: the zoo model that the checkpoint names."""
    option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """K=V, an option of the model, as often as needed; an option that takes a file (cfg of darknet) is its URI."""
    weights: str | None = None
    """URI of the weights or of a checkpoint's folder, the name of a training run in the warehouse or of published weights
    (DEFAULT), or 'random'."""
    sha256: str | None = None
    """Digest that the weights file must have."""
    labels: str | None = None
    """URI of a text file with a label a line; default: the checkpoint's or the published weights' own."""
    score_threshold: float | None = None
    """Rows below this score are not kept; default: the model's own threshold."""

    def __post_init__(self) -> None:
        if self.score_threshold is not None and not math.isfinite(self.score_threshold):
            raise ConfigError(f"score_threshold is {self.score_threshold}: expected a finite number, such as 0.3")

    @property
    def options(self) -> dict[str, str]:
        """The options by name.

        Raises:
            ConfigError: one is not K=V.
        """
        return named_options(self.option)
