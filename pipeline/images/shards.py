"""Shards: the row ranges of the images table that are predicted, published and retried as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline.errors import ConfigError

COLUMNS = ("image_id", "uri", "offset", "length", "width", "height", "file_name", "etag")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where one image's bytes lie: a complete object, or `length` bytes at `offset` of a tar."""

    image_id: int
    uri: str
    offset: int | None
    length: int | None
    width: int | None
    height: int | None
    file_name: str
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """Neighboring rows of the images table; what travels to a worker."""

    index: int
    images: tuple[ImageRef, ...]

    @property
    def part(self) -> str:
        """File name of the shard's parts."""
        return f"shard-{self.index:05d}.parquet"

    def only(self, image_ids: frozenset[int]) -> Shard:
        """The same shard with the named images alone."""
        return replace(self, images=tuple(image for image in self.images if image.image_id in image_ids))


@dataclass(frozen=True)
class Plan(Sequence[Shard]):
    """All shards of a run, made when asked for: a million images cost no more than their table."""

    images: pa.Table
    shard_size: int

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ConfigError(f"shard size {self.shard_size}: expected 1 image or more")

    def __len__(self) -> int:
        rows: int = self.images.num_rows
        return -(-rows // self.shard_size)

    def __getitem__(self, index: int) -> Shard:  # type: ignore[override]  # no slices: a shard is asked for by number
        if not 0 <= index < len(self):
            raise IndexError(f"shard {index} of {len(self)}")
        rows = self.images.slice(index * self.shard_size, self.shard_size).select(list(COLUMNS))
        columns = [rows.column(name).to_pylist() for name in COLUMNS]
        return Shard(index, tuple(ImageRef(*row) for row in zip(*columns, strict=True)))

    def __iter__(self) -> Iterator[Shard]:
        return (self[index] for index in range(len(self)))


def plan(images: pa.Table, shard_size: int, split: str | None = None) -> Plan:
    """Cut the images (of one split) into shards of `shard_size` rows, in the order of image_id.

    Args:
        images: rows of the schema `tables.IMAGES`, sorted by image_id.
        split: keep this split alone; None = all images.

    Raises:
        ConfigError: no image is left, or the shard size is not positive.
    """
    chosen = images if split is None else images.filter(pc.equal(images["split"], split))
    if chosen.num_rows == 0:
        known = sorted({s for s in images["split"].unique().to_pylist() if s is not None})
        raise ConfigError(
            f"no image to predict in split {split!r}: the dataset holds {images.num_rows} images "
            + (f"in the splits {', '.join(known)}" if known else "and no splits")
        )
    return Plan(chosen.combine_chunks(), shard_size)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image is quarantined."""

    image_id: int
    stage: str
    """fetch, decode, predict or worker."""
    error: str
    message: str
