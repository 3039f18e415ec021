"""By what an object is known to have changed: its bytes and its etag, as the listing of a store gives them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

CHUNK = 1 << 16
SCHEMA = pa.schema([("uri", pa.string()), ("bytes", pa.int64()), ("etag", pa.string())])


@dataclass
class Marks:
    """Bytes and etag of listed objects; packed a chunk at a time, so that millions take little memory."""

    _rows: list[tuple[str, int, str | None]] = field(default_factory=list)
    _packed: list[pa.Table] = field(default_factory=list)

    def add(self, uri: str, size: int, etag: str | None) -> None:
        """Take the mark of one object."""
        self._rows.append((uri, size, etag))
        if len(self._rows) >= CHUNK:
            self._pack()

    def _pack(self) -> None:
        columns = list(zip(*self._rows, strict=True)) or [(), (), ()]
        arrays = [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)]
        self._packed.append(pa.Table.from_arrays(arrays, schema=SCHEMA))
        self._rows = []

    def of(self, rows: pa.Table, prefix: str = "") -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """Bytes and etag of the place in each row; null where nothing is known.

        The etag of a tar's member is that of the tar and its offset.

        Args:
            rows: with the columns `uri`, `offset` and `length`, their names after `prefix`.
        """
        self._pack()
        known = pa.concat_tables(self._packed).combine_chunks()
        self._packed = [known]
        uris, offsets, lengths = (rows[f"{prefix}{name}"] for name in ("uri", "offset", "length"))
        place = pc.index_in(uris, value_set=known["uri"].combine_chunks(), skip_nulls=True)
        sizes, etags = known["bytes"].take(place), known["etag"].take(place)
        inside = pc.binary_join_element_wise(etags, offsets.cast(pa.string()), "+")
        member = offsets.is_valid()
        return pc.if_else(member, lengths, sizes), pc.if_else(member, inside, etags)
