"""One mask image: its pixel values, and the region of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from shardlens.pipeline import masks
from shardlens.pipeline.annotations.label_scheme import LabelScheme
from shardlens.pipeline.annotations.source import Parsed, annotation_row, bbox_struct
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.images.header import open_checked, probe
from shardlens.pipeline.images.policy import DecodePolicy

PIXELS = 100_000_000
"""Pixels of the largest mask that is opened."""
MOST_VALUES = 10_000
"""Values of a mask that become rows."""
COUNTED = 4
"""Parts are counted where the boxes of all values together are at most so many times the mask."""

Depth = str
"""What a mask's pixels are: `deep` (16 bits and more), `palette`, `gray`, or `color` (mapped by the label map)."""


@dataclass(frozen=True)
class LabelMap:
    """A mask image's values, (H, W) integers."""

    ids_hw: npt.NDArray[np.integer[Any]]
    depth: Depth


def pixels(data: bytes, where: str, scheme: LabelScheme = LabelScheme()) -> LabelMap:  # noqa: B008 - frozen
    """Decode a mask: gray values, the indices of a palette, or colors that the label map knows.

    Raises:
        DatasetError: it is damaged, holds other colors or fractions, or is too large.
        ImageError: it is no image.
    """
    with _open(data, where) as image:
        mode = image.mode
        try:
            values = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise DatasetError(f"{where}: a mask that cannot be decoded ({error})") from None
    if mode in {"LA", "PA"}:
        values = values[..., 0]
    if values.ndim == 3 and mode in {"RGB", "RGBA"}:
        if scheme.colors:
            return LabelMap(_by_color(values[..., :3], scheme.colors, where), "color")
        values = _gray(values[..., :3], scheme)
    if values.ndim != 2 or values.dtype.kind not in "iub":
        raise DatasetError(
            f"{where}: a mask of mode {mode}, expected one number a pixel (gray, palette, 1 or 16 bits); "
            "for colors give their classes with --label-map"
        )
    depth = "palette" if mode in {"P", "PA"} else "gray" if values.dtype.itemsize == 1 else "deep"
    values = values.astype(np.uint8) if values.dtype.kind == "b" else values
    if scheme.threshold is not None:
        values = (values >= scheme.threshold).astype(np.uint8)
    return LabelMap(values, depth)


def _open(data: bytes, where: str) -> Image.Image:
    width, height = probe(data)
    if width * height > PIXELS:
        raise DatasetError(f"{where}: a mask of {width} x {height} pixels, expected at most {PIXELS}")
    return open_checked(data, DecodePolicy(max_pixels=PIXELS))


def _gray(rgb_hw3: npt.NDArray[np.uint8], scheme: LabelScheme) -> npt.NDArray[np.uint8]:
    """Gray values of an RGB image that holds grays alone, or is to be thresholded; else the image itself."""
    if (rgb_hw3 == rgb_hw3[..., :1]).all():
        return rgb_hw3[..., 0]
    return rgb_hw3.mean(axis=2).astype(np.uint8) if scheme.threshold is not None else rgb_hw3


def _by_color(
    rgb_hw3: npt.NDArray[np.uint8], colors: Mapping[tuple[int, int, int], int], where: str
) -> npt.NDArray[np.int64]:
    codes = (rgb_hw3.astype(np.int64) << np.array([16, 8, 0])).sum(axis=2)
    known = {(red << 16) + (green << 8) + blue: value for (red, green, blue), value in colors.items()}
    there, places = np.unique(codes, return_inverse=True)
    unknown = [f"#{code:06x}" for code in there.tolist() if code not in known]
    if unknown:
        raise DatasetError(
            f"{where}: {len(unknown)} colors are not in the label map, such as {', '.join(unknown[:4])}: add them to it"
        )
    return np.array([known[code] for code in there.tolist()])[places].reshape(codes.shape)


@dataclass(frozen=True)
class MaskParser:
    """Parses one mask image; what its values stand for is settled when all masks are known (`mask_values`)."""

    scheme: LabelScheme

    def __call__(self, data: bytes, where: str, file_name: str) -> Parsed:
        """Encode the region of each value but the background's.

        The rows are provisional: `category_id` is the value, `category` the depth and the number of connected parts.
        """
        mask = pixels(data, where, self.scheme)
        height, width = mask.ids_hw.shape
        values = [value for value in np.unique(mask.ids_hw).tolist() if value != self.scheme.background]
        if len(values) > MOST_VALUES:
            raise DatasetError(
                f"{where}: a mask of {len(values)} different values, expected at most {MOST_VALUES} classes or objects: "
                "it looks like a picture or a depth map"
            )
        regions = masks.regions(mask.ids_hw, values)
        parts = _parts(mask.ids_hw, regions)
        rows = [_row(value, rle, f"{mask.depth} {parts[value]}") for value, rle in regions.items()]
        return Parsed(tuple(rows), (width, height))


def _row(value: int, rle: masks.Rle, trait: str) -> dict[str, Any]:
    struct = {"size": [rle.height, rle.width], "counts": rle.counts}
    columns = {"category_id": value, "category": trait, "kind": "region", "area": float(masks.area(rle))}
    return annotation_row(**columns, bbox=bbox_struct(*masks.bbox(rle)), segmentation=struct)


def _parts(ids_hw: npt.NDArray[np.integer[Any]], regions: Mapping[int, masks.Rle]) -> dict[int, int]:
    """How many connected parts (8 neighbors) each value has; 0 where counting would cost much."""
    boxes = {value: [int(side) for side in masks.bbox(rle)] for value, rle in regions.items()}
    if sum(width * height for _, _, width, height in boxes.values()) > COUNTED * ids_hw.size:
        return dict.fromkeys(regions, 0)
    from scipy import ndimage  # half a second to import, which a wrong option of 'shardlens ingest' would wait for

    return {
        value: int(ndimage.label(ids_hw[y : y + height, x : x + width] == value, np.ones((3, 3)))[1])
        for value, (x, y, width, height) in boxes.items()
    }
