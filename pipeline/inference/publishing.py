"""From the rows of a shard's images to its two parts, which hold the rows of an earlier attempt or run too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.errors import StorageError
from shardlens.pipeline.images.shards import Failure
from shardlens.pipeline.inference.rows import ImageRows, outcomes_table, predictions_table
from shardlens.pipeline.inference.shard_work import Carried, ShardWork
from shardlens.pipeline.networks.labels import LabelMap
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.runs import Part, RunRecord, ShardParts


@dataclass(frozen=True, eq=False)
class ShardTables:
    """Rows of a shard's images, or of some of them."""

    predictions: pa.Table
    outcomes: pa.Table

    @property
    def image_ids(self) -> frozenset[int]:
        """The images that have an outcome."""
        return frozenset(self.outcomes["image_id"].to_pylist())

    def only(self, image_ids: Iterable[int], others: bool = False) -> ShardTables:
        """The rows of some images, or of all others."""
        chosen = pa.array(sorted(image_ids), pa.int64())

        def kept(table: pa.Table) -> pa.Table:
            rows = pc.is_in(table["image_id"], chosen)
            return table.filter(pc.invert(rows) if others else rows)

        return ShardTables(kept(self.predictions), kept(self.outcomes))

    def like(self, other: ShardTables) -> ShardTables:
        """The columns that another's tables have, as parts of earlier versions of Shardlens lack some."""
        return ShardTables(
            self.predictions.select(other.predictions.schema.names), self.outcomes.select(other.outcomes.schema.names)
        )

    def equals(self, other: ShardTables) -> bool:
        """Whether both hold the same rows."""
        return [self.predictions, self.outcomes] == [other.predictions, other.outcomes]


def joined(several: Sequence[ShardTables]) -> ShardTables:
    """The rows of all, by image_id, then rank."""
    if len(several) == 1:
        return several[0]
    predictions, outcomes = (
        pa.concat_tables([getattr(each, name) for each in several]) for name in ("predictions", "outcomes")
    )
    by_rank = [("image_id", "ascending"), ("rank", "ascending")]
    return ShardTables(predictions.sort_by(by_rank).combine_chunks(), outcomes.sort_by("image_id").combine_chunks())


def publish(
    record: RunRecord,
    labels: LabelMap,
    work: ShardWork,
    rows: Mapping[int, ImageRows],
    failures: Iterable[Failure],
    carried: ShardTables | None = None,
) -> ShardParts:
    """Write the parts of the shard that `work` names; a retry that changes no row leaves the earlier ones.

    Args:
        rows: predictions by image_id; every image has rows, a failure or is carried over.
        carried: rows of an earlier run.
    """
    done = carried.image_ids if carried else frozenset()
    images = [image for image in work.shard.images if image.image_id not in done]
    fresh = ShardTables(
        predictions_table(rows, labels, {image.image_id: image.file_name for image in images}),
        outcomes_table(images, rows, failures),
    )
    if work.base is not None:
        before = _before(record, work.base)
        kept = before.only((image.image_id for image in images), others=True)
        published = joined([kept, fresh.like(before)])
        if published.equals(before):
            return work.base
    else:
        published = joined([*([carried] if carried else []), *([fresh] if images else [])])
    return runs.publish(record, work.shard.index, published.predictions, published.outcomes, work.generation)


def carried_rows(carried: Carried) -> ShardTables | None:
    """The rows of an earlier run; those of parts that are gone, damaged or of an older schema are left out, None = all."""
    several = []
    for parts in carried.parts:
        try:
            tables_of_part = ShardTables(
                _intact(carried.predictions, parts.predictions, tables.PREDICTIONS),
                _intact(carried.outcomes, parts.outcomes, tables.OUTCOMES),
            )
        except StorageError:
            continue
        wanted = tables_of_part.image_ids & carried.image_ids
        several.append(tables_of_part if wanted == tables_of_part.image_ids else tables_of_part.only(wanted))
    return joined(several) if several else None


def _intact(folder: str, part: Part, schema: pa.Schema) -> pa.Table:
    """A part as it was committed.

    Raises:
        StorageError: it is not that any more.
    """
    data = storage.read(storage.join(folder, part.name))
    table = tables.from_bytes(data).replace_schema_metadata(None)
    if hashlib.sha256(data).hexdigest() != part.sha256 or table.schema != schema:
        raise StorageError(f"{storage.join(folder, part.name)} is not the part that was committed")
    return table


def _before(record: RunRecord, base: ShardParts) -> ShardTables:
    """The parts that a retry starts from."""
    warehouse, of_run = record.warehouse, (record.dataset, record.name)
    places = (
        storage.join(warehouse.predictions(*of_run), base.predictions.name),
        storage.join(warehouse.outcomes(*of_run), base.outcomes.name),
    )
    return ShardTables(*(tables.from_bytes(storage.read(uri)).replace_schema_metadata(None) for uri in places))
