"""Which of the images that a format lists are taken in, and into which split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from cyclopts import Parameter

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.links import leading_out
from shardlens.pipeline.annotations.source import Request, Source
from shardlens.pipeline.annotations.voc_lists import NamedImages, lines_of
from shardlens.pipeline.errors import ConfigError, DatasetError

HELD_OUT = "val"
REST = "train"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which images are taken in, and into which split."""

    split: str | None = None
    """Name of the split that the images form, such as train or val; its split is replaced, the others are kept."""
    image_list: Annotated[str | None, Parameter(name="list")] = None
    """URI of a text file with one image name or path a line: only these images are taken in."""
    holdout: float = 0.0
    """Share of the images that becomes the split val, chosen at random by their names; the others are train, or --split."""
    seed: int = 0
    """Number that the choice of --holdout depends on."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the folders that were named."""

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise ConfigError(f"holdout is {self.holdout}: expected a share from 0 to 1, such as 0.2")
        if self.holdout and self.split == HELD_OUT:
            raise ConfigError(f"--holdout makes a split {HELD_OUT} of its own: expected another --split, or none")


def selected(source: Source, asked: Selection, request: Request) -> Source:
    """Leave out what was not asked for, and form the splits.

    Raises:
        DatasetError: nothing is left.
        ConfigError: the format has splits of its own, and some are to be held out.
    """
    _report_repeated(source, request)
    source = source if asked.follow_links else _confined(source, request.images)
    if asked.image_list is not None:
        source = _in_list(source, storage.normalize(asked.image_list))
    return _held_out(source, asked) if asked.holdout else source


def _keep(source: Source, kept: npt.NDArray[np.bool_]) -> Source:
    """Keep the images of a mask, and their annotations."""
    images = source.images.filter(pa.array(kept)).combine_chunks()
    annotations = source.annotations
    if annotations.num_rows:
        mine = pc.is_in(annotations["image_id"], value_set=images["image_id"].combine_chunks())
        annotations = annotations.filter(mine).combine_chunks()
    return replace(source, images=images, annotations=annotations)


def _report_repeated(source: Source, request: Request) -> None:
    """Report names for which several tars hold an image, of formats that go by names alone."""
    files = request.catalog.listed(request.images)
    if files is not None and source.has_ids:
        names = [name for name in source.images["file_name"].to_pylist() if name in files.repeated]
        source.problems.add("repeated-member", len(names), names)


def _confined(source: Source, root: str) -> Source:
    """Leave out the images that symbolic links lead out of the root."""
    uris = source.images["uri"].to_pylist()
    if not storage.is_local(root) or all(uri == root for uri in uris):
        return source
    outside = np.array(leading_out(root, uris), dtype=bool)
    if not outside.any():
        return source
    names = source.images["file_name"].filter(pa.array(outside)).to_pylist()
    source.problems.add("link-out", len(names), names)
    if outside.all():
        raise DatasetError(
            f"every image below {root} is a symbolic link that leads out of it, such as {names[0]}: --follow-links takes them"
        )
    return _keep(source, ~outside)


def _in_list(source: Source, uri: str) -> Source:
    names = source.images["file_name"].to_pylist()
    images = NamedImages(tuple(names))
    lines = lines_of(storage.read(uri))
    wanted: set[str] = set()
    for line in lines:
        there = images.find(line)
        wanted.update(there)
        if not there:
            source.problems.one("not-in-list", line)
    kept = np.array([name in wanted for name in names], dtype=bool)
    if not kept.any():
        example = f", such as {names[0]}" if names else ""
        raise DatasetError(
            f"none of the {len(lines)} lines of {uri} names one of the {len(names)} images{example}: "
            "expected one name, stem or path of an image a line"
        )
    return _keep(source, kept)


def _held_out(source: Source, asked: Selection) -> Source:
    """Give a share of the images the split val; an image's chance depends on its name and the seed alone."""
    splits = set(source.images["split"].unique().to_pylist()) - {None, asked.split}
    if splits:
        listed = ", ".join(sorted(splits))
        raise ConfigError(f"the images have splits already ({listed}): --holdout is for images without")
    names = source.images["file_name"].to_pylist()
    chances = [hashlib.sha256(f"{asked.seed}/{name}".encode()).digest() for name in names]
    order = sorted(range(len(names)), key=chances.__getitem__)
    chosen = set(order[: round(asked.holdout * len(names))])
    if not chosen or len(chosen) == len(names):
        raise ConfigError(f"--holdout {asked.holdout} of {len(names)} images is {len(chosen)}: expected some, not all")
    column = pa.array([HELD_OUT if row in chosen else asked.split or REST for row in range(len(names))])
    place = source.images.schema.names.index("split")
    return replace(source, images=source.images.set_column(place, source.images.schema.field(place), column))
