"""What the pixel values of all masks of a dataset stand for: classes or objects, void, and values that nobody drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline.annotations.categories import ById, note_unused, table
from shardlens.pipeline.annotations.label_scheme import LabelScheme, MaskKind
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.annotations.source import Categorized
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.warehouse import tables

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

VOID = 255
OBJECTS = 3
"""Ids that a mask has at least somewhere, if 8-bit masks are to be taken for ids of objects."""
THIN = 2.5
"""Values whose pixels are at most so many times half the outline of their box (width + height) are edges, not areas."""
EDGES = 3
"""Values at edges from which masks look interpolated, if they are also half of all values."""


@dataclass(frozen=True)
class ByValue:
    """Settles the rows of `MaskParser`, whose `category_id` is a pixel value.

    Semantic masks: a value is its category's id. Where no values are named as void, 255 is void (not scored) as in Pascal
    VOC and Cityscapes, unless larger values occur; where it is the only value besides the background, the masks are
    black and white drawings, and it is the one class, 1. Instance masks: each value is an object; 255 in a palette is void, as in
    Pascal VOC's SegmentationObject.
    """

    kind: MaskKind = "auto"
    scheme: LabelScheme = field(default_factory=LabelScheme)
    named_instances: bool = False
    """Whether the masks' file names are those of instance masks."""

    def __call__(self, annotations: pa.Table, problems: Problems) -> Categorized:
        """Decide the kind from all masks, then name the values."""
        rows = _Rows.of(annotations)
        kind = self.kind if self.kind != "auto" else _judged(rows, self, problems)
        if kind == "instance":
            return self._instances(annotations, rows, problems)
        return self._regions(_set(annotations, "bbox", pa.nulls(annotations.num_rows, tables.BBOX)), rows, problems)

    def _instances(self, annotations: pa.Table, rows: _Rows, problems: Problems) -> Categorized:
        name = object_name(self.scheme)
        void = rows.values == VOID
        void = np.isin(rows.values, list(self.scheme.void)) if self.scheme.void is not None else void & rows.palette
        kinds = np.where(void, "region", "instance")
        boxes = pc.if_else(pa.array(~void), annotations["bbox"].combine_chunks(), pa.scalar(None, tables.BBOX))
        settled = _set(annotations, "category_id", pa.array(np.ones(len(void), np.int64), mask=void))
        settled = _set(_set(settled, "kind", pa.array(kinds)), "ignore", pa.array(void))
        return ById(table((name,)))(_set(settled, "bbox", boxes), problems)

    def _regions(self, annotations: pa.Table, rows: _Rows, problems: Problems) -> Categorized:
        values = rows.values.copy()
        names = self.scheme.names
        _report_edges(rows, self.scheme, problems)
        void = self._void(values, problems)
        if set(values.tolist()) == {VOID} and len(names) < 2 and self.scheme.void is None:
            values[:] = min(names, default=1)
            problems.note(f"255 is the only value of the masks: it is the one class, {min(names, default=1)}")
        unscored = np.isin(values, list(void))
        settled = _set(annotations, "category_id", pa.array(values, mask=unscored))
        settled = _set(settled, "ignore", pa.array(unscored))
        there = sorted(set(values[~unscored].tolist()))
        classes = names or {value: f"class {value}" for value in there}
        listed = [{"category_id": value, "name": name} for value, name in sorted(classes.items())]
        if names:
            note_unused([name for value, name in names.items() if value not in there], len(names), problems)
        return ById(tables.from_rows(listed, tables.CATEGORIES))(settled, problems)

    def _void(self, values: Ints, problems: Problems) -> frozenset[int]:
        if self.scheme.void is not None:
            return self.scheme.void
        there, names = set(values.tolist()), self.scheme.names
        if VOID not in there or max(there) > VOID or VOID in names or len(names) >= VOID:
            return frozenset()
        if there == {VOID} and len(names) < 2:
            return frozenset()
        problems.note("255 is void: its pixels are not scored (--void none makes it a class)")
        return frozenset({VOID})


def object_name(scheme: LabelScheme) -> str:
    """Name of the category of instance masks.

    Raises:
        ConfigError: there are several.
    """
    names = list(scheme.names.values())
    if len(names) > 1:
        raise ConfigError(
            f"instance masks hold no classes, and {len(names)} names were given with --classes: "
            "expected one at most; if the pixels are class ids use --mask-kind semantic"
        )
    return names[0] if names else "object"


