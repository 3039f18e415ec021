"""Panoptic maps and the rows that stand for them: every segment is a row, and no pixel lies in two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.masks import rle as masks
from shardlens.pipeline.masks.rle import Rle


def rebuild(rows: Iterable[Mapping[str, Any]], height: int, width: int) -> npt.NDArray[np.int32]:
    """The panoptic map of one image: (height, width) int32, rank + 1 of the row that has the pixel, 0 = void.

    Args:
        rows: rows of `tables.PREDICTIONS` of a panoptic run, of that image, as dicts.

    Raises:
        DatasetError: a row is no mask of this size, or two have a pixel in common.
    """
    panoptic = np.zeros((height, width), dtype=np.int32)
    for row in rows:
        segmentation = row["segmentation"]
        if segmentation is None or list(segmentation["size"]) != [height, width]:
            size = None if segmentation is None else list(segmentation["size"])
            raise DatasetError(f"row {row['rank']} has a mask of the size {size}: expected [{height}, {width}]")
        pixels = masks.decode(Rle(height, width, segmentation["counts"])).view(bool)
        others = np.unique(panoptic[pixels])
        if others.any():
            raise DatasetError(
                f"rows {int(others.max()) - 1} and {row['rank']} have pixels in common: these are no rows of a panoptic run"
            )
        panoptic[pixels] = row["rank"] + 1
    return panoptic
