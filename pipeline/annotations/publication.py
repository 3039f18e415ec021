"""What an ingest read becomes the latest version of its dataset, together with the splits that stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.assembly import Assembled
from shardlens.pipeline.annotations.digests import FILE
from shardlens.pipeline.annotations.duplicates import Twins, latest_digests
from shardlens.pipeline.annotations.history import History, write_removed
from shardlens.pipeline.annotations.identity import image_ids, known_rows
from shardlens.pipeline.annotations.inspection import HEADER
from shardlens.pipeline.annotations.own_ids import NUMBER
from shardlens.pipeline.annotations.problems import Problem, Problems
from shardlens.pipeline.annotations.splits import Part, merge, of_splits, renumbered
from shardlens.pipeline.annotations.unlisted import FLAG, is_unlisted, without_listed
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.executors.base import Executor
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.datasets import PARTS, Dataset, advance, latest, version_of
from shardlens.pipeline.warehouse.layout import Warehouse, to_json


@dataclass(frozen=True)
class Published:
    """A version, and how it came about."""

    version: str
    content: Assembled
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    vanished: tuple[str, ...]
    """Names of the images that the version before had and this one has not."""


@dataclass(frozen=True)
class Publication:
    """What one ingest read, to be merged into the latest version of its dataset."""

    warehouse: Warehouse
    name: str
    """The dataset's."""
    part: Part
    digests: pa.Table
    """Rows of `digests.DIGESTS`."""
    problems: Problems
    notes: tuple[str, ...] = ()
    """What was decided about the data, a sentence each."""
    strict: bool = False
    """Write nothing if there is any problem; images that the annotations do not list are none."""

    def into_latest(self, record: dict[str, Any], executor: Executor) -> Published:
        """Merge and publish, with `record` among the dataset's sources; again, if another ingest published a version meanwhile.

        Raises:
            DatasetError: the splits clash, or there are problems and the ingest is strict; nothing was written then.
        """
        name = self.name
        while True:
            history = History.read(self.warehouse, name)
            others = list(_kept(history.dataset, record))
            kept = [without_listed(part, self.part.content.images) for part, _ in others]
            settled = self._settled(history, kept, record)
            earlier = None if history.dataset is None else history.dataset.annotations
            merged = merge(kept, settled.part, earlier)
            digests = latest_digests([table for table in (history.digests, self.digests) if table is not None])
            problems = (*self.problems.found(), *_leaks(merged, digests, executor))
            faults = tuple(problem for problem in problems if problem.kind != FLAG)
            if self.strict and faults:
                raise DatasetError(_refusal(record["images"], faults))
            self.warehouse.create()
            record = {**record, "notes": [*self.notes, *settled.notes]}
            records = [*(old for _, old in others), {**record, "problems": [asdict(each) for each in problems]}]
            records.sort(key=lambda each: [split or "" for split in each["splits"]])
            version = write_version(self.warehouse, name, merged, records, digests)
            removed = write_removed(self.warehouse.dataset(name, version), history.gone(merged.images))
            if advance(self.warehouse, name, history.pointer, version, removed):
                gone = _vanished(history, merged.images)
                return Published(version, merged, problems, tuple(record["notes"]), gone)

    def _settled(self, history: History, kept: Sequence[Part], record: dict[str, Any]) -> _Settled:
        """The part under the ids that its images have in the dataset."""
        content = self.part.content
        stay = pa.concat_arrays(
            [pa.array([], pa.int64()), *(part.content.images["image_id"].combine_chunks() for part in kept)]
        )
        own = self.part.has_ids & ~is_unlisted(content.images)
        ids = image_ids(known_rows(content.images, [self.digests]), history.known(stay), own)
        images = renumbered(content, ids)
        part = replace(
            self.part, content=replace(images, images=with_known_etags(images.images, history, self.digests))
        )
        numbers = record.get("ids", {}).get("images") == NUMBER
        texts = content.images["source_id"]
        other = pc.sum(pc.not_equal(texts, pa.array(ids).cast(pa.string()))).as_py() or 0 if numbers else 0
        return _Settled(part, (OTHER_IDS.format(other, content.images.num_rows),) if other else ())


@dataclass(frozen=True)
class _Settled:
    """A part under the ids of the dataset."""

    part: Part
    notes: tuple[str, ...]


OTHER_IDS = (
    "{} of {} images have other ids in the dataset than in the file, whose ids are those of other images there: the column "
    "source_id holds the file's, and exports give them back"
)


def with_known_etags(images: pa.Table, history: History, digests: pa.Table) -> pa.Table:
    """Keep the etag of an image whose bytes are known to be the same, such as of a file that was only touched.

    Args:
        images: under the ids of the dataset.
        digests: rows of `digests.DIGESTS` of these images.
    """
    if history.dataset is None or history.digests is None:
        return images
    before = history.dataset.images
    place = pc.index_in(images["image_id"], value_set=before["image_id"].combine_chunks())
    old = history.before.append_column("etag", before["etag"]).take(place.combine_chunks())
    new = known_rows(images, [digests])
    same = pc.and_(pc.equal(old["bytes"], new["bytes"]), pc.equal(old["head"], new["head"]))
    same = pc.and_(same, pc.less_equal(new["bytes"], HEADER))  # then the first bytes are all of them
    kept = pc.if_else(pc.and_(same.fill_null(False), old["etag"].is_valid()), old["etag"], images["etag"])
    return images.set_column(images.schema.names.index("etag"), tables.IMAGES.field("etag"), kept)


def _vanished(history: History, images: pa.Table) -> tuple[str, ...]:
    """Names of the images that the version before had."""
    if history.dataset is None:
        return ()
    before = history.dataset.images
    gone = pc.invert(pc.is_in(before["image_id"], value_set=images["image_id"].combine_chunks()))
    return tuple(before["file_name"].filter(gone).to_pylist())


def _leaks(merged: Assembled, digests: pa.Table, executor: Executor) -> tuple[Problem, ...]:
    """Images of one split whose bytes are in another."""
    problems = Problems()
    names, splits = (merged.images[column].to_pylist() for column in ("file_name", "split"))
    if len(set(splits)) > 1:
        Twins.among(merged.images, digests, executor).report_leaks(names, splits, problems)
    return problems.found()


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


def _kept(before: Dataset | None, new: dict[str, Any]) -> Iterator[tuple[Part, dict[str, Any]]]:
    """What stays of the version `before`: the splits that are not replaced, by their sources."""
    if before is None:
        return
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
        digests: rows of `digests.DIGESTS`, those of the images at least; None = they are not known.

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
        storage.publish(storage.join(root, FILE), tables.to_bytes(mine))
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
