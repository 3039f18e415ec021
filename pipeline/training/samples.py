"""From a decoded image and its annotation rows to what a network learns from: an image and its target, upright."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from models.spec import InputRule, Task
from pipeline import masks
from pipeline.decode import Decoded, mask_to_stored_frame, to_stored_frame
from pipeline.errors import DatasetError
from pipeline.masks import Rle
from pipeline.training.objectives import VOID

Row = Mapping[str, Any]

UNDONE_BY = {6: 8, 8: 6}
"""EXIF orientation -> the one that turns its image back; the others undo themselves."""


@dataclass(frozen=True)
class Sample:
    """An image and its target, upright, in the smallest types that hold them."""

    image: Tensor
    """(3, H, W) uint8."""
    target: Mapping[str, Tensor]
    """boxes (N, 4) xyxy float32, labels (N,) int64, masks (N, H, W) uint8 of instance models; or map (H, W) uint8."""

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(t.numel() * t.element_size() for t in (self.image, *self.target.values()))


@dataclass(frozen=True)
class SampleMaker:
    """How samples are made for one model and dataset."""

    task: Task
    labels: Mapping[int, int]
    """Category id -> label of the model."""
    rule: InputRule
    """Of the model; semantic samples are resized by it."""
    image_size: tuple[int, int] | None = None
    """Height and width that semantic samples are stretched to instead."""

    def __call__(self, decoded: Decoded, rows: Sequence[Row], image_id: int) -> Sample:
        """Make a sample of the rows of one image.

        Raises:
            DatasetError: a mask is of another size than its image.
        """
        image = torch.from_numpy(np.ascontiguousarray(decoded.pixels.transpose(2, 0, 1)))
        for row in rows:
            _check_size(row, decoded, image_id)
        if self.task == "semantic":
            return self._semantic(image, class_map(decoded, rows, self.labels))
        labels = torch.tensor([self.labels[row["category_id"]] for row in rows], dtype=torch.int64)
        target = {"boxes": torch.from_numpy(boxes_xyxy(decoded, rows)), "labels": labels}
        if self.task == "instance":
            target["masks"] = torch.from_numpy(masks_nhw(decoded, rows))
        return Sample(image, target)

    def _semantic(self, image: Tensor, classes: npt.NDArray[np.uint8]) -> Sample:
        size = self.image_size or self.rule.resized(*image.shape[-2:])
        labels = torch.from_numpy(classes)
        if size != tuple(labels.shape):
            image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
            labels = F.interpolate(labels[None, None], size, mode="nearest-exact")[0, 0]
        return Sample(image, {"map": labels})


def blank(task: Task) -> Sample:
    """An image without anything in it, for a worker that has no image of its own in a step."""
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    if task == "semantic":
        return Sample(image, {"map": torch.full((64, 64), VOID, dtype=torch.uint8)})
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return Sample(image, target | ({"masks": torch.zeros(0, 64, 64, dtype=torch.uint8)} if task == "instance" else {}))


def mirror(sample: Sample) -> Sample:
    """The sample seen in a mirror: left and right exchanged in the image, boxes, masks and map."""
    width = sample.image.shape[-1]
    target = dict(sample.target)
    for name in ("masks", "map"):
        if name in target:
            target[name] = target[name].flip(-1)
    if "boxes" in target:
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        target["boxes"] = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    return replace(sample, image=sample.image.flip(-1), target=target)


def boxes_xyxy(decoded: Decoded, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    """(N, 4) float32 boxes of the rows, xyxy in pixels of the upright image, cut to it."""
    stored = np.array([[row["bbox"][side] for side in ("x", "y", "width", "height")] for row in rows]).reshape(-1, 4)
    stored[:, 2:] += stored[:, :2]
    edges = (decoded.width, decoded.height) * 2
    upright = to_stored_frame(np.clip(stored, 0, edges), _turned_back(decoded))
    return upright.astype(np.float32)


def masks_nhw(decoded: Decoded, rows: Sequence[Row]) -> npt.NDArray[np.uint8]:
    """(N, H, W) uint8 masks of 0 and 1, upright."""
    height, width = decoded.pixels.shape[:2]
    found = np.zeros((len(rows), height, width), dtype=np.uint8)
    for i, row in enumerate(rows):
        found[i] = _upright(masks.decode(rle_of(row)), decoded)
    return found


def class_map(decoded: Decoded, rows: Sequence[Row], labels: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 labels, upright: 0 where no row is, VOID where one without a category or to be ignored is.

    Larger rows are painted first, so that a small object on a large one is seen.
    """
    classes = np.zeros((decoded.height, decoded.width), dtype=np.uint8)
    drawn = [(masks.area(rle_of(row)), row["annotation_id"], row) for row in rows]
    for _, _, row in sorted(drawn, key=lambda item: (-item[0], item[1])):
        void = row["category_id"] is None or row["ignore"]
        classes[masks.decode(rle_of(row)).view(bool)] = VOID if void else labels[row["category_id"]]
    return _upright(classes, decoded)


def rle_of(row: Row) -> Rle:
    """The row's mask as run lengths."""
    (height, width), counts = row["segmentation"]["size"], row["segmentation"]["counts"]
    return Rle(height, width, counts)


def _check_size(row: Row, decoded: Decoded, image_id: int) -> None:
    if row["segmentation"] is None:
        return
    size = tuple(row["segmentation"]["size"])
    if size != (decoded.height, decoded.width):
        raise DatasetError(
            f"image {image_id} is {decoded.height} x {decoded.width} pixels (height x width), the mask of its annotation "
            f"{row['annotation_id']} is {size[0]} x {size[1]}: ingest the dataset again from masks of the images' sizes"
        )


def _upright(mask_hw: npt.NDArray[np.uint8], decoded: Decoded) -> npt.NDArray[np.uint8]:
    turned = mask_to_stored_frame(mask_hw, UNDONE_BY.get(decoded.orientation, decoded.orientation))
    return turned.astype(np.uint8, copy=False)


def _turned_back(decoded: Decoded) -> Decoded:
    """The stored image seen as one whose "stored" frame is the upright one: the way there is then a way back."""
    height, width = decoded.pixels.shape[:2]
    return Decoded(decoded.pixels, UNDONE_BY.get(decoded.orientation, decoded.orientation), height, width)
