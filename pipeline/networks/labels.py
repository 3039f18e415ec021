"""From a model's labels to a dataset's categories, by name; the one place that knows names are spelled in two ways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class Category:
    """A category that a name stands for."""

    category_id: int
    name: str


def by_name(names: Sequence[str], categories: pa.Table, what: str) -> list[Category | None]:
    """Find the category of each name: the one written the same, else the only one spelled alike; None = no such category.

    A category that one of `names` has exactly is not given to another that is only spelled alike. Names that occur as
    often as categories written the same stand for these in order.

    Args:
        names: what to look for, such as a model's labels.
        categories: rows of `tables.CATEGORIES`.
        what: what the names are, for the message: "label".

    Raises:
        ConfigError: a name could be two categories, or two different names one.
    """
    pairs = zip(*(categories[column].to_pylist() for column in ("category_id", "name")), strict=True)
    known = [Category(number, name) for number, name in pairs]
    exact, alike = _grouped(known, lambda name: name), _grouped(known, spelling)
    counts = Counter(names)
    chosen = {name: _exactly(exact[name], count, what) for name, count in counts.items() if name in exact}
    taken = {category.category_id for same in chosen.values() for category in same}
    claims: dict[int, str] = {}
    for name in counts:
        candidates = [c for c in alike.get(spelling(name), ()) if c.category_id not in taken]
        if name in chosen or name in NO_CATEGORY or not candidates:
            continue
        if len(candidates) > 1:
            raise ConfigError(_doubt(what, name, candidates))
        other = claims.setdefault(candidates[0].category_id, name)
        if other != name:
            raise ConfigError(
                f"the {what}s {other!r} and {name!r} could both be the category {_listed(candidates)}: "
                "write the one that is meant as the category is written"
            )
        chosen[name] = [candidates[0]] * counts[name]
    left = {name: iter(found) for name, found in chosen.items()}
    return [next(left[name]) if name in left else None for name in names]


def _grouped(categories: Sequence[Category], key: Callable[[str], str]) -> dict[str, list[Category]]:
    groups: dict[str, list[Category]] = {}
    for category in categories:
        groups.setdefault(key(category.name), []).append(category)
    return groups


def _exactly(same: list[Category], count: int, what: str) -> list[Category]:
    """The categories, all written the same, of `count` names written so too."""
    if len(same) == 1:
        return same * count
    if len(same) != count:
        raise ConfigError(_doubt(what, same[0].name, same))
    return same


def _doubt(what: str, name: str, candidates: Sequence[Category]) -> str:
    remedy = "give the categories names of their own" if len({c.name for c in candidates}) == 1 else "write one of them"
    return f"the {what} {name!r} could be any of the categories {_listed(candidates)}: {remedy}"


def _listed(categories: Sequence[Category]) -> str:
    return ", ".join(f"{category.category_id} {category.name!r}" for category in categories)


def match(labels: Sequence[str], categories: pa.Table) -> LabelMap:
    """Map labels to categories by name; to their own numbers where the dataset has no categories.

    Args:
        labels: name of each label of the model, the background's included.
        categories: rows of `tables.CATEGORIES`.

    Raises:
        ConfigError: not one label names a category, or one could be two categories.
    """
    if categories.num_rows == 0:
        return LabelMap(tuple(range(len(labels))), tuple(labels), ())
    hits = by_name(labels, categories, "label")
    unmatched = tuple(
        label for label, hit in zip(labels, hits, strict=True) if hit is None and label not in NO_CATEGORY
    )
    if not any(hits):
        known = categories["name"].to_pylist()
        raise ConfigError(
            f"none of the model's {len(unmatched)} labels ({_some(unmatched)}) names one of the "
            f"dataset's {len(known)} categories ({_some(known)}): give matching names with --labels"
        )
    ids = tuple(hit.category_id if hit else None for hit in hits)
    names = tuple(hit.name if hit else label for hit, label in zip(hits, labels, strict=True))
    return LabelMap(ids, names, unmatched)


def _some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, with an ellipsis if there are more."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])
