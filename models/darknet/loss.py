"""What Darknet's detectors minimize: anchors matched to objects, then boxes, objectness and classes.

https://arxiv.org/abs/1612.08242 ([region]: YOLOv2), https://arxiv.org/abs/1804.02767 ([yolo]: YOLOv3),
https://arxiv.org/abs/2004.10934 (iou_thresh, CIoU). Every sum is over the anchors, then the mean over the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from shardlens.models.boxes.overlap import iou
from shardlens.models.darknet.anchors import shape_iou
from shardlens.models.darknet.cfg import Section
from shardlens.models.darknet.heads import Decoder, Level
from shardlens.models.errors import ModelError
from shardlens.models.options import require

OVERLAP_LOSSES = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}
BOX_LOSSES = ("mse", "iou", *OVERLAP_LOSSES)
PRIOR_WEIGHT = 0.01
"""Of the pull of every box to its anchor, in the first images of a YOLOv2."""


@dataclass(frozen=True)
class Terms:
    """The parts of the loss, and their weights."""

    box: str = "mse"
    """mse: errors of what the network gives for a box; iou, giou, diou, ciou: of the box itself."""
    box_weight: float = 1.0
    object_weight: float = 1.0
    """Of the objectness of anchors that an object is matched to."""
    empty_weight: float = 1.0
    """Of the objectness of all others."""
    class_weight: float = 1.0
    ignore_threshold: float = 0.5
    """An anchor whose box overlaps an object more than that is not called empty."""
    match_threshold: float = 1.0
    """Anchors whose shape's IoU with an object is above that are matched to it, beside its best one."""
    rescore: bool = False
    """Whether objectness is to be the box's IoU with its object, instead of 1."""
    burn_in: int = 0
    """Images of the beginning in which every box is pulled to its anchor."""


def read_terms(section: Section, burn_in: int = 0) -> Terms:
    """What a [yolo] or [region] section says of the loss, with Darknet's defaults."""
    box = section.text("iou_loss", "mse")
    if box not in BOX_LOSSES:
        raise section.error(f"iou_loss={box} is not known; known: {', '.join(BOX_LOSSES)}", "iou_loss")
    if section.kind == "region":
        return Terms(
            box,
            box_weight=section.number("coord_scale", 1),
            object_weight=section.number("object_scale", 1),
            empty_weight=section.number("noobject_scale", 1),
            class_weight=section.number("class_scale", 1),
            ignore_threshold=section.number("thresh", 0.5),
            rescore=section.integer("rescore", 0) != 0,
            burn_in=burn_in,
        )
    weight = section.number("obj_normalizer", 1)
    return Terms(
        box,
        box_weight=section.number("iou_normalizer", 1 if box == "mse" else 0.75),
        object_weight=weight,
        empty_weight=weight,
        class_weight=section.number("cls_normalizer", 1),
        ignore_threshold=section.number("ignore_thresh", 0.5),
        match_threshold=section.number("iou_thresh", 1),
        burn_in=burn_in,
    )


