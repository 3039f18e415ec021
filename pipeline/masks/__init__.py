"""Masks as run lengths; this package hands on what `rle` does: `masks.encode(mask_hw)`.

- `rle`: COCO's RLE: encode, decode, paste, join
- `spans`: regions, holes and connected components as runs of rows
- `panoptic`: segments that do not overlap
"""

from .rle import (
    Rle,
    area,
    bbox,
    column_major,
    decode,
    drawable,
    encode,
    from_counts,
    from_polygons,
    from_runs,
    paste,
    regions,
    run_lengths,
    to_codec,
    union,
)

__all__ = [
    "Rle",
    "area",
    "bbox",
    "column_major",
    "decode",
    "drawable",
    "encode",
    "from_counts",
    "from_polygons",
    "from_runs",
    "paste",
    "regions",
    "run_lengths",
    "to_codec",
    "union",
]
