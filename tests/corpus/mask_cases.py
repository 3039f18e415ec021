"""Mask images."""

from __future__ import annotations

import numpy as np

from tests.annotations.tiny import png
from tests.corpus.case import Case, Given, Ingested
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


CASES = [
    Case(
        "usual", lambda: masks_given(square(3)), Ingested({"annotations.category_id": [3], "annotations.area": [400]})
    ),
    Case(
        "instance-ids",
        lambda: masks_given(square(300, np.uint16)),
        Ingested({"annotations.kind": ["instance"], "annotations.category": ["object"]}),
    ),
]
