"""What Darknet's detectors minimize: anchors matched to objects, then boxes, objectness and classes.

https://arxiv.org/abs/1612.08242 ([region]: YOLOv2), https://arxiv.org/abs/1804.02767 ([yolo]: YOLOv3),
https://arxiv.org/abs/2004.10934 (iou_thresh, CIoU). Every sum is over the anchors, then the mean over the images.

Objectness costs the binary cross entropy of its logit, in [yolo] and [region] alike, whose gradient is found - wanted.
So do the classes of [yolo] and the position in the cell. Where a network's last activation is the sigmoid already
(new_coords), they cost half the squared error, which has this gradient by what the network gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.boxes.overlap import iou
from shardlens.models.darknet.anchors import shape_iou
from shardlens.models.darknet.heads import Decoder, Level
from shardlens.models.darknet.overlap import Overlap, darknet_gradient, overlap_loss
from shardlens.models.darknet.terms import Terms
from shardlens.models.errors import ModelError
from shardlens.models.options import require

PRIOR_WEIGHT = 0.01
"""Of the pull of every box to its anchor, in the first images of a YOLOv2."""


class Truth(NamedTuple):
    """The objects of a batch, T in all."""

    image: Tensor
    """(T,) int64, number of the image in the batch."""
    boxes: Tensor
    """(T, 4) xyxy, shares of the image."""
    labels: Tensor
    """(T,) int64."""


def read_truth(targets: Sequence[Mapping[str, Tensor]], sizes: Sequence[tuple[int, int]]) -> Truth:
    """The objects of `targets`, boxes (N, 4) xyxy in pixels of images of `sizes` (height, width); empty boxes left out."""
    image = torch.cat([torch.full_like(target["labels"], i) for i, target in enumerate(targets)])
    shares = [t["boxes"] / t["boxes"].new_tensor([w, h, w, h]) for t, (h, w) in zip(targets, sizes, strict=True)]
    boxes, labels = torch.cat(shares).float(), torch.cat([target["labels"] for target in targets])
    solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return Truth(image[solid], boxes[solid], labels[solid])


class Match(NamedTuple):
    """Which anchors are responsible for an object, P in all."""

    slot: Tensor
    """(P,) int64, each once: image * M + number of the anchor among the decoder's M."""
    truth: Tensor
    """(P,) int64, the object; the last one where several want the same anchor."""
    classes: Tensor
    """(P, labels) float, 1 for each class that an object there has."""


