"""Proposals from outside of the network: selective search over each image, remembered by the image's content.

How many regions it finds, and how long it takes, depends on the image's size. R-CNN's authors therefore resized ImageNet's
images to a width of 500 pixels, the most that Pascal VOC's have: https://arxiv.org/abs/1311.2524, section 4.2.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.detection.selective_search import FAST, SINGLE, SearchRule, selective_search
from shardlens.models.errors import ModelError

WIDTH = 500
"""Pixels; wider images are searched at this width, narrower ones as they are."""
_REMEMBERED = 4096
_RULES = {"fast": FAST, "single": SINGLE}


class ExternalProposals(nn.Module):
    """Holds the boxes of the images that this process has searched, for a search takes seconds."""

    def __init__(self, rule: SearchRule) -> None:
        super().__init__()
        self.rule = rule
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Boxes (P, 4) xyxy of each image (3, H, W) in [0, 1], in its pixels, the likeliest objects first."""
        return [self._of(image).to(image.device) for image in images]

    def _of(self, image: Tensor) -> Tensor:
        pixels = np.ascontiguousarray((image.float() * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())
        key = hashlib.sha256(pixels.tobytes() + str(pixels.shape).encode()).digest()
        if key not in self._known:
            self._known[key] = search_at_width(pixels, self.rule)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]


def search_at_width(pixels: npt.NDArray[np.uint8], rule: SearchRule) -> Tensor:
    """Boxes (P, 4) xyxy float32 of an image (H, W, 3), in its pixels, found in it at a width of at most `WIDTH`."""
    height, width = pixels.shape[:2]
    if width <= WIDTH:
        return torch.from_numpy(selective_search(pixels, rule))
    size = (max(1, round(height * WIDTH / width)), WIDTH)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    small = F.interpolate(image, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).round().to(torch.uint8)
    factors = torch.tensor([width / size[1], height / size[0]] * 2)
    return torch.from_numpy(selective_search(small.contiguous().numpy(), rule)) * factors


def external_proposals(search: str, limit: int) -> ExternalProposals:
    """The search called `search`, of at most `limit` boxes.

    Raises:
        ModelError: there is none of that name.
    """
    if search not in _RULES:
        raise ModelError(f"option search is {search!r}; expected one of {', '.join(_RULES)}")
    rule = _RULES[search]
    return ExternalProposals(SearchRule(rule.spaces, rule.scales, rule.similarities, limit))
