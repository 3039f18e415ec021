"""From a model's output to rows: boxes, instances and regions in the stored image's frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from pipeline import masks, tables
from pipeline.categories import LabelMap
from pipeline.decode import Decoded, mask_to_stored_frame, to_stored_frame
from pipeline.fetch import Failure
from pipeline.masks import Rle


@dataclass(frozen=True)
class ImageRows:
    """What a model found in one image, best first."""

    kind: str
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    boxes_xywh: npt.NDArray[np.float64]
    """(N, 4) x, y, width, height in pixels of the stored image."""
    rles: tuple[Rle, ...] = ()
    """A mask for each row; empty for boxes."""


def from_detection(output: Mapping[str, Tensor], decoded: Decoded, threshold: float | None) -> ImageRows:
    """Take the rows of one image from a detection or instance model.

    Args:
        output: boxes (N, 4) xyxy, labels (N,), scores (N,); and masks (N, 1, H, W), or box_masks (N, 1, M, M) to be
            stretched over the boxes, as probabilities; pixels of the upright image.
        threshold: the lowest score kept; None = all.

    Raises:
        FloatingPointError: a score or a box is not finite.
    """
    boxes = output["boxes"].double().cpu().numpy()
    scores = output["scores"].double().cpu().numpy()
    labels = output["labels"].cpu().numpy()
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        raise FloatingPointError(
            f"the model gave {int((~np.isfinite(scores)).sum())} scores that are not finite numbers"
        )
    order = np.argsort(-scores, kind="stable")
    if threshold is not None:
        order = order[scores[order] >= threshold]
    stored = to_stored_frame(boxes[order], decoded)
    xywh = np.concatenate([stored[:, :2], stored[:, 2:] - stored[:, :2]], axis=1)
    if "box_masks" in output:
        drawn = output["box_masks"][:, 0].float().cpu().numpy()
        height, width = decoded.pixels.shape[:2]
        found = tuple(_turned(masks.paste(drawn[i], boxes[i], height, width), decoded.orientation) for i in order)
        return ImageRows("instance", labels[order], scores[order], xywh, found)
    if "masks" in output:
        whole = (output["masks"][:, 0] > 0.5).cpu().numpy()
        found = tuple(masks.encode(mask_to_stored_frame(whole[i], decoded.orientation)) for i in order)
        return ImageRows("instance", labels[order], scores[order], xywh, found)
    return ImageRows("box", labels[order], scores[order], xywh)


def _turned(rle: Rle, orientation: int) -> Rle:
    """Carry a mask of the upright image into the stored image's frame."""
    return rle if orientation == 1 else masks.encode(mask_to_stored_frame(masks.decode(rle), orientation))


def from_semantic(logits_khw: Tensor, decoded: Decoded) -> ImageRows:
    """Take one region a class from a semantic model; its score is the mean probability over its pixels.

    Args:
        logits_khw: (K, H, W) at the upright image's size; class 0 is the background and gives no row.
    """
    if not torch.isfinite(logits_khw).all():
        raise FloatingPointError("the model gave logits that are not finite numbers")
    probability, classes = logits_khw.float().softmax(0).max(0)
    present = [int(c) for c in torch.unique(classes).tolist() if c != 0]
    scores = np.array([float(probability[classes == c].double().mean()) for c in present])
    order = np.argsort(-scores, kind="stable")
    stored = mask_to_stored_frame(classes.cpu().numpy(), decoded.orientation)
    regions = masks.regions(stored, present)
    rles = tuple(regions[present[i]] for i in order)
    boxes = np.array([masks.bbox(rle) for rle in rles], dtype=np.float64).reshape(-1, 4)
    return ImageRows("region", np.array(present, dtype=np.int64)[order], scores[order], boxes, rles)


def predictions_table(found: Mapping[int, ImageRows], labels: LabelMap) -> pa.Table:
    """Lay the rows of a shard out as `tables.PREDICTIONS`, by image_id, then rank."""
    ordered = sorted(found.items())
    sizes = [len(rows.labels) for _, rows in ordered]
    label = np.concatenate([rows.labels for _, rows in ordered] or [np.empty(0, np.int64)])
    boxes = np.concatenate([rows.boxes_xywh for _, rows in ordered] or [np.empty((0, 4))])
    rles = [rle for _, rows in ordered for rle in (rows.rles or (None,) * len(rows.labels))]
    areas = [masks.area(rle) if rle else width * height for rle, (_, _, width, height) in zip(rles, boxes, strict=True)]
    numbers = pa.array(label, pa.int64())
    columns = {
        "image_id": np.repeat(np.array([image for image, _ in ordered], dtype=np.int64), sizes),
        "rank": np.concatenate([np.arange(n, dtype=np.int32) for n in sizes] or [np.empty(0, np.int32)]),
        "category_id": pa.array(labels.ids, pa.int64()).take(numbers),
        "category": pa.array(labels.names, pa.string()).take(numbers),
        "kind": np.repeat(np.array([rows.kind for _, rows in ordered], dtype=object), sizes),
        "score": np.concatenate([rows.scores for _, rows in ordered] or [np.empty(0)]),
        "bbox": pa.StructArray.from_arrays([pa.array(boxes[:, i]) for i in range(4)], fields=list(tables.BBOX)),
        "area": areas,
        "segmentation": pa.array(
            [None if rle is None else {"size": [rle.height, rle.width], "counts": rle.counts} for rle in rles],
            tables.RLE,
        ),
    }
    schema = tables.PREDICTIONS
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def outcomes_table(image_ids: Sequence[int], found: Mapping[int, ImageRows], failures: Iterable[Failure]) -> pa.Table:
    """One row an image: ok with its number of predictions, or quarantined and why."""
    failed = {failure.image_id: failure for failure in failures}
    rows = []
    for image_id in sorted(image_ids):
        failure = failed.get(image_id)
        if failure is None:
            rows.append({"image_id": image_id, "status": "ok", "predictions": len(found[image_id].labels)})
        else:
            why = {"stage": failure.stage, "error": failure.error, "message": failure.message}
            rows.append({"image_id": image_id, "status": "quarantined", "predictions": 0, **why})
    return tables.from_rows(rows, tables.OUTCOMES)
