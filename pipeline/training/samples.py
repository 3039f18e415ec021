"""From a decoded image and its annotation rows to what a network learns from: an image and its target, upright."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from shardlens.models.losses.border import border_weights
from shardlens.models.losses.segmentation import VOID
from shardlens.models.spec import InputRule, Task
from shardlens.models.tasks import MODEL_TASKS, ModelTask
from shardlens.pipeline import masks
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.images.decode import Decoded
from shardlens.pipeline.images.orientation import Pixel, inverse, mask_to_stored_frame, to_stored_frame
from shardlens.pipeline.masks.rle import Rle

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sample:
    """An image and its target, upright, in the smallest types that hold them."""

    image: Tensor
    """(3, H, W) uint8."""
    target: Mapping[str, Tensor]
    """boxes (N, 4) xyxy float32, labels (N,) int64, masks (N, H, W) uint8 of instance models; or map (H, W) uint8, and
    border (H, W) float32 where pixels between objects weigh more; all but the last of panoptic models."""

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
    border: tuple[float, float] | None = None
    """w_0 and sigma of U-Net's border weights for semantic samples; None = without them."""
    stuff: frozenset[int] = frozenset()
    """Labels of panoptic models that are no things."""

    def __call__(self, decoded: Decoded, rows: Sequence[Row], image_id: int) -> Sample:
        """Make a sample of the rows of one image.

        Raises:
            DatasetError: a mask is of another size than its image.
        """
        image = torch.from_numpy(np.ascontiguousarray(decoded.pixels.transpose(2, 0, 1)))
        for row in rows if self._learns.masks else ():
            _check_size(row, decoded, image_id)
        if not self._learns.objects:
            return self._semantic(image, decoded, rows)
        if not self._learns.stuff:
            return Sample(image, self._objects(decoded, rows))
        pixels = torch.from_numpy(class_map(decoded, rows, self.labels))
        things = [row for row in rows if is_thing(row) and self.labels[row["category_id"]] not in self.stuff]
        return Sample(image, {**self._objects(decoded, things), "map": pixels})

    @property
    def _learns(self) -> ModelTask:
        return MODEL_TASKS[self.task]

    def _objects(self, decoded: Decoded, rows: Sequence[Row]) -> dict[str, Tensor]:
        boxes = boxes_xyxy(decoded, rows)
        # Panoptic rows may have pixels without a box, and an image may not be any more what was ingested.
        seen: npt.NDArray[np.bool_] = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
        rows = [row for row, covers in zip(rows, seen, strict=True) if covers]
        labels = torch.tensor([self.labels[row["category_id"]] for row in rows], dtype=torch.int64)
        target = {"boxes": torch.from_numpy(boxes[seen]), "labels": labels}
        if self._learns.object_masks:
            target["masks"] = torch.from_numpy(masks_nhw(decoded, rows))
        return target

    def _semantic(self, image: Tensor, decoded: Decoded, rows: Sequence[Row]) -> Sample:
        size = self.rule.resized(*image.shape[-2:])
        target = {"map": _resized(torch.from_numpy(class_map(decoded, rows, self.labels)), size)}
        if self.border is not None:
            objects = _resized(torch.from_numpy(instance_map(decoded, rows)), size)
            target["border"] = torch.from_numpy(border_weights(objects.numpy(), *self.border))
        if size != tuple(image.shape[-2:]):
            image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        return Sample(image, target)


def blank(task: Task) -> Sample:
    """An image without anything in it, for a worker that has no image of its own in a step."""
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    target: dict[str, Tensor] = {}
    if MODEL_TASKS[task].objects:
        target |= {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    if MODEL_TASKS[task].object_masks:
        target["masks"] = torch.zeros(0, 64, 64, dtype=torch.uint8)
    if MODEL_TASKS[task].label_map:
        target["map"] = torch.full((64, 64), VOID, dtype=torch.uint8)
    return Sample(image, target)


def is_thing(row: Row) -> bool:
    """Whether the row is one object that a panoptic model is to find; its category may yet be stuff."""
    return row["category_id"] is not None and row["kind"] == "instance" and not (row["ignore"] or row["iscrowd"])


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


def instance_map(decoded: Decoded, rows: Sequence[Row]) -> npt.NDArray[np.int32]:
    """(H, W) int32, upright: 0 where no object is, else the object's own number; smaller ones lie atop larger ones.

    Of a class's region every connected part (8 neighbors) is an object.
    """
    numbers = np.zeros((decoded.height, decoded.width), dtype=np.int32)
    objects = [row for row in rows if row["category_id"] is not None and not row["ignore"]]
    for row in sorted(objects, key=lambda row: (-masks.area(rle_of(row)), row["annotation_id"])):
        drawn = masks.decode(rle_of(row))
        parts = ndimage.label(drawn, np.ones((3, 3)))[0] if row.get("kind") == "region" else drawn
        inside = parts > 0
        numbers[inside] = parts[inside] + numbers.max()
    return np.ascontiguousarray(_upright(numbers, decoded))


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


def _resized(map_hw: Tensor, size: tuple[int, int]) -> Tensor:
    if size == tuple(map_hw.shape):
        return map_hw
    # nearest-exact takes uint8 and floats; float32 holds whole numbers up to 2^24
    numbers = map_hw if map_hw.dtype == torch.uint8 else map_hw.float()
    return F.interpolate(numbers[None, None], size, mode="nearest-exact")[0, 0].to(map_hw.dtype)


def _upright(map_hw: npt.NDArray[Pixel], decoded: Decoded) -> npt.NDArray[Pixel]:
    return mask_to_stored_frame(map_hw, inverse(decoded.orientation))


def _turned_back(decoded: Decoded) -> Decoded:
    """The stored image seen as one whose "stored" frame is the upright one: the way there is then a way back."""
    height, width = decoded.pixels.shape[:2]
    return Decoded(decoded.pixels, inverse(decoded.orientation), height, width)
