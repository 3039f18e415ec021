"""Binary masks as COCO run-length encoding (RLE): made from polygons, pixels and a network's box-local masks.

An RLE counts the pixels of the runs of 0 and 1 in column-major order, 0 first. pycocotools is the codec; masks that
Shardlens makes itself are built as runs, so that no full image is allocated for them.
Format: https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.h
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pycocotools import mask as codec

from shardlens.pipeline.errors import DatasetError, ImageError

POLYGON_LIMIT = float(1 << 17)
"""Coordinates beyond this are taken for damage: the codec's memory grows with them."""
RUN_LIMIT = 1 << 40
"""Pixels of the longest run that is accepted, so that no sum of runs overflows."""
PASTE_LIMIT = 1 << 27
"""Pixels of the largest box that a mask is stretched to."""
BAND = 64
"""Rows that are turned into columns at a time: what they touch stays in the cache."""

Ints = npt.NDArray[np.int64]
Pixel = TypeVar("Pixel", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Rle:
    """A mask of `height` x `width` pixels; `counts` is COCO's compressed text."""

    height: int
    width: int
    counts: str


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """Rasterize the union of `polygons`, each x0, y0, x1, y1, ... in pixels, as pycocotools does.

    Raises:
        DatasetError: a polygon has fewer than three points, half a point, or a coordinate out of all bounds.
    """
    if not polygons:
        raise DatasetError("a mask of no polygons: expected one or more lists x0, y0, x1, y1, x2, y2, ...")
    for polygon in polygons:
        _check_polygon(polygon)
    parts = codec.frPyObjects([list(map(float, polygon)) for polygon in polygons], height, width)
    return _take(codec.merge(parts))


def drawable(polygons: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """Those of `polygons` that `from_polygons` can draw."""
    return [polygon for polygon in polygons if _is_drawable(polygon)]


def _is_drawable(polygon: Sequence[float]) -> bool:
    try:
        _check_polygon(polygon)
    except DatasetError:
        return False
    return True


def _check_polygon(polygon: Sequence[float]) -> None:
    if len(polygon) < 6 or len(polygon) % 2:
        raise DatasetError(f"a polygon of {len(polygon)} numbers: expected x, y of three points or more")
    try:
        points = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError):
        raise DatasetError(f"a polygon of other things than numbers, beginning {str(polygon)[:60]}") from None
    if not (np.abs(points) <= POLYGON_LIMIT).all():
        worst = points[~(np.abs(points) <= POLYGON_LIMIT)][0]
        raise DatasetError(f"a polygon with the coordinate {worst}: expected pixels within +-{POLYGON_LIMIT:.0f}")


def from_counts(counts: Sequence[int] | str | bytes, height: int, width: int) -> Rle:
    """Take COCO's `counts`, a list of run lengths or its compressed text, after checking that they fill the image.

    Raises:
        DatasetError: they are damaged, or of another size than `height` x `width`.
    """
    if isinstance(counts, str | bytes):
        text = counts if isinstance(counts, str) else counts.decode("ascii", "replace")
        lengths = _expand(text)
    else:
        text, lengths = None, _integers(counts)
    total = int(lengths.sum(dtype=np.float64))  # of so many damaged runs that int64 would overflow, too
    if total != height * width or (lengths < 0).any():
        raise DatasetError(
            f"RLE counts of {total} pixels in {len(lengths)} runs (shortest {lengths.min(initial=0)}): "
            f"expected {height} x {width} = {height * width} pixels in runs of 0 or more"
        )
    return Rle(height, width, text) if text is not None else _compress(lengths, height, width)


def _integers(counts: Sequence[int]) -> Ints:
    if not all(isinstance(n, int | np.integer) and not isinstance(n, bool) and abs(n) <= RUN_LIMIT for n in counts):
        raise DatasetError(f"RLE counts {str(counts)[:60]}: expected a list of integers, or compressed text")
    return np.asarray(counts, dtype=np.int64)


def _expand(text: str) -> Ints:
    """Run lengths of compressed counts: 5 bits a character, the 6th says that more follow; differences to two back."""
    symbols = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.int64) - 48
    if not symbols.size:
        return symbols
    if symbols.min() < 0 or symbols.max() > 63 or symbols[-1] & 32:
        raise DatasetError(f"RLE counts {text[:40]!r}... of {len(text)} characters: not COCO's compressed text, or cut")
    last = np.flatnonzero((symbols & 32) == 0)
    first = np.append(0, last[:-1] + 1)
    width = last - first + 1
    if width.max() > 7:
        raise DatasetError(f"RLE counts {text[:40]!r}... hold a number of {width.max()} characters, expected at most 7")
    shift = 5 * (np.arange(symbols.size) - np.repeat(first, width))
    lengths: Ints = np.add.reduceat((symbols & 31) << shift, first)
    lengths -= np.where(symbols[last] & 16, np.int64(1) << (5 * width), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def run_lengths(rle: Rle) -> Ints:
    """Lengths of the runs of 0, 1, 0, ... in column-major order, int64, their sum = height x width."""
    return _expand(rle.counts)


def encode(mask_hw: npt.NDArray[Any]) -> Rle:
    """Encode the non-zero pixels of `mask_hw` (H, W)."""
    return _take(codec.encode(np.asfortranarray(mask_hw != 0).view(np.uint8)))


def decode(rle: Rle) -> npt.NDArray[np.uint8]:
    """Decode to (H, W) uint8 of 0 and 1, in column-major memory."""
    lengths = run_lengths(rle)
    values = np.resize(np.array([0, 1], dtype=np.uint8), lengths.size)
    return np.repeat(values, lengths).reshape((rle.height, rle.width), order="F")


def area(rle: Rle) -> int:
    """Count the pixels that are 1."""
    return int(codec.area(to_codec(rle)))


def bbox(rle: Rle) -> tuple[float, float, float, float]:
    """Smallest box around the mask: x, y of the top left corner, width, height; zeros for an empty mask."""
    x, y, width, height = codec.toBbox(to_codec(rle)).tolist()
    return x, y, width, height


def column_major(map_hw: npt.NDArray[Pixel]) -> npt.NDArray[Pixel]:
    """(H * W,) the pixels of a map (H, W), column by column; `ravel(order="F")`, in a third of its time."""
    if map_hw.flags.f_contiguous:
        return map_hw.ravel(order="F")
    height, width = map_hw.shape
    columns = np.empty((width, height), map_hw.dtype)
    for top in range(0, height, BAND):
        columns[:, top : top + BAND] = map_hw[top : top + BAND].T
    return columns.ravel()


def union(rles: Sequence[Rle]) -> Rle:
    """Unite one or more masks of one size."""
    sizes = {(rle.height, rle.width) for rle in rles}
    if len(sizes) != 1:
        raise ValueError(f"a union of {len(rles)} masks of sizes {sorted(sizes)}: expected one size")
    return rles[0] if len(rles) == 1 else _take(codec.merge([to_codec(rle) for rle in rles]))


def regions(classes_hw: npt.NDArray[np.integer[Any]], values: Iterable[int]) -> dict[int, Rle]:
    """Encode the pixels of each of `values` in a label map (H, W); absent values are left out.

    Time and memory grow with the pixels, however many values there are.
    """
    height, width = classes_hw.shape
    labels = column_major(classes_hw)
    starts = np.concatenate([[0], np.flatnonzero(labels[1:] != labels[:-1]) + 1])[: labels.size]
    ends = np.concatenate([starts[1:], [labels.size]])[: starts.size]
    order = np.argsort(labels[starts], kind="stable")  # the runs of each label stand together, ascending
    starts, ends, runs = starts[order], ends[order], labels[starts[order]]
    asked = np.unique(np.fromiter(values, np.int64))
    first, last = np.searchsorted(runs, asked), np.searchsorted(runs, asked, side="right")
    return {
        value: from_runs(starts[begin:end], ends[begin:end], height, width)
        for value, begin, end in zip(asked.tolist(), first.tolist(), last.tolist(), strict=True)
        if begin < end
    }


def paste(
    probability_mm: npt.NDArray[np.floating[Any]],
    box_xyxy: Sequence[float] | npt.NDArray[np.floating[Any]],
    height: int,
    width: int,
    threshold: float = 0.5,
) -> Rle:
    """Stretch a network's mask over its box and encode where it exceeds `threshold`, in the full image.

    `probability_mm` is (M, M) float; `box_xyxy` in pixels, may reach out of the image. The result is, to the bit,
    that of torchvision's `paste_masks_in_image`, thresholded, without its image-sized array: only the box is drawn.

    Raises:
        ImageError: the box is not finite, or too large to draw.
    """
    left, top, right, bottom = _padded_box(box_xyxy, probability_mm.shape[0])
    high, wide = max(bottom - top + 1, 1), max(right - left + 1, 1)
    if high * wide > PASTE_LIMIT:
        raise ImageError(
            f"a mask's box of {wide} x {high} pixels for an image of {width} x {height}: expected at most "
            f"{PASTE_LIMIT} pixels; the model should clip its boxes to the image"
        )
    x0, x1 = max(left, 0), min(right + 1, width)
    y0, y1 = max(top, 0), min(bottom + 1, height)
    if x0 >= x1 or y0 >= y1:
        return from_runs(np.zeros(0, np.int64), np.zeros(0, np.int64), height, width)
    drawn = _stretch(probability_mm, high, wide)[y0 - top : y1 - top, x0 - left : x1 - left]
    return _place(drawn > threshold, x0, y0, height, width)


def _padded_box(box_xyxy: Sequence[float] | npt.NDArray[np.floating[Any]], side: int) -> tuple[int, int, int, int]:
    """Grow the box by the mask's border of one pixel, in float32 and cut to whole pixels as torchvision does."""
    box = np.asarray(box_xyxy, dtype=np.float32)
    if not np.isfinite(box).all():
        raise ImageError(f"a mask's box {box.tolist()}: expected four finite numbers; the model's output is damaged")
    half = (box[2:] - box[:2]) * np.float32(0.5) * np.float32((side + 2) / side)
    center = (box[2:] + box[:2]) * np.float32(0.5)
    (left, top), (right, bottom) = (center - half).tolist(), (center + half).tolist()
    return int(left), int(top), int(right), int(bottom)


def _stretch(probability_mm: npt.NDArray[np.floating[Any]], high: int, wide: int) -> npt.NDArray[np.float32]:
    # only torch's own kernel rounds as torch does; loaded here, since most who need masks do not need torch
    import torch

    padded = torch.from_numpy(np.pad(np.asarray(probability_mm, dtype=np.float32), 1))
    drawn = torch.nn.functional.interpolate(padded[None, None], size=(high, wide), mode="bilinear", align_corners=False)
    pixels: npt.NDArray[np.float32] = drawn[0, 0].numpy()
    return pixels


def _place(crop_hw: npt.NDArray[np.bool_], x0: int, y0: int, height: int, width: int) -> Rle:
    """Encode a crop whose top left corner lies at (x0, y0): its columns' runs are shifted, nothing else is touched."""
    high, wide = crop_hw.shape
    pixels = np.zeros(wide * (high + 1) + 1, bool)  # a 0 above each column keeps its runs from the last one's
    pixels[:-1].reshape(wide, high + 1)[:, 1:] = crop_hw.T
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    places = edges + edges // (high + 1) * (height - high - 1) + (x0 * height + y0)
    return from_runs(places[::2], places[1::2], height, width)


def from_runs(starts: Ints, ends: Ints, height: int, width: int) -> Rle:
    """Encode runs [start, end) of column-major pixel numbers, ascending; runs that touch are joined."""
    edges = np.zeros(2 * starts.size + 2, dtype=np.int64)
    edges[1:-1:2], edges[2:-1:2], edges[-1] = starts, ends, height * width
    apart = edges[2:-2:2] != edges[3:-1:2]
    if not apart.all():
        edges = edges[np.concatenate([[True, True], np.repeat(apart, 2), [True, True]])]
    lengths = edges[1:] - edges[:-1]
    return _compress(lengths if lengths[-1] else lengths[:-1], height, width)


def _compress(lengths: Ints, height: int, width: int) -> Rle:
    return _take(codec.frPyObjects({"size": [height, width], "counts": lengths.astype(np.uint32)}, height, width))


def _take(coded: dict[str, Any]) -> Rle:
    height, width = coded["size"]
    return Rle(int(height), int(width), coded["counts"].decode("ascii"))


def to_codec(rle: Rle) -> dict[str, Any]:
    """Give the mask as pycocotools and hotcoco take it."""
    return {"size": [rle.height, rle.width], "counts": rle.counts.encode("ascii")}
