"""The frame of annotations: drawn on the upright image, as viewers show it, or on the stored one, before its EXIF orientation.

The tables are in the frame of the stored image. Annotations of the upright frame are turned at ingest and, by the
column `orientation` that their images carry then, turned back at export.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline.images.orientation import (
    INVERSE,
    boxes_xywh_to_stored_frame,
    points_to_stored_frame,
    rle_to_stored_frame,
)
from shardlens.pipeline.masks.rle import Rle

Frame = Literal["upright", "stored"]
AskedFrame = Literal["auto", "upright", "stored"]

COLUMN = pa.field("orientation", pa.int8())
"""Column of the images whose annotations were turned: their EXIF orientation, null = not turned."""
DECIMALS = 9
"""To which numbers are rounded that were turned and turned back, so that 10.13 is 10.13 again."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FrameChoice:
    """The frame in which a dataset's annotations are, and why."""

    frame: Frame
    note: str = ""
    """A sentence for the report; empty where no image carries an orientation."""


def choose(asked: AskedFrame, orientations: Ints, header_wh: Ints, told_wh: Ints) -> FrameChoice:
    """Choose the frame of a dataset's annotations by the sizes that they give for images which EXIF turns by a quarter.

    Args:
        orientations: (N,) EXIF orientation of each image, 1 to 8.
        header_wh: (N, 2) width and height of the stored images; -1 = unknown.
        told_wh: (N, 2) the same as the annotations give them.
    """
    tagged = int((orientations > 1).sum())
    if not tagged:
        return FrameChoice("stored" if asked == "auto" else asked)
    first = f"{tagged} of {len(orientations)} images carry an EXIF orientation; the annotations are taken as"
    if asked != "auto":
        return FrameChoice(asked, f"{first} {_drawn_on(asked)}, as --frame says")
    telling = (orientations >= 5) & (header_wh > 0).all(axis=1) & (header_wh[:, 0] != header_wh[:, 1])
    upright = int((telling & (told_wh == header_wh[:, ::-1]).all(axis=1)).sum())
    stored = int((telling & (told_wh == header_wh).all(axis=1)).sum())
    frame: Frame = "stored" if stored > upright else "upright"
    if upright + stored == 0:
        other: Frame = "stored"
        return FrameChoice(
            frame,
            f"{first} {_drawn_on(frame)}, since annotation tools show it so; no size tells. "
            f"If they were {_drawn_on(other)}, ingest with --frame {other}",
        )
    votes = f"the sizes given for {max(upright, stored)} of them say so"
    doubt = f", those of {min(upright, stored)} do not" if min(upright, stored) else ""
    return FrameChoice(frame, f"{first} {_drawn_on(frame)}: {votes}{doubt}")


def _drawn_on(frame: Frame) -> str:
    return "drawn on the upright image" if frame == "upright" else "drawn on the stored image (before it is turned)"


def upright_sizes(orientations: Ints, header_wh: Ints) -> Ints:
    """(N, 2) width and height of the upright images."""
    return np.where(orientations[:, None] >= 5, header_wh[:, ::-1], header_wh)


def to_stored(rows: pa.Table, orientations: Ints, stored_wh: Ints) -> pa.Table:
    """Turn the boxes, polygons and masks of rows from the upright into the stored frame; the order of rows may change.

    Args:
        rows: with columns bbox, segmentation and, if there are any, polygons.
        orientations: (N,) of each row's image.
        stored_wh: (N, 2) width and height of each row's stored image.
    """
    parts = [rows.filter(pa.array(orientations == 1))]
    for orientation in range(2, 9):
        chosen = orientations == orientation
        if chosen.any():
            parts.append(_turned(rows.filter(pa.array(chosen)), orientation, stored_wh[chosen]))
    return pa.concat_tables(parts) if len(parts) > 1 else rows


