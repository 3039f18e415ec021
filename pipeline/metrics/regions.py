"""What a semantic metric is given: the labeled masks of each image, truth or predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.masks.rle import Rle
from shardlens.pipeline.metrics.objects import Scope

VOID = -1
"""The label of pixels that are not scored."""

Region = tuple[int, Rle]
"""A label and its pixels: VOID, or 1 + the index of the category."""
Regions = dict[int, list[Region]]
"""Regions by image_id, in the order of their table."""


def truth_regions(annotations: pa.Table, scope: Scope) -> Regions:
    """Select the masks (kinds region and instance) of the truth; rows without a category or with `ignore` are void.

    Args:
        annotations: rows of `tables.ANNOTATIONS`.
    """
    void = pc.or_(pc.is_null(annotations["category_id"]), annotations["ignore"])
    return _select(annotations, void, scope)


def predicted_regions(predictions: pa.Table, scope: Scope) -> Regions:
    """Select the predicted masks that name a category of the dataset.

    Args:
        predictions: rows of `tables.PREDICTIONS`.
    """
    return _select(predictions, pa.array(np.zeros(predictions.num_rows, dtype=bool)), scope)


def _select(table: pa.Table, void: pa.Array | pa.ChunkedArray, scope: Scope) -> Regions:
    named = pc.or_(void, pc.is_in(table["category_id"], pa.array(scope.category_ids)))
    drawn = pc.and_(pc.is_valid(table["segmentation"]), pc.is_in(table["kind"], pa.array(["region", "instance"])))
    wanted = pc.and_(pc.and_(drawn, named), pc.is_in(table["image_id"], pa.array(scope.image_ids)))
    rows = table.select(["image_id", "category_id", "segmentation"]).append_column("void", void).filter(wanted)
    places = np.searchsorted(scope.category_ids, pc.fill_null(rows["category_id"], 0).to_numpy())
    labels = np.where(rows["void"].to_numpy(), VOID, places + 1).tolist()
    found: Regions = {}
    for image_id, label, mask in zip(
        rows["image_id"].to_pylist(), labels, rows["segmentation"].to_pylist(), strict=True
    ):
        height, width = mask["size"]
        found.setdefault(image_id, []).append((label, Rle(height, width, mask["counts"])))
    return found


def size_of(image_id: int, truth: Sequence[Region], predicted: Sequence[Region]) -> tuple[int, int] | None:
    """Height and width of an image's masks; None = it has none.

    Raises:
        DatasetError: they differ.
    """
    sizes = {(rle.height, rle.width): side for side, rs in (("true", truth), ("predicted", predicted)) for _, rle in rs}
    if len(sizes) > 1:
        differing = ", ".join(f"{side} {height} x {width}" for (height, width), side in sorted(sizes.items()))
        raise DatasetError(
            f"image {image_id}: its masks differ in height x width ({differing}), expected one size: "
            "the dataset's masks or the imported predictions belong to another image"
        )
    return next(iter(sizes), None)
