"""From a model's labels to a dataset's categories, by name; the one place that knows names are spelled in two ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from shardlens.models.spec import BACKGROUND
from shardlens.pipeline.errors import ConfigError

SYNONYMS = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""Pascal VOC's and Darknet's spelling -> COCO's."""
NO_CATEGORY = {BACKGROUND, "N/A"}


@dataclass(frozen=True)
class LabelMap:
    """What each label of a model is called in the tables."""

    ids: tuple[int | None, ...]
    """Category id by label; None = the dataset has no such category."""
    names: tuple[str, ...]
    unmatched: tuple[str, ...]
    """Labels that name no category of the dataset; their rows carry the name and no id."""


def spelling(name: str) -> str:
    """Return the one spelling by which names are compared."""
    plain = " ".join(name.lower().replace("_", " ").split())
    return SYNONYMS.get(plain, plain)


def match(labels: Sequence[str], categories: pa.Table) -> LabelMap:
    """Map labels to categories by name; to their own numbers where the dataset has no categories.

    Args:
        labels: name of each label of the model, the background's included.
        categories: rows of `tables.CATEGORIES`.

    Raises:
        ConfigError: not one label names a category.
    """
    if categories.num_rows == 0:
        return LabelMap(tuple(range(len(labels))), tuple(labels), ())
    rows = categories.to_pylist()
    known = {spelling(row["name"]): (row["category_id"], row["name"]) for row in rows}
    exact = {row["name"]: (row["category_id"], row["name"]) for row in rows}
    found = [exact.get(label) or known.get(spelling(label)) for label in labels]
    unmatched = tuple(
        label for label, hit in zip(labels, found, strict=True) if hit is None and label not in NO_CATEGORY
    )
    if not any(found):
        raise ConfigError(
            f"none of the model's {len(unmatched)} labels ({', '.join(unmatched[:5])}, ...) names one of the "
            f"dataset's {len(rows)} categories ({', '.join(row['name'] for row in rows[:5])}, ...): "
            "give matching names with --labels"
        )
    ids = tuple(hit[0] if hit else None for hit in found)
    names = tuple(hit[1] if hit else label for hit, label in zip(found, labels, strict=True))
    return LabelMap(ids, names, unmatched)
