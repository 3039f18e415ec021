"""From the rows of a shard's images to its two parts; those of a retry hold the earlier rows too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.images.shards import Failure
from shardlens.pipeline.inference.rows import ImageRows, outcomes_table, predictions_table
from shardlens.pipeline.inference.shard_work import ShardWork
from shardlens.pipeline.networks.labels import LabelMap
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.runs import RunRecord, ShardParts


def publish(
    record: RunRecord,
    labels: LabelMap,
    work: ShardWork,
    rows: Mapping[int, ImageRows],
    failures: Iterable[Failure],
) -> ShardParts:
    """Write the parts of the shard that `work` names; a retry that changes no row leaves the earlier ones.

    Args:
        rows: predictions by image_id; every image has rows or a failure.
    """
    names = {image.image_id: image.file_name for image in work.shard.images}
    predictions = predictions_table(rows, labels, names)
    outcomes = outcomes_table(work.shard.images, rows, failures)
    if work.base is not None:
        retried = pa.array(list(names), pa.int64())
        folder = record.warehouse.predictions(record.dataset, record.name)
        before = [_earlier(storage.join(folder, work.base.predictions.name))]
        folder = record.warehouse.outcomes(record.dataset, record.name)
        before.append(_earlier(storage.join(folder, work.base.outcomes.name)))
        fresh = (new.select(old.schema.names) for old, new in zip(before, (predictions, outcomes), strict=True))
        predictions, outcomes = (_merged(old, new, retried) for old, new in zip(before, fresh, strict=True))
        if [predictions, outcomes] == before:
            return work.base
    return runs.publish(record, work.shard.index, predictions, outcomes, work.generation)


def _earlier(uri: str) -> pa.Table:
    return tables.from_bytes(storage.read(uri)).replace_schema_metadata(None)


def _merged(earlier: pa.Table, fresh: pa.Table, retried: pa.Array) -> pa.Table:
    """An earlier part, the rows of the retried images replaced by `fresh` ones; its columns stay as they are."""
    kept = earlier.filter(pc.invert(pc.is_in(earlier["image_id"], retried)))
    keys = [(key, "ascending") for key in ("image_id", "rank") if key in fresh.schema.names]
    return pa.concat_tables([kept, fresh]).sort_by(keys).combine_chunks()
