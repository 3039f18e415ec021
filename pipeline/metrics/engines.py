"""The engines of the COCO metrics: match a shard's predictions to its truth, then accumulate over all shards.

Both give pycocotools' arrays to the bit, whatever the shards and their order, since what is accumulated is put in the
order of the images' positions first: pycocotools sorts by score and leaves equal scores as it finds them.
Protocol: https://cocodataset.org/#detection-eval
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import hotcoco
import numpy as np
from pycocotools.cocoeval import COCOeval, Params

from shardlens.pipeline.metrics import partials
from shardlens.pipeline.metrics.objects import Floats, Ints, IouType, Objects
from shardlens.pipeline.metrics.rules import MAX_DETS, EngineName

THRESHOLDS: Floats = np.asarray(Params("bbox").iouThrs)
"""IoU 0.50, 0.55, ..., 0.95, to the bit those of pycocotools."""
RECALLS: Floats = np.asarray(Params("bbox").recThrs)
"""Recall 0, 0.01, ..., 1."""
AREAS = {"all": (0.0, 1e5**2), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e5**2)}
"""Areas in pixels, both ends included."""


@dataclass(frozen=True)
class Accumulated:
    """pycocotools' arrays: T = 10 IoUs, R = 101 recalls, K categories, A = 4 areas, M = 3 limits; -1 = undefined."""

    precision: Floats
    """(T, R, K, A, M)."""
    recall: Floats
    """(T, K, A, M)."""
    scores: Floats
    """(T, R, K, A, M): the score at which the recall is reached."""


@dataclass(frozen=True)
class Match:
    """What is matched."""

    iou_type: IouType
    categories: int
    """How many there are."""
    limits: tuple[int, int, int] = MAX_DETS
    """Predictions of an image and category that count, the best first: the three limits of AR."""


class Engine(Protocol):
    """Matching in two halves."""

    @property
    def name(self) -> str:
        """What it is called, with its version: states of one version are not read by another."""
        ...

    def match(self, about: Match, images: Ints, truth: Objects, found: Objects) -> bytes:
        """Match the objects of a shard; `images` are the positions of all its images, empty ones too."""
        ...

    def accumulate(self, about: Match, states: Sequence[bytes]) -> Accumulated:
        """Put the states of all shards, in any order, together."""
        ...


class Hotcoco:
    """hotcoco: pycocotools' protocol in Rust, about a hundred times faster."""

    name = f"hotcoco-{version('hotcoco')}"

    def match(self, about: Match, images: Ints, truth: Objects, found: Objects) -> bytes:
        """See `Engine`."""
        stream = _stream(about)
        rows = np.column_stack([found.image, _measuring(found), found.score, found.category + 1])
        segmentation = {} if found.masks is None else {"segmentation": found.masks}
        stream.update([{"id": i} for i in images.tolist()], _dicts(truth), rows, **segmentation)
        return bytes(stream.to_bytes())

    def accumulate(self, about: Match, states: Sequence[bytes]) -> Accumulated:
        """See `Engine`."""
        streams = [hotcoco.StreamingEval.from_bytes(state) for state in states] or [_stream(about)]
        evaluation = hotcoco.StreamingEval.merge(streams).finalize()
        evaluation.accumulate()
        return _accumulated(evaluation.eval or {})


def _stream(about: Match) -> Any:
    named = [{"id": k + 1, "name": str(k + 1)} for k in range(about.categories)]
    params = hotcoco.Params(about.iou_type)
    params.max_dets = list(about.limits)
    return hotcoco.StreamingEval(named, about.iou_type, params=params)


def _measuring(found: Objects) -> Floats:
    """(N, 4) boxes as hotcoco takes them in an array: it measures a prediction's area on its box, even for masks."""
    if found.masks is None:
        return found.boxes_xywh
    corner, one = np.zeros(len(found)), np.ones(len(found))
    return np.column_stack([corner, corner, found.area, one])


