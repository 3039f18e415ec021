"""Mask images."""

from __future__ import annotations

import numpy as np

from tests.annotations.tiny import png
from tests.corpus.case import Case, Given, Ingested, Refused
from tests.corpus.files import HEIGHT, WIDTH, jpeg


def square(value: int, kind: type = np.uint8) -> np.ndarray:
    """(H, W): a square of 20 x 20 pixels of `value` in zeros."""
    ids_hw = np.zeros((HEIGHT, WIDTH), kind)
    ids_hw[10:30, 10:30] = value
    return ids_hw


def masks_given(*masks: np.ndarray, **settings: object) -> Given:
    """Images a, b, ... and their masks in folders side by side."""
    names = "abcdef"[: len(masks)]
    files = {f"set/images/{name}.jpg": jpeg(i) for i, name in enumerate(names)}
    files |= {f"set/masks/{name}.png": png(mask) for name, mask in zip(names, masks, strict=True)}
    return Given(files, {"images": "set", **settings})


def _first_unreadable() -> Given:
    given = masks_given(square(1), square(1))
    return Given({**given.files, "set/masks/a.png": b"text"}, given.ingest)


def _classes_and_instances() -> Given:
    given = masks_given(square(1), square(2), classes="cat,dog")
    return Given(
        {**given.files, **{f"set/instances/{name}.png": png(square(7, np.uint16)) for name in "ab"}}, given.ingest
    )


def _images_below_annotations() -> Given:
    given = masks_given(square(1))
    return Given(given.files, {"images": "set/images", "annotations": "set", "format": "masks"})


CASES = [
    Case(
        "usual", lambda: masks_given(square(3)), Ingested({"annotations.category_id": [3], "annotations.area": [400]})
    ),
    Case(
        "instance-ids",
        lambda: masks_given(square(300, np.uint16)),
        Ingested({"annotations.kind": ["instance"], "annotations.category": ["object"]}),
    ),
    Case(
        "one-of-another-size",
        lambda: masks_given(square(3), square(3)[:, 1:]),
        Ingested(
            {"images.flags": [[], ["size-mismatch", "mask-of-another-size"]]},
            {"size-mismatch": 1, "mask-of-another-size": 1},
        ),
    ),
    Case(
        "background-named",
        lambda: masks_given(square(1), square(2), classes="background,cat,dog"),
        Ingested({"annotations.category": ["cat", "dog"], "categories.category_id": [1, 2]}),
    ),
    Case(
        "no-background",
        lambda: masks_given(square(11), void="11", first_id=0, classes="sky,road"),
        Ingested({"annotations.category": ["sky", None], "annotations.ignore": [False, True]}),
    ),
    Case("classes-and-instances", _classes_and_instances, Ingested({"annotations.category": ["cat", "dog"]})),
    Case(
        "images-below-annotations",
        _images_below_annotations,
        Refused("all 1 images below .* give the folder of the masks"),
    ),
    Case("first-unreadable", _first_unreadable, Ingested({"annotations.image_id": [2]}, {"unreadable-annotation": 1})),
]
