"""What a Darknet network's last layers say: boxes and scores of every anchor, and the detections among them.

https://arxiv.org/abs/1612.08242 ([region]: YOLOv2), https://arxiv.org/abs/1804.02767 ([yolo]: YOLOv3),
https://arxiv.org/abs/2004.10934 (scale_x_y), https://arxiv.org/abs/2011.08036 (new_coords).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from shardlens.models.darknet.cfg import Section
from shardlens.models.darknet.layers import Shape
from shardlens.models.darknet.tree import WordTree
from shardlens.models.options import require

HEADS = ("yolo", "region")
_MOST_ANCHORS = 2000
_MOST_BOXES = 10_000_000


@dataclass(frozen=True)
class Level:
    """One [yolo] or [region] section."""

    anchors: tuple[tuple[float, float], ...]
    """(width, height) of this level's anchors, in pixels of the network's input."""
    classes: int
    """Values that an anchor has for its classes: as many as labels, or a tree's nodes."""
    scale: float
    """scale_x_y: how far beyond its cell a center may lie."""
    new_coords: bool
    """Whether the network's last activation is the sigmoid already."""
    shape: Shape
    softmax: bool = False
    """Whether the classes exclude each other ([region]), where [yolo] asks each by itself."""
    tree: WordTree | None = None
    """Of which the classes are the nodes (YOLO9000)."""

    @property
    def labels(self) -> int:
        """What the network tells apart."""
        return self.classes if self.tree is None else len(self.tree.node)


def read_level(section: Section, shape: Shape, image: Shape, tree: WordTree | None = None) -> Level:
    """The section, one of `HEADS`, that follows a layer of `shape`, in a network for images of the shape `image`.

    `tree` is what a [region] section names with `tree=`, and `map=`.
    """
    if section.kind == "region":
        return _read_region(section, shape, image, tree)
    if tree is not None:
        raise section.error("a tree was given, which a [region] section with tree= has, and no [yolo]")
    anchors = _pairs(section)
    mask = section.integers("mask", tuple(range(len(anchors))))
    if not mask or not all(0 <= i < len(anchors) for i in mask):
        raise section.error(
            f"mask={section.text('mask', '')} picks from {len(anchors)} anchors (width, height > 0)", "mask"
        )
    scale, new_coords = section.number("scale_x_y", 1), bool(section.integer("new_coords", 0))
    classes = _classes(section, len(mask), shape)
    return Level(tuple(anchors[i] for i in mask), classes, scale, new_coords, shape)


def _read_region(section: Section, shape: Shape, image: Shape, tree: WordTree | None) -> Level:
    """[region]: one level whose anchors are in cells, and whose classes exclude each other."""
    section.refuse("background")
    _check_tree(section, tree)
    if (section.integer("softmax", 0), section.integer("coords", 4)) != (1, 4):
        found = f"softmax={section.text('softmax', '0')} coords={section.text('coords', '4')}"
        raise section.error(f"{found} is not supported, only softmax=1 coords=4", "softmax")
    wide, high = image.width / shape.width, image.height / shape.height
    anchors = tuple((width * wide, height * high) for width, height in _pairs(section))
    if not anchors:
        raise section.error("it has no anchors (width, height > 0)", "anchors")
    return Level(anchors, _classes(section, len(anchors), shape), 1.0, False, shape, softmax=True, tree=tree)


def _check_tree(section: Section, tree: WordTree | None) -> None:
    """Refuse a tree that is another one than the section's, and a section's that is missing."""
    named = section.text("tree", "")
    if tree is None:
        if named:
            raise section.error(f"tree={named} is a file of its own: give its URI with the option tree", "tree")
        section.refuse("map")
        return
    nodes, classes = len(tree.tree.parents), section.integer("classes", 20)
    if not named or nodes != classes:
        found = f"tree={named}" if named else "it has no tree="
        raise section.error(f"{found} and classes={classes}; the tree that was given has {nodes} nodes", "classes")


def _pairs(section: Section) -> list[tuple[float, float]]:
    """The (width, height) of the anchors; none if one of them is not above 0."""
    flat = section.numbers("anchors")
    if len(flat) > _MOST_ANCHORS:
        raise section.error(f"{len(flat)} sides of anchors, expected {_MOST_ANCHORS} at most", "anchors")
    return list(zip(flat[::2], flat[1::2], strict=False)) if min(flat, default=0) > 0 else []


def _classes(section: Section, anchors: int, shape: Shape) -> int:
    classes = section.integer("classes", 20, least=1)
    if anchors * shape.height * shape.width > _MOST_BOXES:
        cells = f"{anchors} anchors in each of {shape.height} x {shape.width} cells"
        raise section.error(f"{cells}, expected {_MOST_BOXES} boxes at most: what comes before it divides the size")
    needed = anchors * (5 + classes)
    if shape.channels != needed:
        found = f"{shape.channels} channels come in"
        raise section.error(f"{found}; {anchors} anchors of {classes} classes need {needed}", "classes")
    return classes


@dataclass(frozen=True)
class Selection:
    """Which detections are kept."""

    score_threshold: float
    nms_threshold: float
    limit: int
    """At most so many an image."""
    clip: bool = False
    """Whether boxes end at the image's border. The networks' published figures are of those that do not."""

    def __post_init__(self) -> None:
        require("score_threshold", self.score_threshold, 0, 1)
        require("nms_threshold", self.nms_threshold, 0, 1)
        require("detections_per_image", self.limit, 1)


