"""From a model's output to rows: boxes, instances and regions in the stored image's frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from shardlens.pipeline import masks
from shardlens.pipeline.images.decode import Decoded, Postponed
from shardlens.pipeline.images.orientation import mask_to_stored_frame, to_stored_frame
from shardlens.pipeline.images.shards import Failure, ImageRef
from shardlens.pipeline.inference.postprocess import Decision, PostProcessing, regions
from shardlens.pipeline.masks.rle import Rle
from shardlens.pipeline.masks.spans import Canvas, to_rle
from shardlens.pipeline.networks.labels import LabelMap
from shardlens.pipeline.warehouse import tables


@dataclass(frozen=True)
class ImageRows:
    """A model's predictions in one image, best first."""

    kind: str
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    boxes_xywh: npt.NDArray[np.float64]
    """(N, 4) x, y, width, height in pixels of the stored image."""
    rles: tuple[Rle, ...] = ()
    """A mask for each row; empty for boxes."""
    kinds: tuple[str, ...] = ()
    """Of each row, where they differ."""


def from_detection(output: Mapping[str, Tensor], image: Decoded | Postponed, threshold: float | None) -> ImageRows:
    """Take the rows of one image from a detection or instance model; boxes are clipped to the image.

    Args:
        output: boxes (N, 4) xyxy in the pixels of `image`, labels (N,), scores (N,); and masks (N, 1, H, W) of an image
            at its full scale, or box_masks (N, 1, M, M) to be stretched over the boxes, as probabilities.
        threshold: the lowest score kept; None keeps all.

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
    height, width = image.upright
    if image.shape != image.upright:
        boxes = boxes * ([width, height, width, height] / np.tile(image.shape[::-1], 2))
    clipped = np.clip(boxes, 0, [width, height, width, height])
    order = order[~_left_nothing(boxes, clipped)[order]]
    stored = to_stored_frame(clipped[order], image)
    xywh = np.concatenate([stored[:, :2], stored[:, 2:] - stored[:, :2]], axis=1)
    if "box_masks" in output:
        drawn = output["box_masks"][:, 0].float().cpu().numpy()
        rles = tuple(turned(masks.paste(drawn[i], boxes[i], height, width), image.orientation) for i in order)
        return ImageRows("instance", labels[order], scores[order], xywh, rles)
    if "masks" in output:
        full = (output["masks"][:, 0] > 0.5).cpu().numpy()
        rles = tuple(masks.encode(mask_to_stored_frame(full[i], image.orientation)) for i in order)
        return ImageRows("instance", labels[order], scores[order], xywh, rles)
    return ImageRows("box", labels[order], scores[order], xywh)


def _left_nothing(boxes_xyxy: npt.NDArray[np.float64], clipped_xyxy: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """(N,) whether a box has sides and lies outside the image."""
    empty = [np.asarray((boxes[:, 2:] <= boxes[:, :2]).any(axis=1)) for boxes in (clipped_xyxy, boxes_xyxy)]
    return empty[0] & ~empty[1]


def turned(rle: Rle, orientation: int) -> Rle:
    """Carry a mask of the upright image into the stored image's frame."""
    return rle if orientation == 1 else masks.encode(mask_to_stored_frame(masks.decode(rle), orientation))


def from_semantic(
    decision: Decision,
    image: Decoded | Postponed,
    postprocessing: PostProcessing = PostProcessing(),  # noqa: B008 - frozen
    background: bool = True,
) -> ImageRows:
    """Take one region a class, or one object a connected part, from the decision of a semantic model on an image.

    Args:
        decision: labels and probabilities (H, W) at the upright image's size.
        background: whether label 0 is the background, which gives no row; else it is a class like the others.
    """
    canvas = Canvas(image.height, image.width, background)
    classes, probability = decision
    turned = mask_to_stored_frame(classes, image.orientation)
    canvas.add(turned, mask_to_stored_frame(probability, image.orientation))
    return from_canvas(canvas, postprocessing)