class DarknetLoss(nn.Module):
    """The loss of a network with these levels, whose images are `width` x `height` pixels inside.

    `terms` are those of each level, or one for all of them.
    """

    prior: Tensor  # (A, 2) width, height of every level's anchors as a share of the input
    shape: Tensor  # (A,) int64, equal for anchors of several levels that are one and the same
    start: Tensor  # (A,) number of the anchor's first cell among the decoder's M
    grid: Tensor  # (A, 2) columns, rows of its level
    level: Tensor  # (A,) int64, number of the anchor's level
    level_of: Tensor  # (M,) int64, number of the level of each anchor of each cell
    size: Tensor  # (4,) width, height, width, height of the input
    seen: Tensor  # () int64, images so far; kept with the weights while a burn-in needs it

    def __init__(self, levels: Sequence[Level], width: int, height: int, terms: Terms | Sequence[Terms]) -> None:
        super().__init__()
        self.terms = (terms,) * len(levels) if isinstance(terms, Terms) else tuple(terms)
        self.softmax, self.tree, self.labels = levels[0].softmax, levels[0].tree, levels[0].labels
        cells = [count for level in levels for count in _cells(level)]
        sides = [(level.shape.width, level.shape.height) for level in levels for _ in level.anchors]
        anchors = [anchor for level in levels for anchor in level.anchors]
        prior = torch.tensor(anchors)
        self.register_buffer("shape", torch.tensor([anchors.index(each) for each in anchors]), persistent=False)
        self.register_buffer("prior", prior / torch.tensor([width, height]), persistent=False)
        self.register_buffer("start", torch.tensor([0, *cells[:-1]]).cumsum(0), persistent=False)
        self.register_buffer("grid", torch.tensor(sides), persistent=False)
        numbers = torch.tensor([i for i, level in enumerate(levels) for _ in level.anchors])
        self.register_buffer("level", numbers, persistent=False)
        each = [torch.full((count,), i) for i, level in enumerate(levels) for count in _cells(level)]
        self.register_buffer("level_of", torch.cat(each), persistent=False)
        self.register_buffer("size", torch.tensor([width, height] * 2).float(), persistent=False)
        self.burn_in = self.terms[0].burn_in
        require("burn_in", self.burn_in, 0)
        self.register_buffer("seen", torch.tensor(0), persistent=self.burn_in > 0)

    def forward(self, decoder: Decoder, values: Tensor, truth: Truth) -> dict[str, Tensor]:
        """Losses by name, of `decoder.rows` (N, M, 5 + classes). Without objects only the objectness costs.

        Raises:
            ModelError: the .cfg asks for a loss that is not supported.
        """
        reason = next((terms.untrainable for terms in self.terms if terms.untrainable), None)
        if reason is not None:
            raise ModelError(f"the network can predict but not be trained: its .cfg says {reason}")
        boxes = decoder.boxes(values)
        found = self.match(truth, boxes.shape[1])
        rows, own = values.flatten(0, 1)[found.slot], boxes.flatten(0, 1)[found.slot]
        wanted = truth.boxes[found.truth]
        parts = {
            "box": self._box(decoder, rows, own, wanted, found.slot),
            "objectness": self._objectness(decoder, values, boxes.detach(), truth, found),
            "classes": self._classes(decoder, rows[:, 5:], truth, found),
        }
        if self.burn_in:
            parts["prior"] = self._prior(decoder, values)
        return {name: part / len(values) for name, part in parts.items()}

    @torch.no_grad()
    def match(self, truth: Truth, anchors: int) -> Match:
        """The anchor of the likest shape at each object's center, of the `anchors` (M) of an image, over all levels.

        It is matched on every level that has it, as YOLOv4-tiny's two levels share one.
        """
        likeness = shape_iou(truth.boxes[:, 2:] - truth.boxes[:, :2], self.prior)
        best = self.shape == self.shape[likeness.argmax(dim=1), None]
        owner, anchor = torch.where(best | (likeness > self._by_level("match_threshold")[self.level]))
        center = (truth.boxes[owner, :2] + truth.boxes[owner, 2:]) / 2
        grid = self.grid[anchor]
        cell = (center * grid).long().clamp(min=0).minimum(grid - 1)
        slot = truth.image[owner] * anchors + self.start[anchor] + cell[:, 1] * grid[:, 0] + cell[:, 0]
        slots, inverse = torch.unique(slot, return_inverse=True)
        last = owner.new_zeros(len(slots)).scatter_reduce(0, inverse, owner, "amax")
        classes = self.prior.new_zeros(len(slots), self.labels)
        classes[inverse, truth.labels[owner]] = 1
        return Match(slots, last, classes)

    def _box(self, decoder: Decoder, rows: Tensor, own: Tensor, wanted: Tensor, slot: Tensor) -> Tensor:
        total = rows.new_zeros(())
        for kind in dict.fromkeys(terms.box for terms in self.terms):
            here = slot.new_tensor([terms.box == kind for terms in self.terms])[self._level(slot)] > 0
            if kind == "mse":
                total = total + self._coordinates(decoder, rows[here], wanted[here], slot[here])
            else:
                matched = rows[here], own[here], wanted[here], slot[here]
                total = total + self._overlap(cast(Overlap, kind), decoder, *matched)
        return total

    def _coordinates(self, decoder: Decoder, rows: Tensor, wanted: Tensor, slot: Tensor) -> Tensor:
        anchors = slot % len(decoder.cell)
        aim = decoder.encode(wanted, anchors)
        sides = wanted[:, 2:] - wanted[:, :2]
        weight = 2 - sides.prod(dim=1, keepdim=True)  # small objects count up to twice
        scale = decoder.scale[anchors]  # Darknet compares positions in cells, which scale_x_y stretches
        errors = coordinate_errors(decoder, rows, aim) * torch.cat([scale, scale, torch.ones_like(scale)[:, [0, 0]]], 1)
        return (self._by_level("box_weight")[self._level(slot), None] * weight * errors).sum()

    def _overlap(
        self, kind: Overlap, decoder: Decoder, rows: Tensor, own: Tensor, wanted: Tensor, slot: Tensor
    ) -> Tensor:
        """The value of the overlap loss, with Darknet's gradient by the network's values."""
        level = self._level(slot)
        weight, most = self._by_level("box_weight")[level], self._by_level("max_delta")[level, None]
        stretch = torch.ones_like(rows[:, 2:4]) if decoder.new_coords else rows[:, 2:4].detach().exp()
        gradient = weight[:, None] * darknet_gradient(kind, own, wanted)
        gradient = torch.cat([gradient[:, :2], torch.nan_to_num(gradient[:, 2:] * stretch, posinf=0.0, neginf=0.0)], 1)
        gradient = gradient.clamp(-most, most)
        value = (weight * overlap_loss(kind, own.detach(), wanted, self.size)).sum()
        return value + (gradient * (rows[:, :4] - rows[:, :4].detach())).sum()

    def _by_level(self, name: str) -> Tensor:
        """That field of the terms of each level."""
        return self.size.new_tensor([float(getattr(terms, name)) for terms in self.terms])

    def _level(self, slot: Tensor) -> Tensor:
        """The level of each slot (P,)."""
        return self.level_of[slot % len(self.level_of)]

    def _objectness(self, decoder: Decoder, values: Tensor, boxes: Tensor, truth: Truth, found: Match) -> Tensor:
        given, level = values[..., 4], self.level_of
        ignored = best_overlaps(boxes, truth) > self._by_level("ignore_threshold")[level]
        weight = torch.where(ignored, 0, self._by_level("empty_weight")[level]).to(given).flatten()
        weight[found.slot] = self._by_level("object_weight")[self._level(found.slot)].to(weight)
        aim, own = torch.zeros_like(weight), boxes.flatten(0, 1)[found.slot]
        rescored = self._by_level("rescore")[self._level(found.slot)] > 0
        aim[found.slot] = torch.where(rescored, iou(own, truth.boxes[found.truth]), 1.0).to(aim)
        return (weight * probability_errors(decoder, given.flatten(), aim)).sum()

    def _classes(self, decoder: Decoder, values: Tensor, truth: Truth, found: Match) -> Tensor:
        weight = self._by_level("class_weight")
        if self.tree is not None:
            return weight[0] * self.tree.loss(values, truth.labels[found.truth])
        if self.softmax:
            return weight[0] * F.cross_entropy(values, truth.labels[found.truth], reduction="sum")
        each = probability_errors(decoder, values, found.classes.to(values))
        return (weight[self._level(found.slot), None] * each).sum()

    def _prior(self, decoder: Decoder, values: Tensor) -> Tensor:
        """Every box's errors from its anchor in the middle of its cell, for the first `burn_in` images; then 0."""
        begun = self.seen < self.burn_in
        self.seen += len(values)
        aim = values.new_tensor([0.5, 0.5, 0, 0])
        return PRIOR_WEIGHT * begun * coordinate_errors(decoder, values, aim).sum()


