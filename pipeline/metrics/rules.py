"""The settings of a score that change its figures or what computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from shardlens.pipeline.errors import ConfigError

EngineName = Literal["hotcoco", "pycocotools"]
MAX_DETS = (1, 10, 100)
"""COCO's limits on the predictions of an image and category, the best first."""


@dataclass(frozen=True)
class Rules:
    """How a run is scored."""

    engine: EngineName = "hotcoco"
    """What matches objects; pycocotools is the slow reference."""
    max_dets: int = MAX_DETS[-1]
    """Predictions of an image and category that count, the best first."""

    def __post_init__(self) -> None:
        if self.engine not in get_args(EngineName):
            raise ConfigError(
                f"there is no evaluation engine {self.engine!r}: expected one of {', '.join(get_args(EngineName))}"
            )
        if self.max_dets < MAX_DETS[1]:
            raise ConfigError(
                f"max_dets is {self.max_dets}: expected {MAX_DETS[1]} or more, since AR{MAX_DETS[1]} counts so many predictions"
            )

    @property
    def limits(self) -> tuple[int, int, int]:
        """The three limits of COCO's AR; the last one is that of every other metric."""
        return (*MAX_DETS[:2], self.max_dets)
