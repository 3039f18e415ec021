"""A dataset of drawn shapes: discs, squares and triangles, as COCO JSON and as mask PNGs, the same for the same seed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

CATEGORIES = ("disc", "square", "triangle")
CORNERS = {"disc": 32, "square": 4, "triangle": 3}
PAINTS = ((230, 110, 100), (110, 220, 120), (120, 140, 235))
"""Mean color of each category: reddish, greenish, bluish, so that a small network learns them in a minute."""
LARGEST_OVERLAP = 0.15
"""Share of a shape that another may hide; a shape placed worse is left out."""


@dataclass(frozen=True)
class Shape:
    """One drawn object."""

    category: int
    """1 disc, 2 square, 3 triangle."""
    polygon: tuple[tuple[float, float], ...]
    """Corners, x and y in pixels."""
    color: tuple[int, int, int]


def draw_dataset(folder: Path, images: dict[str, int], size: int = 128, seed: int = 0) -> None:
    """Draw a dataset below `folder`.

    For each split: `<split>/images/*.png` (RGB), `<split>/masks/*.png` (8 bits, class id, 0 = background),
    `<split>/instances/*.png` (16 bits, number of the object, 0 = none) and `instances_<split>.json` (COCO).

    Args:
        images: number of images by split.
        size: height and width in pixels.
    """
    first_image, first_object = 1, 1
    for number, (split, count) in enumerate(images.items()):
        rng = np.random.default_rng([seed, number])
        for kind in ("images", "masks", "instances"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        document: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i + 1, "name": name, "supercategory": "shape"} for i, name in enumerate(CATEGORIES)],
        }
        for image_id in range(first_image, first_image + count):
            _draw_image(folder / split, image_id, first_object, size, rng, document)
        (folder / f"instances_{split}.json").write_text(json.dumps(document))
        first_image += count
        first_object += len(document["annotations"])


def _draw_image(
    folder: Path, image_id: int, first_object: int, size: int, rng: np.random.Generator, document: dict[str, Any]
) -> None:
    """Draw one image with its two masks, and note it in the COCO document, whose objects count from `first_object`."""
    name = f"{image_id:06d}.png"
    picture = Image.fromarray(_background(size, rng))
    instances = Image.new("I", (size, size))
    classes = Image.new("L", (size, size))
    for shape in _shapes(size, rng):
        ImageDraw.Draw(picture).polygon(shape.polygon, fill=shape.color)
        number = first_object + len(document["annotations"])
        ImageDraw.Draw(instances).polygon(shape.polygon, fill=number)
        ImageDraw.Draw(classes).polygon(shape.polygon, fill=shape.category)
        document["annotations"].append(_annotation(shape, number, image_id))
    noise = rng.normal(0, 6, (size, size, 3))
    pixels = np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "images" / name)
    classes.save(folder / "masks" / name)
    ids = np.asarray(instances)
    _, ids = np.unique(np.concatenate([[0], ids.ravel()]), return_inverse=True)
    Image.fromarray(ids[1:].reshape(size, size).astype(np.uint16)).save(folder / "instances" / name)
    document["images"].append({"id": image_id, "file_name": name, "width": size, "height": size})


def _background(size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A soft, dim pattern, (size, size, 3)."""
    coarse = Image.fromarray(rng.integers(20, 110, (5, 5, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _shapes(size: int, rng: np.random.Generator) -> list[Shape]:
    """One to five shapes that hide little of each other."""
    placed: list[Shape] = []
    taken = np.zeros((size, size), bool)
    for _ in range(int(rng.integers(1, 6))):
        shape = _shape(size, rng)
        canvas = Image.new("1", (size, size))
        ImageDraw.Draw(canvas).polygon(shape.polygon, fill=1)
        pixels = np.asarray(canvas)
        if (pixels & taken).sum() <= LARGEST_OVERLAP * 0.5 * pixels.sum():
            placed.append(shape)
            taken |= pixels
    return placed


def _shape(size: int, rng: np.random.Generator) -> Shape:
    category = int(rng.integers(1, 4))
    radius = float(rng.uniform(0.09, 0.2)) * size
    x, y = rng.uniform(radius, size - radius, 2)
    turn = rng.uniform(0, 2 * math.pi)
    corners = CORNERS[CATEGORIES[category - 1]]
    angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
    polygon = tuple((round(x + radius * math.cos(a), 2), round(y + radius * math.sin(a), 2)) for a in angles)
    red, green, blue = (int(c) for c in np.clip(PAINTS[category - 1] + rng.normal(0, 25, 3), 0, 255))
    return Shape(category, polygon, (red, green, blue))


def _annotation(shape: Shape, number: int, image_id: int) -> dict[str, Any]:
    xs, ys = zip(*shape.polygon, strict=True)
    pairs = zip(shape.polygon, (*shape.polygon[1:], shape.polygon[0]), strict=True)
    area = abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)) / 2
    return {
        "id": number,
        "image_id": image_id,
        "category_id": shape.category,
        "iscrowd": 0,
        "bbox": [min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)],
        "area": area,
        "segmentation": [[round(v, 2) for point in shape.polygon for v in point]],
    }