def _cells(level: Level) -> list[int]:
    """How many cells each of the level's anchors has."""
    return [level.shape.height * level.shape.width] * len(level.anchors)


def coordinate_errors(decoder: Decoder, values: Tensor, aim: Tensor) -> Tensor:
    """Errors (..., 4) of raw x, y, width, height from `aim`, coded as by `Decoder.encode`.

    Their gradients are what Darknet takes: found - wanted, of x and y behind the sigmoid, of width and height as they
    are. So x and y cost a cross entropy (less the least that it can be), width and height half a square.
    """
    wanted = aim[..., :2].expand_as(values[..., :2])
    xy = probability_errors(decoder, values[..., :2], wanted)
    if not decoder.new_coords:
        xy = xy + torch.xlogy(wanted, wanted) + torch.xlogy(1 - wanted, 1 - wanted)
    return torch.cat([xy, (values[..., 2:4] - aim[..., 2:]) ** 2 / 2], dim=-1)


def probability_errors(decoder: Decoder, values: Tensor, aim: Tensor) -> Tensor:
    """Costs of what the network gives for probabilities that should be `aim`, of the same shape.

    The gradient by a logit is found - wanted; so it is by a probability, where the network gives those.
    """
    if decoder.new_coords:
        return (values - aim) ** 2 / 2
    return F.binary_cross_entropy_with_logits(values, aim, reduction="none")


def best_overlaps(boxes: Tensor, truth: Truth) -> Tensor:
    """IoU (N, M) of each box (N, M, 4) with the object of its image that it overlaps most; 0 without objects."""
    overlaps = iou(boxes[truth.image], truth.boxes[:, None])
    best = boxes.new_zeros(boxes.shape[:2])
    return best.scatter_reduce(0, truth.image[:, None].expand_as(overlaps), overlaps, "amax")