def loss_keys(kind: str, box_loss: str, box_weight: float, ignore_threshold: float) -> dict[str, object]:
    """What a section of that `kind` says of these, as `read_terms` reads it.

    Raises:
        ModelError: a value that cannot be.
    """
    require("box_weight", box_weight, 0)
    require("ignore_threshold", ignore_threshold, 0, 1)
    if box_loss not in BOX_LOSSES:
        raise ModelError(f"option box_loss is {box_loss!r}; expected one of {', '.join(BOX_LOSSES)}")
    weight, threshold = ("coord_scale", "thresh") if kind == "region" else ("iou_normalizer", "ignore_thresh")
    return {"iou_loss": box_loss, weight: box_weight, threshold: ignore_threshold}


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
    """The loss of a network with these levels, whose images are `width` x `height` pixels inside."""

    prior: Tensor  # (A, 2) width, height of every level's anchors as a share of the input
    shape: Tensor  # (A,) int64, equal for anchors of several levels that are one and the same
    start: Tensor  # (A,) number of the anchor's first cell among the decoder's M
    grid: Tensor  # (A, 2) columns, rows of its level
    size: Tensor  # (4,) width, height, width, height of the input
    seen: Tensor  # () int64, images so far; kept with the weights while a burn-in needs it

    def __init__(self, levels: Sequence[Level], width: int, height: int, terms: Terms) -> None:
        super().__init__()
        self.terms, self.softmax, self.tree = terms, levels[0].softmax, levels[0].tree
        self.labels = levels[0].labels
        cells = [level.shape.height * level.shape.width for level in levels for _ in level.anchors]
        sides = [(level.shape.width, level.shape.height) for level in levels for _ in level.anchors]
        anchors = [anchor for level in levels for anchor in level.anchors]
        prior = torch.tensor(anchors)
        self.register_buffer("shape", torch.tensor([anchors.index(each) for each in anchors]), persistent=False)
        self.register_buffer("prior", prior / torch.tensor([width, height]), persistent=False)
        self.register_buffer("start", torch.tensor([0, *cells[:-1]]).cumsum(0), persistent=False)
        self.register_buffer("grid", torch.tensor(sides), persistent=False)
        self.register_buffer("size", torch.tensor([width, height] * 2).float(), persistent=False)
        require("burn_in", terms.burn_in, 0)
        self.register_buffer("seen", torch.tensor(0), persistent=terms.burn_in > 0)

    def forward(self, decoder: Decoder, values: Tensor, truth: Truth) -> dict[str, Tensor]:
        """Losses by name, of `decoder.rows` (N, M, 5 + classes). Without objects only the objectness costs."""
        boxes = decoder.boxes(values)
        found = self.match(truth, boxes.shape[1])
        rows, own = values.flatten(0, 1)[found.slot], boxes.flatten(0, 1)[found.slot]
        wanted = truth.boxes[found.truth]
        parts = {
            "box": self.terms.box_weight * self._box(decoder, rows, own, wanted, found.slot),
            "objectness": self._objectness(decoder, values, boxes.detach(), truth, found),
            "classes": self.terms.class_weight * self._classes(decoder, rows[:, 5:], found.classes, truth, found),
        }
        if self.terms.burn_in:
            parts["prior"] = self._prior(decoder, values)
        return {name: part / len(values) for name, part in parts.items()}

    @torch.no_grad()
    def match(self, truth: Truth, anchors: int) -> Match:
        """The anchor of the likest shape at each object's center, of the `anchors` (M) of an image, over all levels.

        It is matched on every level that has it, as YOLOv4-tiny's two levels share one.
        """
        likeness = shape_iou(truth.boxes[:, 2:] - truth.boxes[:, :2], self.prior)
        best = self.shape == self.shape[likeness.argmax(dim=1), None]
        owner, anchor = torch.where(best | (likeness > self.terms.match_threshold))
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
        if self.terms.box == "iou":
            return (1 - iou(own, wanted)).sum()
        if self.terms.box in OVERLAP_LOSSES:
            loss: Tensor = OVERLAP_LOSSES[self.terms.box](own * self.size, wanted * self.size, reduction="sum")
            return loss
        aim = decoder.encode(wanted, slot % len(decoder.cell))
        sides = wanted[:, 2:] - wanted[:, :2]
        weight = 2 - sides.prod(dim=1, keepdim=True)  # small objects count up to twice
        return (weight * coordinate_errors(decoder, rows, aim)).sum()

    def _objectness(self, decoder: Decoder, values: Tensor, boxes: Tensor, truth: Truth, found: Match) -> Tensor:
        logits, terms = decoder.logit(values[..., 4]).flatten(), self.terms
        aim, weight = torch.zeros_like(logits), torch.full_like(logits, terms.empty_weight)
        weight[(best_overlaps(boxes, truth) > terms.ignore_threshold).flatten()] = 0
        weight[found.slot] = terms.object_weight
        own = boxes.flatten(0, 1)[found.slot]
        aim[found.slot] = iou(own, truth.boxes[found.truth]) if terms.rescore else 1.0
        if self.softmax:
            return (weight * (logits.sigmoid() - aim) ** 2).sum()
        return F.binary_cross_entropy_with_logits(logits, aim, weight, reduction="sum")

    def _classes(self, decoder: Decoder, values: Tensor, wanted: Tensor, truth: Truth, found: Match) -> Tensor:
        if self.tree is not None:
            return self.tree.loss(values, truth.labels[found.truth])
        if self.softmax:
            return F.cross_entropy(values, truth.labels[found.truth], reduction="sum")
        return F.binary_cross_entropy_with_logits(decoder.logit(values), wanted, reduction="sum")

    def _prior(self, decoder: Decoder, values: Tensor) -> Tensor:
        """Every box's errors from its anchor in the middle of its cell, for the first `burn_in` images; then 0."""
        begun = self.seen < self.terms.burn_in
        self.seen += len(values)
        aim = values.new_tensor([0.5, 0.5, 0, 0])
        return PRIOR_WEIGHT * begun * coordinate_errors(decoder, values, aim).sum()


def coordinate_errors(decoder: Decoder, values: Tensor, aim: Tensor) -> Tensor:
    """Errors (..., 4) of raw x, y, width, height from `aim`, coded as by `Decoder.encode`.

    Their gradients are what Darknet takes: found - wanted, of x and y behind the sigmoid, of width and height as they
    are. So x and y cost a cross entropy (less the least that it can be), width and height half a square.
    """
    wanted = aim[..., :2].expand_as(values[..., :2])
    entropy = -(torch.xlogy(wanted, wanted) + torch.xlogy(1 - wanted, 1 - wanted))
    xy = F.binary_cross_entropy_with_logits(decoder.logit(values[..., :2]), wanted, reduction="none") - entropy
    return torch.cat([xy, (values[..., 2:4] - aim[..., 2:]) ** 2 / 2], dim=-1)


def best_overlaps(boxes: Tensor, truth: Truth) -> Tensor:
    """IoU (N, M) of each box (N, M, 4) with the object of its image that it overlaps most; 0 without objects."""
    overlaps = iou(boxes[truth.image], truth.boxes[:, None])
    best = boxes.new_zeros(boxes.shape[:2])
    return best.scatter_reduce(0, truth.image[:, None].expand_as(overlaps), overlaps, "amax")
