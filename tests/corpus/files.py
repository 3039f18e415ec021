"""What the cases are made of: images of 80 x 60 pixels, COCO documents, VOC files, masks, tars."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.annotations.tiny import coco
from tests.corpus.case import Given
from tests.drawn_images import encode, picture

WIDTH, HEIGHT = 80, 60


def jpeg(seed: int = 0) -> bytes:
    """A JPEG of 80 x 60 pixels."""
    return encode(picture(HEIGHT, WIDTH, seed))


def entry(image_id: Any = 1, file_name: Any = "a.jpg", **columns: Any) -> dict[str, Any]:
    """An image of a COCO document; a column of `...` is left out."""
    return _without({"id": image_id, "file_name": file_name, "width": WIDTH, "height": HEIGHT, **columns})


def note(annotation_id: Any = 1, **columns: Any) -> dict[str, Any]:
    """An annotation of a COCO document, of the image 1; a column of `...` is left out."""
    usual = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
    return _without({"id": annotation_id, **usual, **columns})


def _without(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in columns.items() if value is not ...}


def result(**columns: Any) -> dict[str, Any]:
    """An entry of a COCO results file, as `note` has it; a column of `...` is left out."""
    usual = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.9}
    return _without({**usual, **columns})


def coco_given(
    images: list[Any] | None = None,
    annotations: list[Any] | None = None,
    categories: Sequence[tuple[Any, Any]] = ((1, "cat"), (7, "dog")),
    files: Mapping[str, bytes] | None = None,
    **settings: Any,
) -> Given:
    """Images below images/, a.jpg unless said otherwise, and an instances file; `settings` are those of the ingest."""
    document = coco(images or [entry()], [note()] if annotations is None else annotations, categories)
    return json_given(json.dumps(document).encode(), files, **settings)


def json_given(data: bytes, files: Mapping[str, bytes] | None = None, **settings: Any) -> Given:
    """Images below images/, and an instances file of these bytes."""
    there = {"images/a.jpg": jpeg()} if files is None else files
    asked = {"images": "images", "annotations": "instances.json", **settings}
    return Given({**there, "instances.json": data}, asked)


def results_given(results: Any, given: Given | None = None, **settings: Any) -> Given:
    """A results file for a dataset, of one image with a cat unless `given` says otherwise."""
    base = given or coco_given()
    return Given(base.files, base.ingest, results, settings)
