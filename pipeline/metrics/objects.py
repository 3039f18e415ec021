"""What a COCO metric is given: the objects of some images, truth and predictions, as columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pycocotools import mask as codec

IouType = Literal["bbox", "segm"]
"""What an IoU is taken of, as pycocotools calls it."""
KINDS: Mapping[IouType, frozenset[str]] = {"bbox": frozenset({"box", "instance"}), "segm": frozenset({"instance"})}
"""Kinds of rows that are objects with a box, or with a mask."""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NOT_SCORED = -1.0
"""An area outside every range of COCO: neither found nor missed, matched by plain IoU."""


@dataclass(frozen=True)
class Scope:
    """The images of a shard and the categories that are scored."""

    image_ids: Ints
    """(N,) ascending."""
    positions: Ints
    """(N,) place of each image among all images of the run by image_id: the order in which ties are resolved."""
    sizes_hw: Ints
    """(N, 2) height and width of each stored image; 0 = unknown."""
    category_ids: Ints
    """(K,) ascending."""


@dataclass(frozen=True)
class Objects:
    """N objects in the order of their images; rows of one image keep the order of their table."""

    image: Ints
    """(N,) position of the image."""
    category: Ints
    """(N,) index into the scope's categories."""
    boxes_xywh: Floats
    """(N, 4) x, y, width, height in pixels."""
    area: Floats
    """(N,) in pixels; decides small, medium and large."""
    score: Floats
    """(N,) of predictions; 1 for truth."""
    crowd: npt.NDArray[np.bool_]
    """(N,) whether a truth stands for a group; False for predictions."""
    masks: list[dict[str, Any]] | None
    """N masks in COCO's form ({"size", "counts"}), for segm."""

    def __len__(self) -> int:
        return len(self.image)


def truth_objects(annotations: pa.Table, iou_type: IouType, scope: Scope) -> Objects:
    """Select the objects of the truth that take part.

    For bbox these are the rows of kind box or instance that have a box, for segm the instances that have a mask. A row
    without a known category is void and takes no part. A row with `ignore` that is no crowd gets an area outside every
    range: pycocotools forgets the key `ignore`, but what is outside the range is "neither found nor missed" there, and,
    unlike a crowd, matches by plain IoU and one prediction only.

    Args:
        annotations: rows of `tables.ANNOTATIONS` of the scope's images.
    """
    rows = _select(annotations, iou_type, scope)
    found = _columns(rows, iou_type, scope)
    area = pc.fill_null(rows["area"], np.nan).to_numpy()
    area = np.where(np.isnan(area), _measured(found.boxes_xywh, found.masks), area)
    crowd = rows["iscrowd"].to_numpy()
    unscored = rows["ignore"].to_numpy() & ~crowd
    return Objects(**{**vars(found), "area": np.where(unscored, NOT_SCORED, area), "crowd": crowd})


def predicted_objects(predictions: pa.Table, iou_type: IouType, scope: Scope) -> Objects:
    """Select the predictions that take part; their area is that of the box (bbox) or of the mask (segm).

    Args:
        predictions: rows of `tables.PREDICTIONS` of the scope's images, best first in each image.
    """
    rows = _select(predictions, iou_type, scope)
    found = _columns(rows, iou_type, scope)
    area = _measured(found.boxes_xywh, found.masks)
    return Objects(**{**vars(found), "area": area, "score": rows["score"].to_numpy()})


def _select(table: pa.Table, iou_type: IouType, scope: Scope) -> pa.Table:
    """Rows with a box or a mask, of the scope's images and categories, sorted by image."""
    wanted = pc.is_in(table["kind"], value_set=pa.array(sorted(KINDS[iou_type])))
    wanted = pc.and_(wanted, pc.is_valid(table["segmentation" if iou_type == "segm" else "bbox"]))
    wanted = pc.and_(wanted, pc.is_in(table["category_id"], value_set=pa.array(scope.category_ids)))
    wanted = pc.and_(wanted, pc.is_in(table["image_id"], value_set=pa.array(scope.image_ids)))
    rows = table.filter(wanted)
    image_ids = rows["image_id"].to_numpy()
    if (image_ids[1:] < image_ids[:-1]).any():
        rows = rows.take(np.argsort(image_ids, kind="stable"))
    return rows.combine_chunks()


def _columns(rows: pa.Table, iou_type: IouType, scope: Scope) -> Objects:
    image = scope.positions[np.searchsorted(scope.image_ids, rows["image_id"].to_numpy())]
    category = np.searchsorted(scope.category_ids, rows["category_id"].to_numpy()).astype(np.int64)
    count = rows.num_rows
    masks = _masks(rows["segmentation"]) if iou_type == "segm" else None
    return Objects(image, category, _boxes(rows["bbox"]), np.zeros(count), np.ones(count), np.zeros(count, bool), masks)


def _boxes(column: pa.ChunkedArray) -> Floats:
    """(N, 4) of a bbox column; zeros where it is null (masks without a box)."""
    sides = [pc.fill_null(pc.struct_field(column, side), 0.0).to_numpy() for side in ("x", "y", "width", "height")]
    return np.stack(sides, axis=1).astype(np.float64)


def _masks(column: pa.ChunkedArray) -> list[dict[str, Any]]:
    sizes = pc.list_flatten(pc.struct_field(column, "size")).to_numpy().reshape(-1, 2).tolist()
    counts = pc.struct_field(column, "counts").to_pylist()
    return [{"size": size, "counts": text} for size, text in zip(sizes, counts, strict=True)]


def _measured(boxes_xywh: Floats, masks: list[dict[str, Any]] | None) -> Floats:
    if masks is None:
        return boxes_xywh[:, 2] * boxes_xywh[:, 3]
    return np.array([codec.area(mask) for mask in masks], dtype=np.float64)  # of a list it fails beyond 255
