"""Which labels of a panoptic model are stuff."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from shardlens.models.options import nearest
from shardlens.pipeline.errors import ConfigError


def stuff_labels(
    given: str | None, annotations: pa.Table, labels: Sequence[str], label_of: Mapping[int, int]
) -> tuple[int, ...]:
    """Labels that are stuff, not things: those named, else the categories that have regions and no objects.

    Args:
        given: names of labels with commas between; None = look at the annotations.

    Raises:
        ConfigError: there is no label of a given name.
    """
    if given is not None:
        names = [name.strip() for name in given.split(",") if name.strip()]
        strange = next((name for name in names if name not in labels[1:]), None)
        if strange is not None:
            near = nearest(strange, labels[1:]) or labels[1:6]
            raise ConfigError(f"--option stuff={given}: there is no label {strange!r}; expected {', '.join(near)}, ...")
        return tuple(sorted(labels.index(name) for name in names))
    kinds = annotations.group_by("category_id").aggregate([("kind", "distinct")]).to_pylist()
    regions = [row["category_id"] for row in kinds if row["kind_distinct"] == ["region"]]
    return tuple(sorted(label_of[category] for category in regions if category is not None))
