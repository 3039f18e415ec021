"""The table of what was read of each image of a dataset's version, next to the version's own tables."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

FILE = "digests.parquet"
"""Name of the table among those of a version; it is no part of its identity."""
DIGESTS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        ("offset", pa.int64()),
        ("head", pa.binary()),  # digest of the first bytes; null = could not be read
        ("bytes", pa.int64()),  # as the store lists it, as is the next
        ("etag", pa.string()),
        ("width", pa.int32()),  # of the header, as are the next; null = could not be read
        ("height", pa.int32()),
        ("orientation", pa.int8()),
        ("deep", pa.bool_()),  # whether a value has more than 8 bits
    ]
)
"""What an ingest read of each image, so that the next one need not; files of earlier versions end with `head`."""


def spots_of(table: pa.Table) -> pa.Array:
    """URI and offset of each row as one text."""
    at = table["offset"].cast(pa.string()).fill_null("")
    return pc.binary_join_element_wise(table["uri"], at, "\0").combine_chunks()
