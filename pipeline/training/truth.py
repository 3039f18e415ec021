"""The images and annotation rows that a task is trained on, and how many rows it cannot use and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.models.spec import Task
from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline import storage
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.datasets import Dataset, annotated

COLUMNS = ("annotation_id", "image_id", "category_id", "kind", "bbox", "iscrowd", "ignore", "segmentation")
"""Polygons stay unread: segmentation holds the same, ready to draw."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """Rows of some images, those that can be trained on."""

    rows: pa.Table
    """Columns of `COLUMNS`, sorted by image_id."""
    left_out: Mapping[str, int]
    """How many rows of these images were left out, by reason."""

    @cached_property
    def _ids(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.rows["image_id"].to_numpy())

    def of(self, image_id: int) -> list[dict[str, Any]]:
        """Rows of one image."""
        first, last = (int(np.searchsorted(self._ids, image_id, side)) for side in ("left", "right"))
        found: list[dict[str, Any]] = self.rows.slice(first, last - first).to_pylist()
        return found


def read(dataset: Dataset) -> pa.Table:
    """Read the columns of the annotations that training needs."""
    data = storage.read(storage.join(dataset.root, "annotations.parquet"))
    return tables.from_bytes(data, COLUMNS)


def readable(images: pa.Table) -> pa.Table:
    """Those of the images whose header could be read at ingest."""
    return images.filter(pc.is_valid(images["width"])).combine_chunks()


def of_split(images: pa.Table, split: str | None) -> pa.Table:
    """Images of a split, the unreadable ones too; None = all."""
    return images if split is None else images.filter(pc.equal(images["split"], split))


def count_unannotated(images: pa.Table) -> int:
    """How many of the images have no known annotations."""
    return int(images.num_rows - annotated(images).num_rows)


def usable_images(images: pa.Table, split: str | None, unannotated: bool = False) -> tuple[pa.Table, int]:
    """Images of the split that are trained on, and the number of those that could not be read at ingest.

    Args:
        unannotated: keep the images whose annotations are not known, as images without objects.
    """
    chosen = of_split(images, split)
    chosen = chosen if unannotated else annotated(chosen)
    usable = readable(chosen)
    return usable, chosen.num_rows - usable.num_rows


def select(annotations: pa.Table, images: pa.Table, task: Task, categories: pa.Table) -> Truth:
    """Choose the rows of `images` that `task` learns from.

    Detection and instance models take objects with a box that covers something of the image, semantic ones everything
    with a mask; so do panoptic ones, whose objects `samples.is_thing` chooses among that. Crowds and rows to ignore are no
    objects; for semantic models they are pixels like others, and void.

    Raises:
        DatasetError: a row names a category that the dataset does not list.
    """
    rows = annotations.filter(pc.is_in(annotations["image_id"], images["image_id"].combine_chunks()))
    _check_categories(rows, categories)
    without_mask = (("without a mask", _array(pc.is_null(rows["segmentation"]))),)
    not_objects = (
        ("crowd", _array(rows["iscrowd"])),
        ("ignored", _array(rows["ignore"])),
        ("without a category", _array(pc.is_null(rows["category_id"]))),
        ("regions, not objects", _array(pc.equal(rows["kind"], "region"))),
        ("box empty or outside its image", degenerate(rows, images)),
    )
    learns = MODEL_TASKS[task]
    unusable = (*(() if learns.label_map else not_objects), *(without_mask if learns.masks else ()))
    kept = np.ones(rows.num_rows, dtype=bool)
    left_out: dict[str, int] = {}
    for reason, rejected in unusable:
        left_out[reason] = int((kept & rejected).sum())
        kept &= ~rejected
    return Truth(rows.filter(pa.array(kept)).combine_chunks(), {r: n for r, n in left_out.items() if n})


def _check_categories(rows: pa.Table, categories: pa.Table) -> None:
    named = rows["category_id"].drop_null()
    strange = named.filter(pc.invert(pc.is_in(named, categories["category_id"].combine_chunks())))
    if len(strange):
        raise DatasetError(
            f"{len(strange)} annotations name categories that the dataset does not list, such as "
            f"{strange[0]}; it lists {categories['category_id'].to_pylist()[:5]}, ...: ingest it again"
        )


def degenerate(rows: pa.Table, images: pa.Table) -> Mask:
    """Whether each row's box, cut to its image, covers nothing (in float32, as networks have it)."""
    ids = images["image_id"].to_numpy()
    place = np.searchsorted(ids, rows["image_id"].to_numpy())
    width, height = (_numbers(images[side])[place] for side in ("width", "height"))
    x, y, w, h = (_numbers(pc.struct_field(rows["bbox"], side)) for side in ("x", "y", "width", "height"))
    left, right = (np.clip(edge, 0, width).astype(np.float32) for edge in (x, x + w))
    top, bottom = (np.clip(edge, 0, height).astype(np.float32) for edge in (y, y + h))
    covers: Mask = (right > left) & (bottom > top)
    return ~covers


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Floats, nulls as NaN, which no comparison holds for."""
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _array(column: pa.ChunkedArray) -> Mask:
    return np.asarray(column.to_numpy(), dtype=bool)