@dataclass(frozen=True)
class _Rows:
    """The provisional rows, as columns."""

    image: Ints
    values: Ints
    deep: Mask
    palette: Mask
    parts: Ints
    thickness: Floats
    """Pixels over half the outline of the box."""
    area: Floats

    @classmethod
    def of(cls, annotations: pa.Table) -> _Rows:
        traits = [str(trait).split() for trait in annotations["category"].to_pylist()]
        depth = np.array([trait[0] for trait in traits], dtype=object)
        sides = [pc.struct_field(annotations["bbox"], side).to_numpy() for side in ("width", "height")]
        area = annotations["area"].to_numpy()
        return cls(
            annotations["image_id"].to_numpy(),
            annotations["category_id"].to_numpy().astype(np.int64),
            depth == "deep",
            depth == "palette",
            np.array([int(trait[1]) for trait in traits], np.int64),
            area / np.maximum(1, sides[0] + sides[1]),
            area,
        )


def _judged(rows: _Rows, asked: ByValue, problems: Problems) -> Literal["semantic", "instance"]:
    """Decide the kind: of 16 bits and more instance ids; of 8 bits class ids, unless all masks count their objects."""
    if rows.deep.any():
        plain = len(set(rows.image[~rows.deep].tolist()))
        if plain:
            deep = len(set(rows.image[rows.deep].tolist()))
            text = f"{plain} masks of 8 bits and {deep} of 16; --mask-kind semantic takes all values for class ids"
            problems.add("mixed-masks", plain, [text])
        return "instance"
    if len(asked.scheme.names) > 1 or asked.scheme.colors or asked.scheme.threshold is not None:
        return "semantic"
    if asked.named_instances:
        problems.note("the masks are named as masks of instances: their values are ids of objects")
        return "instance"
    if _count_objects(rows):
        problems.note(
            "the values of every mask count 1, 2, ... without a gap and form one piece each: they are taken for ids of "
            "objects (--mask-kind semantic takes them for class ids)"
        )
        return "instance"
    return "semantic"


def _count_objects(rows: _Rows) -> bool:
    """Whether the values of each mask are 1 to n, n differing from mask to mask, and nearly all in one piece."""
    void = rows.palette & (rows.values == VOID)
    image, values = rows.image[~void], rows.values[~void]
    if not len(values):
        return False
    owners, counts = np.unique(image, return_counts=True)
    last, first = (np.zeros(len(owners), np.int64), np.full(len(owners), np.iinfo(np.int64).max))
    place = np.searchsorted(owners, image)
    np.maximum.at(last, place, values)
    np.minimum.at(first, place, values)
    gapless = bool(((first == 1) & (last == counts)).all())
    return (
        gapless and len(set(counts.tolist())) > 1 and last.max() >= OBJECTS and (rows.parts[~void] == 1).mean() > 0.95
    )


def _report_edges(rows: _Rows, scheme: LabelScheme, problems: Problems) -> None:
    """Report masks with values that only lie along edges, as resizing and JPEG make them between two classes."""
    if scheme.threshold is not None:
        return
    values, places = np.unique(rows.values, return_inverse=True)
    counts = np.bincount(places, minlength=len(values))
    thin = np.bincount(places, rows.thickness, len(values)) / np.maximum(counts, 1) <= THIN
    thin &= ~np.isin(values, [*scheme.names, *(scheme.void or ())])
    if thin.sum() < EDGES or 2 * thin.sum() < len(values) or thin.all():
        return
    at_edges = thin[places]
    images = len(set(rows.image[at_edges].tolist()))
    share = rows.area[at_edges].sum() / rows.area.sum()
    problems.add(
        "interpolated-mask",
        images,
        [
            f"{int(thin.sum())} values, such as {_few(values[thin].tolist())}, lie along edges alone ({share:.1%} of the drawn "
            f"pixels): for black and white masks use --mask-threshold 128, else resize masks without interpolation"
        ],
    )


def _few(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")


def _set(annotations: pa.Table, name: str, column: pa.Array) -> pa.Table:
    place = annotations.schema.names.index(name)
    return annotations.set_column(place, tables.ANNOTATIONS.field(name), column)