class Decoder(nn.Module):
    """All levels' raw maps to detections, in one pass over every anchor of every cell (M of them)."""

    cell: Tensor  # (M, 2) column, row
    grid: Tensor  # (M, 2) columns, rows of the level
    anchor: Tensor  # (M, 2) width, height as a share of the input
    scale: Tensor  # (M, 1)

    def __init__(self, levels: Sequence[Level], width: int, height: int) -> None:
        super().__init__()
        self.anchors = [len(level.anchors) for level in levels]
        self.new_coords, self.softmax, self.tree = levels[0].new_coords, levels[0].softmax, levels[0].tree
        tables = [_table(level, width, height) for level in levels]
        for name, columns in zip(("cell", "grid", "anchor", "scale"), zip(*tables, strict=True), strict=True):
            self.register_buffer(name, torch.cat(columns), persistent=False)

    def forward(self, raw: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, M, 4) xyxy as shares of the image, objectness (N, M) in [0, 1], raw classes (N, M, classes).

        `raw` holds per level (N, anchors * (5 + classes), rows, columns). Few anchors' classes are ever looked at, so
        that `class_probability` of them is left to the caller.
        """
        values = self.rows(raw)
        return self.boxes(values), self.probability(values[..., 4]), values[..., 5:]

    def rows(self, raw: Sequence[Tensor]) -> Tensor:
        """The raw maps as (N, M, 5 + classes) of at least float32: x, y, width, height, objectness, classes."""
        values = torch.cat([_rows(maps, n) for maps, n in zip(raw, self.anchors, strict=True)], dim=1)
        return values.to(torch.promote_types(values.dtype, torch.float32))

    def boxes(self, values: Tensor) -> Tensor:
        """Boxes (N, M, 4) xyxy as shares of the image, of rows (N, M, 4 or more)."""
        xy, wh = values[..., :2], values[..., 2:4]
        center = (self.cell + self.probability(xy) * self.scale - (self.scale - 1) / 2) / self.grid
        half = ((2 * wh) ** 2 if self.new_coords else wh.exp()) * self.anchor / 2
        return torch.cat([center - half, center + half], dim=-1)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """What anchors number `anchors` (P,) would give for boxes (P, 4) xyxy, shares of the image: the way back.

        x and y as `probability` gives them, cut to [0, 1]; width and height raw.
        """
        center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        scale = self.scale[anchors]
        xy = (center * self.grid[anchors] - self.cell[anchors] + (scale - 1) / 2) / scale
        ratio = size / self.anchor[anchors]
        return torch.cat([xy.clamp(0, 1), ratio.sqrt() / 2 if self.new_coords else ratio.log()], dim=1)

    def probability(self, values: Tensor) -> Tensor:
        """In [0, 1], of what the network gives for a position in its cell or for objectness."""
        return values if self.new_coords else values.sigmoid()

    def class_probability(self, values: Tensor) -> Tensor:
        """In [0, 1] (R, labels), of raw classes (R, classes)."""
        if self.tree is not None:
            found: Tensor = self.tree(values)
            return found
        return values.softmax(-1) if self.softmax else self.probability(values)

    def detect(
        self, raw: Sequence[Tensor], sizes: Sequence[tuple[int, int]], selection: Selection
    ) -> list[dict[str, Tensor]]:
        """Per image of (height, width) in `sizes` its detections, best first: boxes xyxy in its pixels, labels, scores.

        A score is objectness x class probability; one anchor may give several classes.
        """
        boxes, objectness, classes = self(raw)
        return [self._select(boxes[i], objectness[i], classes[i], size, selection) for i, size in enumerate(sizes)]

    def _select(
        self, boxes: Tensor, objectness: Tensor, classes: Tensor, size: tuple[int, int], selection: Selection
    ) -> dict[str, Tensor]:
        likely = torch.where(objectness > selection.score_threshold)[0]  # no score exceeds its objectness
        scores = objectness[likely, None] * self.class_probability(classes[likely])
        rows, labels = torch.where(scores > selection.score_threshold)
        height, width = size
        pixels = boxes[likely[rows]] * boxes.new_tensor([width, height, width, height])
        kept = batched_nms(pixels, scores[rows, labels], labels, selection.nms_threshold)[: selection.limit]
        found = pixels[kept]
        return {
            "boxes": clip_boxes_to_image(found, size) if selection.clip else found,
            "labels": labels[kept],
            "scores": scores[rows[kept], labels[kept]],
        }


def _table(level: Level, width: int, height: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each anchor of each cell, in the order of `_rows`: cell, grid, anchor, scale."""
    count, (_, rows, columns) = len(level.anchors), level.shape
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    cell = torch.stack([column, row], dim=-1).reshape(-1, 2).repeat(count, 1).float()
    grid = torch.tensor([columns, rows]).float().expand(len(cell), 2)
    anchor = (torch.tensor(level.anchors) / torch.tensor([width, height])).repeat_interleave(rows * columns, dim=0)
    return cell, grid, anchor, torch.full((len(cell), 1), level.scale)


def _rows(maps: Tensor, anchors: int) -> Tensor:
    """(N, anchors * fields, H, W) to (N, anchors * H * W, fields)."""
    batch, _, rows, columns = maps.shape
    return maps.reshape(batch, anchors, -1, rows, columns).permute(0, 1, 3, 4, 2).flatten(1, 3)
