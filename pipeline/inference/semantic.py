"""Probabilities of the classes at every pixel, averaged over views of an image and over networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from shardlens.models.inputs import prepare, restore
from shardlens.models.spec import InputRule
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.inference.options import View

Logits = Callable[[Tensor], Tensor]
"""From (N, 3, H, W), normalized, to (N, K, H, W)."""


@dataclass(frozen=True, eq=False)
class Segmenter:
    """Semantic networks in evaluation mode, how their input is made, and the views that each of them is given."""

    networks: tuple[tuple[Logits, InputRule], ...]
    views: tuple[View, ...] = (View(),)

    def __post_init__(self) -> None:
        fixed = next((rule.fixed for _, rule in self.networks if rule.fixed is not None), None)
        if fixed is not None and any(view.scale != 1 for view in self.views):
            raise ConfigError(
                f"--tta with a scale, but the model takes images of {fixed[0]} x {fixed[1]} pixels alone: leave it out"
            )

    def __call__(self, images: Sequence[Tensor]) -> list[Tensor]:
        """(K, h, w) float32 of each image (3, h, w) float in [0, 1], of any sizes."""
        ways = list(product(self.networks, self.views))
        total = self._seen(*ways[0], images)
        for way in ways[1:]:
            for so_far, maps in zip(total, self._seen(*way, images), strict=True):
                so_far += maps
        return [so_far / len(ways) for so_far in total] if len(ways) > 1 else total

    def _seen(self, network: tuple[Logits, InputRule], view: View, images: Sequence[Tensor]) -> list[Tensor]:
        """The probabilities of one network in one view, turned back; images of one padded shape go through together."""
        logits_of, plain = network
        rule = replace(plain, scale=view.scale)
        flips = [side for side, wanted in ((-1, view.flipped), (-2, view.turned)) if wanted]
        groups: dict[tuple[int, int], list[int]] = {}
        for place, image in enumerate(images):
            groups.setdefault(rule.shape(*image.shape[-2:]), []).append(place)
        map_of: dict[int, Tensor] = {}
        for places in groups.values():
            batch = prepare([images[i].flip(flips) if flips else images[i] for i in places], rule)
            logits = logits_of(batch.contiguous(memory_format=torch.channels_last)).float()
            maps = restore(logits, rule, [(images[i].shape[-2], images[i].shape[-1]) for i in places])
            map_of |= {
                i: m.softmax(0).flip(flips) if flips else m.softmax(0) for i, m in zip(places, maps, strict=True)
            }
        return [map_of[place] for place in range(len(images))]
