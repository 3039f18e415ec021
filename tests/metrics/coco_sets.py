"""Random sets for the COCO metrics: as COCO documents for pycocotools, and as Shardlens' tables."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from shardlens.pipeline import masks
from shardlens.pipeline.metrics.objects import Scope
from shardlens.pipeline.warehouse import tables

HEIGHT, WIDTH = 120, 150
CATEGORIES = (3, 5, 40, 41)


@dataclass(frozen=True)
class CocoSet:
    """Truth and predictions as COCO's documents have them."""

    image_ids: list[int]
    annotations: list[dict[str, Any]]
    predictions: list[dict[str, Any]]

    def scope(self, images=None):
        every = np.array(sorted(self.image_ids))
        chosen = every if images is None else np.array(sorted(images), dtype=np.int64)
        sizes = np.tile((HEIGHT, WIDTH), (len(chosen), 1))
        return Scope(chosen, np.searchsorted(every, chosen), sizes, np.array(CATEGORIES))

    def tables(self, kind):
        return (
            tables.from_rows([annotation_row(a, kind) for a in self.annotations], tables.ANNOTATIONS),
            tables.from_rows([prediction_row(p, kind) for p in self.predictions], tables.PREDICTIONS),
        )


def random_set(rng, with_masks=False, images=12):
    """Objects of all sizes and shifted copies of them as predictions; crowds, ties, empty images, no category 41."""
    ids = rng.choice(10_000, images, replace=False).tolist()
    annotations, predictions = [], []
    for image_id in ids:
        for _ in range(int(rng.integers(0, 7)) if rng.random() < 0.8 else 0):
            box, category = random_box(rng), int(rng.choice(CATEGORIES[:2]))
            annotations.append(annotation(len(annotations) + 1, image_id, category, box, rng.random() < 0.2))
            for _ in range(int(rng.integers(0, 4))):
                moved = box if rng.random() < 0.3 else shifted(box, rng)
                predictions.append(prediction(rng, image_id, category, moved))
        for _ in range(int(rng.integers(0, 4))):
            predictions.append(prediction(rng, image_id, int(rng.choice(CATEGORIES[:3])), random_box(rng)))
    chosen = CocoSet(ids, annotations, by_rank(predictions))
    return masked(chosen, rng) if with_masks else chosen


def random_box(rng):
    width, height = rng.uniform(2, rng.choice([12, 60, 115]), 2)
    corner = rng.uniform(0, [WIDTH - width, HEIGHT - height])
    return [float(v) for v in np.round([*corner, width, height], int(rng.integers(0, 3)))]


def shifted(box, rng):
    return [float(v) for v in np.maximum(np.round(np.array(box) + rng.normal(0, 2, 4), 1), 0.5)]


def annotation(number, image_id, category, box, crowd=False):
    area = box[2] * box[3] * 0.8
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": box,
        "area": area,
        "iscrowd": int(crowd),
    }


def prediction(rng, image_id, category, box):
    return {"image_id": image_id, "category_id": category, "bbox": box, "score": float(np.round(rng.random(), 1))}


def by_rank(predictions):
    """By image, then best first: the order of a prediction table."""
    return sorted(predictions, key=lambda p: (p["image_id"], -p["score"]))


def masked(coco_set, rng):
    """The same with an ellipse or a rectangle in each box."""
    for row in [*coco_set.annotations, *coco_set.predictions]:
        row["segmentation"] = shape(row["bbox"], rng.random() < 0.5)
    return coco_set


def shape(box, ellipse):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    across, down = (x - box[0]) / box[2], (y - box[1]) / box[3]
    if ellipse:
        inside = (across - 0.5) ** 2 + (down - 0.5) ** 2 <= 0.25
    else:
        inside = (across >= 0) & (across <= 1) & (down >= 0) & (down <= 1)
    return {"size": [HEIGHT, WIDTH], "counts": masks.encode(inside).counts}


def annotation_row(document, kind):
    flags = {"iscrowd": bool(document["iscrowd"]), "ignore": bool(document.get("ignore")), "flags": []}
    row = {key: document[key] for key in ("image_id", "category_id", "area")}
    return {
        **row,
        **flags,
        "annotation_id": document["id"],
        "kind": kind,
        "bbox": box_struct(document["bbox"]),
        "segmentation": document.get("segmentation"),
    }


def prediction_row(document, kind):
    row = {key: document[key] for key in ("image_id", "category_id", "score")}
    named = {"rank": 0, "category": str(document["category_id"]), "kind": kind}
    return {**row, **named, "bbox": box_struct(document["bbox"]), "segmentation": document.get("segmentation")}


def box_struct(box):
    return dict(zip(("x", "y", "width", "height"), box, strict=True))


def by_pycocotools(coco_set, task, protocol=COCOeval):
    """pycocotools as its own documents are scored: the oracle."""
    truth = [dict(row) for row in coco_set.annotations]
    found = [dict(row) for row in coco_set.predictions]
    if task == "segm":  # loadRes would measure the box of a mask that has one
        found = [{key: value for key, value in row.items() if key != "bbox"} for row in found]
    document = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in coco_set.image_ids],
        "categories": [{"id": c, "name": str(c)} for c in CATEGORIES],
        "annotations": truth,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = document
        coco.createIndex()
        evaluation = protocol(coco, coco.loadRes(found) if found else COCO(), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