def to_upright(rows: pa.Table, images: pa.Table) -> pa.Table:
    """Turn the boxes, polygons and masks of rows back into the frame in which the dataset's annotations came.

    Args:
        rows: with columns image_id, bbox, segmentation and, if there are any, polygons.
        images: of the dataset.
    """
    orientations, wh = _owners(rows, images)
    back = np.array([1, *(INVERSE[orientation] for orientation in range(1, 9))])[orientations]
    turned = to_stored(
        rows.append_column("place", pa.array(np.arange(rows.num_rows))), back, upright_sizes(orientations, wh)
    )
    order = np.argsort(turned["place"].to_numpy())
    return turned.drop_columns(["place"]).take(pa.array(order))


def from_upright(rows: pa.Table, images: pa.Table) -> pa.Table:
    """Turn rows that are in the frame of the dataset's annotations, such as results made elsewhere, into the stored one."""
    return to_stored(rows, *_owners(rows, images))


def as_annotated(images: pa.Table) -> pa.Table:
    """The images with the width and height that they have in the frame of the annotations."""
    if not is_turned(images):
        return images
    wide, high = images["width"], images["height"]
    quarter = pc.greater_equal(images[COLUMN.name].fill_null(1), 5)
    index = images.schema.get_field_index
    images = images.set_column(index("width"), "width", pc.if_else(quarter, high, wide))
    return images.set_column(index("height"), "height", pc.if_else(quarter, wide, high))


def is_turned(images: pa.Table) -> bool:
    """Whether annotations of any of the images were turned at ingest."""
    return COLUMN.name in images.schema.names


def _owners(rows: pa.Table, images: pa.Table) -> tuple[Ints, Ints]:
    """Orientation, 1 where nothing was turned, and stored width and height of each row's image."""
    place = pc.index_in(rows["image_id"], value_set=images["image_id"].combine_chunks())
    columns = [images[name].take(place) for name in ("width", "height")]
    wh = np.stack([column.fill_null(-1).to_numpy().astype(np.int64) for column in columns], axis=1)
    if not is_turned(images):
        return np.ones(rows.num_rows, np.int64), wh
    return images[COLUMN.name].fill_null(1).take(place).to_numpy().astype(np.int64), wh


def _turned(rows: pa.Table, orientation: int, stored_wh: Ints) -> pa.Table:
    wide, high = stored_wh.T
    new: dict[str, Sequence[Any]] = {
        "bbox": _turned_boxes(rows["bbox"], orientation, wide, high),
        "segmentation": [_turned_mask(mask, orientation) for mask in rows["segmentation"].to_pylist()],
    }
    if "polygons" in rows.schema.names:
        polygons = zip(rows["polygons"].to_pylist(), wide.tolist(), high.tolist(), strict=True)
        new["polygons"] = [_turned_polygons(parts, orientation, w, h) for parts, w, h in polygons]
    for name, values in new.items():
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, rows.schema.field(index), pa.array(values, rows.schema.field(index).type))
    return rows


def _turned_boxes(column: pa.ChunkedArray, orientation: int, wide: Ints, high: Ints) -> list[dict[str, float] | None]:
    boxes: list[dict[str, float] | None] = column.to_pylist()
    given = np.array([box is not None for box in boxes], dtype=bool)
    numbers = np.array([list(box.values()) for box in boxes if box is not None], dtype=np.float64).reshape(-1, 4)
    turned = boxes_xywh_to_stored_frame(numbers, orientation, wide[given], high[given]).round(DECIMALS).tolist()
    rest = iter(turned)
    sides = ("x", "y", "width", "height")
    return [dict(zip(sides, next(rest), strict=True)) if there else None for there in given.tolist()]


def _turned_polygons(
    polygons: list[list[float]] | None, orientation: int, width: int, height: int
) -> list[list[float]] | None:
    if polygons is None:
        return None
    points = (np.array(polygon, dtype=np.float64) for polygon in polygons)
    return [
        points_to_stored_frame(xy.reshape(-1, 2), orientation, width, height).round(DECIMALS).ravel().tolist()
        if len(xy) % 2 == 0
        else xy.tolist()
        for xy in points
    ]


def _turned_mask(mask: dict[str, Any] | None, orientation: int) -> dict[str, Any] | None:
    if mask is None:
        return None
    height, width = mask["size"]
    rle = rle_to_stored_frame(Rle(height, width, mask["counts"]), orientation)
    return {"size": [rle.height, rle.width], "counts": rle.counts}
