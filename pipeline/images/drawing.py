"""Boxes, masks and labels drawn on images, and sheets of such images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from shardlens.pipeline import masks
from shardlens.pipeline.errors import printable
from shardlens.pipeline.images.decode import Decoded
from shardlens.pipeline.images.orientation import boxes_xywh_to_stored_frame, inverse, rle_to_stored_frame
from shardlens.pipeline.masks import Rle

Rgb = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    *((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)),
    *((230, 159, 0), (86, 180, 233), (122, 81, 149), (140, 140, 0)),
)
"""Colors that the color-blind can tell apart, after Okabe and Ito, https://jfly.uni-koeln.de/color/."""
OPACITY = 0.45
"""Of a mask on its image."""
TALL = 4
"""A picture is at most so many times as tall as it may be wide: a panorama on edge would fill a sheet."""
GAP = 6
"""Pixels between the images of a sheet."""


@dataclass(frozen=True)
class Drawable:
    """An object or region, in the frame of the upright image."""

    label: str
    color: Color
    box_xywh: tuple[float, float, float, float] | None = None
    """x, y of the top left corner, width, height; pixels."""
    rle: Rle | None = None


def upright(row: Mapping[str, Any], image: Decoded, label: str, color: Color) -> Drawable:
    """A row of the predictions or annotations table, turned from the stored image's frame into the upright one."""
    turn = inverse(image.orientation)
    height, width = image.upright
    box, rle = None, None
    if row["bbox"] is not None and row["kind"] != "region":
        given = np.array([[row["bbox"][side] for side in ("x", "y", "width", "height")]], dtype=np.float64)
        box = tuple(boxes_xywh_to_stored_frame(given, turn, width, height)[0].tolist())
    if row["segmentation"] is not None:
        (high, wide), counts = row["segmentation"]["size"], row["segmentation"]["counts"]
        rle = rle_to_stored_frame(Rle(high, wide, counts), turn)
    return Drawable(label, color, box, rle)


def draw(pixels: Rgb, objects: Sequence[Drawable], width: int) -> Image.Image:
    """Draw objects on an image, scaled so that labels stay readable on images of any size and shape.

    Args:
        pixels: (H, W, 3) RGB, upright.
        objects: later ones lie on top.
        width: in pixels, of an image that is not so tall that it becomes narrower, see `scaled`.
    """
    painted = pixels.copy()
    for each in objects:
        if each.rle is not None and (each.rle.height, each.rle.width) == pixels.shape[:2]:
            inside = masks.decode(each.rle).view(bool)
            painted[inside] = (1 - OPACITY) * painted[inside] + OPACITY * np.array(each.color)
    size, scale = scaled(pixels.shape[0], pixels.shape[1], width)
    picture = Image.fromarray(painted).resize(size, Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(picture)
    for each in objects:
        if each.box_xywh is not None:
            _outline(pen, each, each.box_xywh, scale)
    return picture


def scaled(height: int, width: int, to_width: int) -> tuple[tuple[int, int], float]:
    """Width and height of an image as it is drawn, and by how much that is scaled: at most `TALL` times as tall as wide."""
    scale = min(to_width / width, TALL * to_width / height)
    return (max(1, round(width * scale)), max(1, round(height * scale))), scale


def _outline(
    pen: ImageDraw.ImageDraw, drawn: Drawable, box_xywh: tuple[float, float, float, float], scale: float
) -> None:
    """A box with its label in a tab above it, or inside where there is no room above."""
    x, y, wide, high = (side * scale for side in box_xywh)
    pen.rectangle((x, y, max(x, x + wide - 1), max(y, y + high - 1)), outline=drawn.color, width=2)
    if drawn.label:
        font = ImageFont.load_default(size=11)
        label = printable(drawn.label)
        left, top, right, bottom = pen.textbbox((0, 0), label, font=font)
        tab_wide, tab_high = right - left + 6, bottom - top + 5
        tab_x = max(0.0, min(x, pen.im.size[0] - tab_wide))  # inside the image, wherever the box ends
        tab_y = y - tab_high if y >= tab_high else max(0.0, y)
        pen.rectangle((tab_x, tab_y, tab_x + tab_wide, tab_y + tab_high), fill=drawn.color)
        pen.text((tab_x + 3 - left, tab_y + 2 - top), label, fill="white", font=font)


def sheet(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Image.Image:
    """Pictures in rows and columns, each with its caption below it."""
    font = ImageFont.load_default(size=12)
    line, width = 18, max(picture.width for picture in pictures)
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    heights = [max(picture.height for picture in row) + line + GAP for row in rows]
    across = min(columns, len(pictures)) * (width + GAP) + GAP
    page = Image.new("RGB", (across, sum(heights) + GAP), "white")
    pen, y, names = ImageDraw.Draw(page), GAP, iter(captions)
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            x = GAP + column * (width + GAP)
            page.paste(picture, (x, y))
            pen.text(
                (x, y + picture.height + 3),
                _shortened(pen, printable(next(names)), width, font),
                fill="black",
                font=font,
            )
        y += height
    return page


def _shortened(pen: ImageDraw.ImageDraw, text: str, width: int, font: Any) -> str:
    """The end of a text that is too long for `width` pixels: it is the end of a path that tells files apart."""
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(f"…{text}", font=font) > width:
        text = text[1:]
    return f"…{text}"


def png(picture: Image.Image) -> bytes:
    """The picture as PNG."""
    sink = io.BytesIO()
    picture.save(sink, format="PNG", optimize=True)
    return sink.getvalue()
