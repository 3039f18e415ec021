"""What an ingest read becomes the latest version of its dataset, together with the splits that stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.annotations import duplicates
from shardlens.pipeline.annotations.assembly import Assembled
from shardlens.pipeline.annotations.duplicates import Twins, latest_digests
from shardlens.pipeline.annotations.problems import Problem, Problems
from shardlens.pipeline.annotations.splits import Part, merge, of_splits
from shardlens.pipeline.annotations.unlisted import FLAG, apart, without_listed
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.executors.base import Executor
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.datasets import PARTS, Dataset, advance, latest, version_of
from shardlens.pipeline.warehouse.layout import Warehouse, to_json


@dataclass(frozen=True)
class Publication:
    """What one ingest read, to be merged into the latest version of its dataset."""

    warehouse: Warehouse
    name: str
    """The dataset's."""
    part: Part
    digests: pa.Table
    """Rows of `duplicates.DIGESTS`."""
    problems: Problems
    strict: bool = False
    """Write nothing if there is any problem; images that the annotations do not list are none."""

    def into_latest(self, record: dict[str, Any], executor: Executor) -> tuple[str, Assembled, tuple[Problem, ...]]:
        """Merge and publish, with `record` among the dataset's sources; again, if another ingest published a version meanwhile.

        Returns:
            The version, its content, and all problems.

        Raises:
            DatasetError: the splits clash, or there are problems and the ingest is strict; nothing was written then.
        """
        name = self.name
        while True:
            pointer = latest(self.warehouse, name)
            others = list(_kept(self.warehouse, name, record, pointer))
            kept = [without_listed(part, self.part.content.images) for part, _ in others]
            merged = merge([each for part in (*kept, self.part) for each in apart(part)])
            digests = latest_digests([*_digests_of(self.warehouse, name, pointer), self.digests])
            problems = (*self.problems.found(), *_leaks(merged, digests, executor))
            faults = tuple(problem for problem in problems if problem.kind != FLAG)
            if self.strict and faults:
                raise DatasetError(_refusal(record["images"], faults))
            self.warehouse.create()
            records = [*(old for _, old in others), {**record, "problems": [asdict(each) for each in problems]}]
            records.sort(key=lambda each: [split or "" for split in each["splits"]])
            version = write_version(self.warehouse, name, merged, records, digests)
            if advance(self.warehouse, name, pointer, version):
                return version, merged, problems


def _leaks(merged: Assembled, digests: pa.Table, executor: Executor) -> tuple[Problem, ...]:
    """Images of one split whose bytes are in another."""
    problems = Problems()
    names, splits = (merged.images[column].to_pylist() for column in ("file_name", "split"))
    if len(set(splits)) > 1:
        Twins.among(merged.images, digests, executor).report_leaks(names, splits, problems)
    return problems.found()


def _digests_of(warehouse: Warehouse, name: str, pointer: bytes | None) -> Iterator[pa.Table]:
    """The digests of the version that `pointer` names; none of one that was written before there were any."""
    if pointer is not None:
        place = storage.join(warehouse.dataset(name, version_of(warehouse, name, pointer)), duplicates.FILE)
        if storage.exists(place):
            yield tables.from_bytes(storage.read(place))


def _refusal(images: str, problems: tuple[Problem, ...]) -> str:
    listed = "\n".join(map(str, problems))
    return (
        f"{images}: {len(problems)} kinds of problems, and --strict was given, so nothing was written; "
        f"fix them or leave --strict out\n{listed}"
    )


def other_images(warehouse: Warehouse, name: str, split: str | None) -> pa.Table | None:
    """Images of the dataset's splits other than `split`; None if there is no such dataset."""
    pointer = latest(warehouse, name)
    if pointer is None:
        return None
    images = Dataset.open(warehouse, name, version_of(warehouse, name, pointer)).images
    other = pc.is_valid(images["split"]) if split is None else pc.fill_null(pc.not_equal(images["split"], split), True)
    return images.filter(other)


def _kept(
    warehouse: Warehouse, name: str, new: dict[str, Any], pointer: bytes | None
) -> Iterator[tuple[Part, dict[str, Any]]]:
    """What stays of the version that `pointer` names: the splits that are not replaced, by their sources."""
    if pointer is None:
        return
    before = Dataset.open(warehouse, name, version_of(warehouse, name, pointer))
    for source in before.document["sources"]:
        splits = [split for split in source["splits"] if split not in new["splits"]]
        if splits and not _is_renamed(source, new):
            content = of_splits(Assembled(before.images, before.annotations, before.categories), splits)
            where = f"{source['annotations'] or source['images']} (split {splits[0]})"
            yield Part(where, content, source["has_ids"], source["has_category_ids"]), {**source, "splits": splits}


def _is_renamed(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether the same images and annotations come again, once with a split's name and once without."""
    same = (old["images"], old["annotations"]) == (new["images"], new["annotations"])
    return same and [None] in (old["splits"], new["splits"])


def split_counts(images: pa.Table) -> dict[str, int]:
    """Images of each split; the key of those without one is empty."""
    counts = Counter(split or "" for split in images["split"].to_pylist())
    return dict(sorted(counts.items()))


def counts_of(content: Assembled) -> dict[str, int]:
    """How much the tables hold."""
    return {
        "images": content.images.num_rows,
        "annotations": content.annotations.num_rows,
        "crowds": pc.sum(content.annotations["iscrowd"]).as_py() or 0,
        "categories": content.categories.num_rows,
    }


def write_version(
    warehouse: Warehouse, name: str, content: Assembled, sources: list[dict[str, Any]], digests: pa.Table | None = None
) -> str:
    """Write a version, not yet the latest; the same content again is the same version.

    Args:
        digests: rows of `duplicates.DIGESTS`, those of the images at least; None = they are not known.

    Returns:
        The version.
    """
    parts = {part: tables.to_bytes(getattr(content, part)) for part in PARTS}
    # digested as read back: what lies under a null differs by how a table was made
    version = tables.digest(*(tables.from_bytes(data) for data in parts.values()))[:12]
    root = warehouse.dataset(name, version)
    for part, data in parts.items():
        storage.publish(storage.join(root, f"{part}.parquet"), data)
    if digests is not None:
        mine = digests.filter(pc.is_in(digests["uri"], content.images["uri"].combine_chunks()))
        storage.publish(storage.join(root, duplicates.FILE), tables.to_bytes(mine))
    document = {
        "name": name,
        "version": version,
        **counts_of(content),
        "splits": [{"split": split or None, "images": count} for split, count in split_counts(content.images).items()],
        "category_names": content.categories["name"].to_pylist(),
        "sources": sources,
    }
    storage.publish(storage.join(root, "dataset.json"), to_json(document))
    return version