class Pycocotools:
    """pycocotools: the reference, in Python."""

    name = f"pycocotools-{version('pycocotools')}"

    def match(self, about: Match, images: Ints, truth: Objects, found: Objects) -> bytes:
        """See `Engine`."""
        # evaluate() is taken apart here: it prints, and wants a COCO object where two dicts do
        evaluation = _evaluation(about, images.tolist())
        evaluation._gts, evaluation._dts = defaultdict(list), defaultdict(list)
        for row in _dicts(truth):
            evaluation._gts[row["image_id"], row["category_id"]].append({**row, "ignore": row["iscrowd"]})
        for row in _dicts(found):
            evaluation._dts[row["image_id"], row["category_id"]].append(row)
        pairs = sorted({*evaluation._gts, *evaluation._dts})  # the indexing below adds the missing ones of either
        evaluation.ious = {pair: evaluation.computeIoU(*pair) for pair in pairs}
        cells = [(i, k, a) for i, k in pairs for a in range(len(AREAS))]
        ranges = evaluation.params.areaRng
        return _pack_cells(cells, [evaluation.evaluateImg(i, k, ranges[a], about.limits[-1]) for i, k, a in cells])

    def accumulate(self, about: Match, states: Sequence[bytes]) -> Accumulated:
        """See `Engine`."""
        cells = {cell: result for state in states for cell, result in _unpack_cells(state)}
        images = sorted({image for image, _, _ in cells})
        evaluation = _evaluation(about, images)
        evaluation._paramsEval = evaluation.params
        evaluation.evalImgs = [
            cells.get((i, k, a)) for k in range(1, about.categories + 1) for a in range(len(AREAS)) for i in images
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        return _accumulated(evaluation.eval)


def _evaluation(about: Match, images: list[int]) -> Any:
    evaluation = COCOeval(iouType=about.iou_type)
    evaluation.params.imgIds = images
    evaluation.params.catIds = list(range(1, about.categories + 1))
    evaluation.params.maxDets = list(about.limits)
    return evaluation


Cell = tuple[int, int, int]
"""Image position, category (from 1), index of the area."""


def _pack_cells(cells: list[Cell], results: list[Any]) -> bytes:
    """Flatten the results of `evaluateImg`, what `accumulate` reads of them, into arrays."""

    def joined(name: str, axis: int, kind: type) -> Any:
        empty: Any = np.zeros((len(THRESHOLDS), 0) if axis else 0, kind)
        return np.concatenate([empty, *(np.asarray(result[name], dtype=kind) for result in results)], axis=axis)

    arrays = {
        "cells": np.array(cells, dtype=np.int64).reshape(-1, 3),
        "found": np.array([len(result["dtScores"]) for result in results], dtype=np.int64),
        "truth": np.array([len(result["gtIgnore"]) for result in results], dtype=np.int64),
        "dtScores": joined("dtScores", 0, np.float64),
        "dtMatches": joined("dtMatches", 1, np.bool_),
        "dtIgnore": joined("dtIgnore", 1, np.bool_),
        "gtIgnore": joined("gtIgnore", 0, np.bool_),
    }
    return partials.pack({"cells": arrays})


def _unpack_cells(state: bytes) -> list[tuple[Cell, dict[str, Any]]]:
    arrays = partials.unpack(state)["cells"]
    cuts = {side: np.cumsum(arrays[side])[:-1] for side in ("found", "truth")}
    split = {name: np.split(arrays[name], cuts["found"], axis=-1) for name in ("dtScores", "dtMatches", "dtIgnore")}
    split["gtIgnore"] = np.split(arrays["gtIgnore"], cuts["truth"])
    results = [dict(zip(split, parts, strict=True)) for parts in zip(*split.values(), strict=True)]
    cells: list[Cell] = [(i, k, a) for i, k, a in arrays["cells"].tolist()]
    return list(zip(cells, results, strict=False))  # np.split gives one empty part for no cells


def _dicts(objects: Objects) -> list[dict[str, Any]]:
    """Rows as both engines take them; ids count from 1, since pycocotools takes a match with id 0 for none."""
    columns = zip(
        range(1, len(objects) + 1),
        objects.image.tolist(),
        (objects.category + 1).tolist(),
        objects.boxes_xywh.tolist(),
        objects.area.tolist(),
        objects.score.tolist(),
        objects.crowd.astype(int).tolist(),
        strict=True,
    )
    keys = ("id", "image_id", "category_id", "bbox", "area", "score", "iscrowd")
    rows: list[dict[str, Any]] = [dict(zip(keys, row, strict=True)) for row in columns]
    for row, mask in zip(rows, objects.masks or (), strict=False):
        row["segmentation"] = mask
    return rows


def _accumulated(arrays: Mapping[str, Any]) -> Accumulated:
    return Accumulated(*(np.asarray(arrays[name]) for name in ("precision", "recall", "scores")))


ENGINES: Mapping[EngineName, Engine] = {"hotcoco": Hotcoco(), "pycocotools": Pycocotools()}
