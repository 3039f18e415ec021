"""Mask images next to the images: a pixel holds its class id (semantic) or its object's id (instance), 0 = background.

Which mask is of which image: `mask_layout`; what is in one mask: `mask_pixels`; what the values stand for: `mask_values`.
"""

from __future__ import annotations

from shardlens.pipeline.annotations import mask_layout
from shardlens.pipeline.annotations.mask_pixels import MaskParser
from shardlens.pipeline.annotations.mask_values import ByValue, object_name
from shardlens.pipeline.annotations.pairing import pair
from shardlens.pipeline.annotations.places import IMAGE_SUFFIXES
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.annotations.source import Format, Look, Request, Source
from shardlens.pipeline.executors.base import Executor
from shardlens.pipeline.warehouse import tables

LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif")


def read(request: Request, executor: Executor) -> Source:
    """Pair images and masks; what the pixels are is decided when all masks have been read."""
    problems = Problems()
    if request.mask_kind == "instance":
        object_name(request.labels)
    layout = mask_layout.layout_of(request, executor, problems)
    listed = pair(layout, problems)
    names = layout.sidecars.names
    named = sum(mask_layout.is_named_instance(name) for name in names) * 2 > len(names)
    categorize = ByValue(request.mask_kind, request.labels, named)
    empty = tables.from_rows([], tables.ANNOTATIONS)
    return Source(listed, empty, categorize, MaskParser(request.labels), has_category_ids=True, problems=problems)


def recognizes(look: Look) -> str | None:
    """Mask images lie in folders of usual names, are named after their images, or are named as the annotations."""
    images = look.files.only(lambda name: name.lower().endswith(IMAGE_SUFFIXES))
    reason = mask_layout.folders_hold_masks(images) or mask_layout.names_hold_masks(images)
    if reason or look.request.annotations is None:
        return reason
    masks = any(name.lower().endswith(LOSSLESS) for name in images.names)
    return f"{look.root} holds images that can be masks" if masks else None


FORMAT = Format("masks", read, recognizes)
