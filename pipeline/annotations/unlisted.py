"""Images that lie next to those that an annotation file lists: counted, and kept without annotations if that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline.annotations.assembly import Assembled
from shardlens.pipeline.annotations.coco_ids import unused
from shardlens.pipeline.annotations.problems import Flags
from shardlens.pipeline.annotations.source import LISTED, Source
from shardlens.pipeline.annotations.splits import Part

Unlisted = Literal["drop", "keep"]
FLAG = "unlisted-image"


@dataclass(frozen=True)
class _Places:
    """Where images lie, for comparing tables of them."""

    places: frozenset[tuple[str, int | None]]

    @classmethod
    def of(cls, images: pa.Table) -> _Places:
        return cls(frozenset(zip(images["uri"].to_pylist(), images["offset"].to_pylist(), strict=True)))

    def rows(self, images: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of another table lie there."""
        pairs = zip(images["uri"].to_pylist(), images["offset"].to_pylist(), strict=True)
        return np.fromiter((pair in self.places for pair in pairs), bool, images.num_rows)


def is_unlisted(images: pa.Table) -> npt.NDArray[np.bool_]:
    """Which images no annotation file lists."""
    mask = np.zeros(images.num_rows, dtype=bool)
    mask[Flags(images["flags"]).rows(FLAG)] = True
    return mask


def with_unlisted(source: Source, wanted: Unlisted, others: Callable[[], pa.Table | None]) -> Source:
    """Count the images that the annotations of `source` do not list, and add them to its images if they are to be kept.

    Args:
        others: gives the images of the dataset's other splits; what these list is not unlisted.
    """
    unlisted = source.unlisted
    if unlisted is None or unlisted.num_rows == 0:
        return source
    known = others()
    if known is not None:
        elsewhere = _Places.of(known.filter(pa.array(~is_unlisted(known)))).rows(unlisted)
        unlisted = unlisted.filter(pa.array(~elsewhere))
    source.problems.add(FLAG, unlisted.num_rows, unlisted["file_name"].to_pylist()[:8])
    source = replace(source, unlisted=unlisted)
    if wanted == "drop" or unlisted.num_rows == 0:
        return source
    ids = pa.array(unused(source.images["image_id"].to_pylist(), unlisted.num_rows), pa.int64())
    place = LISTED.get_field_index("image_id")
    numbered = unlisted.set_column(place, LISTED.field(place), ids)
    return replace(source, images=pa.concat_tables([source.images, numbered]))


def without_listed(part: Part, images: pa.Table) -> Part:
    """Leave those of a part's unlisted images out that `images` has, listed or not."""
    mine = part.content.images
    gone = is_unlisted(mine) & _Places.of(images).rows(mine)
    return part if not gone.any() else replace(part, content=_only(part.content, ~gone))


def _only(content: Assembled, rows: npt.NDArray[np.bool_]) -> Assembled:
    images = content.images.filter(pa.array(rows)).combine_chunks()
    mine = pc.is_in(content.annotations["image_id"], value_set=images["image_id"].combine_chunks())
    return Assembled(images, content.annotations.filter(mine), content.categories)
