"""What is done around a network in prediction: tiles, several views and networks at once, post-processing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from shardlens.models.options import nearest
from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.inference.config import InferenceConfig
from shardlens.pipeline.inference.fingerprint import counted
from shardlens.pipeline.inference.postprocess import PostProcessing
from shardlens.pipeline.networks.named_values import named_numbers
from shardlens.pipeline.networks.resolve import Network, NetworkConfig, resolve
from shardlens.pipeline.storage.uris import normalize

FLIPS = ("flip", "vflip")
SEMANTIC_ONLY = ("tta", "ensemble", "threshold", "fill_holes", "min_area", "largest_component", "components")
POST_PROCESSING = ("thresholds", "fill_holes", "min_area", "largest_component", "components")
"""Fields of `PostProcessing` that the fingerprint has, wherever there is any."""


__all__ = ["InferenceConfig", "InferencePlan", "View", "resolve_plan", "views"]


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at an image."""

    scale: float = 1.0
    flipped: bool = False
    """Left and right exchanged."""
    turned: bool = False
    """Upside down."""


@dataclass(frozen=True)
class InferencePlan:
    """`InferenceConfig` resolved: labels as numbers, views and networks read; small, it travels to the workers."""

    tile: int = 0
    overlap: int = 0
    views: tuple[View, ...] = (View(),)
    postprocessing: PostProcessing = field(default_factory=PostProcessing)
    ensemble: tuple[Network, ...] = ()
    """Further networks whose probabilities are averaged with those of the first one."""

    def identity(self) -> dict[str, Any]:
        """What of it can change a row, for the fingerprint; empty at the defaults."""
        views, rules = (("scale", "flipped", "turned"), self.postprocessing)
        settings = {
            "tiles": {"size": self.tile, "overlap": self.overlap} if self.tile else None,
            "views": [counted(view, always=views) for view in self.views] if self.views != (View(),) else None,
            "post_processing": counted(rules, always=POST_PROCESSING) if rules != PostProcessing() else None,
            "ensemble": [network.identity() for network in self.ensemble] or None,
        }
        return {name: value for name, value in settings.items() if value is not None}


def resolve_plan(config: InferenceConfig, network: Network) -> InferencePlan:
    """Read what `config` names and make sure that it fits the network.

    Raises:
        ConfigError: it is for semantic models and this is none; a threshold of an unknown label, a view of no kind; a
            checkpoint of another task or with other labels.
        ModelError, WeightsError: a checkpoint that cannot be loaded.
    """
    _check_task(config, network)
    rules = PostProcessing(
        _thresholds(config, network), config.fill_holes, config.min_area, config.largest_component, config.components
    )
    ensemble = tuple(_member(uri, network) for uri in config.ensemble)
    return InferencePlan(config.tile, config.overlap if config.tile else 0, views(config.tta), rules, ensemble)


def views(tta: str) -> tuple[View, ...]:
    """The views that a list such as flip,0.75,1.25 stands for, the plain one first.

    Raises:
        ConfigError: an entry is neither a flip nor a scale.
    """
    words = [word.strip() for word in tta.split(",") if word.strip()]
    scales = (1.0, *_scales([word for word in words if word not in FLIPS]))
    flipped, turned = ((False, True) if flip in words else (False,) for flip in FLIPS)
    return tuple(View(*ways) for ways in product(dict.fromkeys(scales), flipped, turned))


def _scales(words: list[str]) -> Iterator[float]:
    for word in words:
        try:
            scale = float(word)
        except ValueError:
            scale = 0.0
        if not 0.1 <= scale <= 10:
            raise ConfigError(
                f"--tta {word!r}: expected {', '.join(FLIPS)}, or a scale between 0.1 and 10 such as 0.75"
            )
        yield scale


def _check_task(config: InferenceConfig, network: Network) -> None:
    task = network.spec.task
    if not MODEL_TASKS[task].objects:
        return
    if config.tile and MODEL_TASKS[task].stuff:
        raise ConfigError(
            f"--tile is not for panoptic models such as {network.model}: segments of tiles are not united"
        )
    given = next((name for name in SEMANTIC_ONLY if getattr(config, name)), None)
    if given is not None:
        remedy = "; to unite several detectors' runs, or one's on several views, use 'shardlens fuse'"
        raise ConfigError(
            f"--{given.replace('_', '-')} is for semantic models, {network.model} is of the task {task}"
            + (remedy if given in {"tta", "ensemble"} else "")
        )


def _thresholds(config: InferenceConfig, network: Network) -> tuple[tuple[int, float], ...]:
    thresholds = []
    for name, least in named_numbers("--threshold", config.threshold).items():
        if name not in network.labels:
            near = nearest(name, network.labels) or network.labels[:5]
            raise ConfigError(
                f"--threshold {name}={least}: the model has no such label; expected {', '.join(near)}, ..."
            )
        if not 0 <= least <= 1:
            raise ConfigError(f"--threshold {name}={least}: expected a probability from 0 to 1")
        thresholds.append((network.labels.index(name), least))
    if thresholds and len(thresholds) == len(network.labels):
        raise ConfigError(
            "--threshold: every label has one; expected a label without, which gets the pixels where none is reached"
        )
    return tuple(sorted(thresholds))


def _member(uri: str, first: Network) -> Network:
    network = resolve(NetworkConfig(weights=normalize(uri)), own_code=first.model)
    if MODEL_TASKS[network.spec.task].objects or network.labels != first.labels:
        raise ConfigError(
            f"--ensemble {uri} is a {network.model} ({network.spec.task}) with the labels {', '.join(network.labels[:8])}; "
            f"expected a semantic model with those of the first one: {', '.join(first.labels[:8])}"
        )
    return network
