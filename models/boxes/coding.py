"""A box as its offsets from a proposal, as R-CNN has it: https://arxiv.org/abs/1311.2524, appendix C.

tx = (Gx - Px) / Pw, ty = (Gy - Py) / Ph, tw = log(Gw / Pw), th = log(Gh / Ph), with centers x, y and sides w, h. The
weights stand for the division by the offsets' standard deviations, which Fast R-CNN added.
"""

from __future__ import annotations

from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

Weights = tuple[float, float, float, float]
PLAIN: Weights = (1.0, 1.0, 1.0, 1.0)
NORMALIZED: Weights = (10.0, 10.0, 5.0, 5.0)
"""One over the usual standard deviations, 0.1 of the centers and 0.2 of the logarithms."""


def encode(boxes: Tensor, proposals: Tensor, weights: Weights = PLAIN) -> Tensor:
    """Codes (N, 4) of `boxes` (N, 4) seen from `proposals` (N, 4)."""
    codes: Tensor = BoxCoder(weights).encode_single(boxes, proposals)
    return codes


def decode(codes: Tensor, proposals: Tensor, weights: Weights = PLAIN) -> Tensor:
    """Boxes (N, 4 K) of `codes` (N, 4 K): K boxes seen from each of `proposals` (N, 4).

    The sides grow at most 62.5 times, so that a wild code cannot overflow.
    """
    boxes: Tensor = BoxCoder(weights).decode_single(codes, proposals)
    return boxes