def from_canvas(canvas: Canvas, postprocessing: PostProcessing) -> ImageRows:
    """The rows of a class map in the stored image's frame.

    A row's score is the mean probability over those of its pixels that the network itself gave its class.
    """
    kept = regions(canvas.spans(), postprocessing)
    scores = np.array([spans.score for _, spans in kept])
    order = np.argsort(-scores, kind="stable")
    rles = tuple(to_rle(kept[i][1]) for i in order)
    boxes = np.array([masks.bbox(rle) for rle in rles], dtype=np.float64).reshape(-1, 4)
    labels = np.array([label for label, _ in kept], dtype=np.int64)[order]
    return ImageRows("instance" if postprocessing.components else "region", labels, scores[order], boxes, rles)


def from_panoptic(output: Mapping[str, Tensor], image: Decoded | Postponed) -> ImageRows:
    """Take the segments of a panoptic map: things as instances, stuff as regions; no pixel lies in two.

    Args:
        output: panoptic (H, W) int64, the number of a pixel's segment, 0 = none; segment_labels, segment_scores and
            segment_things (S,) of the segments 1 to S.

    Raises:
        FloatingPointError: a score is not finite.
    """
    scores = output["segment_scores"].double().cpu().numpy()
    if not np.isfinite(scores).all():
        raise FloatingPointError("the model gave scores that are not finite numbers")
    order = np.argsort(-scores, kind="stable")
    stored = mask_to_stored_frame(output["panoptic"].cpu().numpy(), image.orientation)
    segments = masks.regions(stored, range(1, len(scores) + 1))
    rles = tuple(segments[i + 1] for i in order.tolist())
    boxes = np.array([masks.bbox(rle) for rle in rles], dtype=np.float64).reshape(-1, 4)
    things = output["segment_things"].cpu().numpy()[order]
    kinds = tuple("instance" if thing else "region" for thing in things.tolist())
    return ImageRows("instance", output["segment_labels"].cpu().numpy()[order], scores[order], boxes, rles, kinds)


def predictions_table(
    rows_by_image: Mapping[int, ImageRows], labels: LabelMap, file_names: Mapping[int, str] | None = None
) -> pa.Table:
    """Lay the rows of a shard out as `tables.PREDICTIONS`, by image_id, then rank."""
    names = file_names or {}
    ordered = sorted(rows_by_image.items())
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
        "kind": [kind for _, rows in ordered for kind in rows.kinds or (rows.kind,) * len(rows.labels)],
        "score": np.concatenate([rows.scores for _, rows in ordered] or [np.empty(0)]),
        "bbox": pa.StructArray.from_arrays([pa.array(boxes[:, i]) for i in range(4)], fields=list(tables.BBOX)),
        "area": areas,
        "segmentation": pa.array(
            [None if rle is None else {"size": [rle.height, rle.width], "counts": rle.counts} for rle in rles],
            tables.RLE,
        ),
        "file_name": [name for n, (image, _) in zip(sizes, ordered, strict=True) for name in n * [names.get(image)]],
    }
    schema = tables.PREDICTIONS
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def outcomes_table(
    images: Sequence[ImageRef], rows_by_image: Mapping[int, ImageRows], failures: Iterable[Failure]
) -> pa.Table:
    """One row an image: ok with its number of predictions, or quarantined and why."""
    failed = {failure.image_id: failure for failure in failures}
    rows = []
    for image in sorted(images, key=lambda image: image.image_id):
        failure = failed.get(image.image_id)
        which = {"image_id": image.image_id, "file_name": image.file_name, "etag": image.etag}
        if failure is None:
            rows.append({**which, "status": "ok", "predictions": len(rows_by_image[image.image_id].labels)})
        else:
            why = {"stage": failure.stage, "error": failure.error, "message": failure.message}
            rows.append({**which, "status": "quarantined", "predictions": 0, **why})
    return tables.from_rows(rows, tables.OUTCOMES)
