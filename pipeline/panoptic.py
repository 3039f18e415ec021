"""Panoptic maps and the rows that stand for them: every segment is a row, and no pixel lies in two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.options import nearest
from pipeline import masks
from pipeline.errors import ConfigError, DatasetError
from pipeline.masks import Rle


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


def stuff_labels(
    given: str | None, annotations: pa.Table, labels: Sequence[str], label_of: Mapping[int, int]
) -> tuple[int, ...]:
    """Labels that are stuff, not things: those named, else the categories that have regions and no objects.

    Args:
        given: names of labels with commas between; None = look at the annotations.

    Raises:
        ConfigError: there is no label of a given name.
    """
    if given is not None:
        names = [name.strip() for name in given.split(",") if name.strip()]
        strange = next((name for name in names if name not in labels[1:]), None)
        if strange is not None:
            near = nearest(strange, labels[1:]) or labels[1:6]
            raise ConfigError(f"--option stuff={given}: there is no label {strange!r}; expected {', '.join(near)}, ...")
        return tuple(sorted(labels.index(name) for name in names))
    kinds = annotations.group_by("category_id").aggregate([("kind", "distinct")]).to_pylist()
    regions = [row["category_id"] for row in kinds if row["kind_distinct"] == ["region"]]
    return tuple(sorted(label_of[category] for category in regions if category is not None))
