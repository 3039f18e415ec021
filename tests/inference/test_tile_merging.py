"""Boxes and masks of tiles as those of the image."""

from __future__ import annotations

import numpy as np
import pytest

from shardlens.pipeline import masks
from shardlens.pipeline.images.decode import Decoded
from shardlens.pipeline.images.orientation import mask_to_stored_frame
from shardlens.pipeline.inference.rows import ImageRows
from shardlens.pipeline.inference.tile_merging import merge
from shardlens.pipeline.inference.tiles import Grid

GRID = Grid(100, 160, 96, 32)  # tiles begin at 0, 64 and at 0, 32
Object = tuple[float, float, float, float, int, float]
"""x1, y1, x2, y2, label, score"""


def image(orientation: int = 1, grid: Grid = GRID) -> Decoded:
    stored = (grid.height, grid.width) if orientation < 5 else (grid.width, grid.height)
    return Decoded(np.zeros((grid.height, grid.width, 3), np.uint8), orientation, *stored)


def seen(objects: list[Object], grid: Grid = GRID, with_masks: bool = False) -> list[tuple]:
    """What a detector without fault finds in every tile: each object's part there, a little less sure if it is cut."""
    found = []
    for tile in grid.tiles:
        rows, rles = [], []
        for x1, y1, x2, y2, label, score in objects:
            left, top = max(x1, tile.left), max(y1, tile.top)
            right, bottom = min(x2, tile.right), min(y2, tile.bottom)
            if left < right and top < bottom:
                part = (right - left) * (bottom - top) / ((x2 - x1) * (y2 - y1))
                rows.append(
                    (label, score * (0.5 + part / 2), left - tile.left, top - tile.top, right - left, bottom - top)
                )
                mask = np.zeros(tile.shape, np.uint8)
                mask[int(top) - tile.top : int(bottom) - tile.top, int(left) - tile.left : int(right) - tile.left] = 1
                rles.append(masks.encode(mask))
        columns = np.array(rows).reshape(-1, 6)
        order = np.argsort(-columns[:, 1], kind="stable")
        columns = columns[order]
        kind = "instance" if with_masks else "box"
        drawn = tuple(rles[i] for i in order) if with_masks else ()
        found.append((tile, ImageRows(kind, columns[:, 0].astype(np.int64), columns[:, 1], columns[:, 2:], drawn)))
    return found


def boxes(rows: ImageRows) -> set[tuple[float, ...]]:
    return {tuple(box) for box in rows.boxes_xywh.tolist()}


def test_objects_in_the_overlap_are_taken_once_and_whole() -> None:
    assert len(GRID.tiles) == 4
    objects = [(70, 40, 90, 60, 1, 0.9), (5, 5, 20, 25, 2, 0.8), (60, 70, 80, 90, 1, 0.7), (130, 10, 150, 95, 3, 0.6)]
    found = merge(GRID, seen(objects), image())
    assert found.labels.tolist() == [1, 2, 1, 3]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert found.boxes_xywh.tolist() == [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2, *_ in objects]


def test_a_cut_object_gives_way_to_the_whole_even_if_it_is_surer() -> None:
    tiles = seen([(60, 10, 90, 25, 1, 0.5)])
    cut = next(rows for tile, rows in tiles if tile.left == 64)
    cut.scores[:] = 0.99
    assert boxes(merge(GRID, tiles, image())) == {(60, 10, 30, 15)}


def test_neighbors_of_one_tile_and_other_classes_are_left_to_the_network() -> None:
    close = [(70, 40, 90, 60, 1, 0.9), (71, 41, 91, 61, 2, 0.8)]  # two classes
    assert merge(GRID, seen(close), image()).labels.tolist() == [1, 2]
    inside = [(2, 2, 30, 30, 1, 0.9), (3, 3, 31, 31, 1, 0.8)]  # two of one class, in one tile alone
    assert len(merge(GRID, seen(inside), image()).labels) == 2


def test_an_object_longer_than_the_overlap_is_joined_where_its_parts_meet() -> None:
    found = merge(GRID, seen([(10, 5, 150, 25, 1, 0.9)], with_masks=True), image())
    assert boxes(found) == {(10, 5, 140, 20)}
    assert masks.area(found.rles[0]) == 140 * 20


def test_an_object_over_four_tiles_is_joined_from_four_parts() -> None:
    grid = Grid(160, 160, 96, 32)
    assert len(grid.tiles) == 4
    found = merge(grid, seen([(3, 2, 155, 157, 2, 0.9)], grid, with_masks=True), image(grid=grid))
    assert boxes(found) == {(3, 2, 152, 155)}
    assert masks.area(found.rles[0]) == 152 * 155


def test_a_row_of_tiles_joins_an_object_as_long_as_the_image() -> None:
    grid = Grid(96, 500, 96, 32)
    found = merge(grid, seen([(0, 40, 500, 60, 1, 0.5), (200, 10, 230, 30, 1, 0.9)], grid), image(grid=grid))
    assert boxes(found) == {(0, 40, 500, 20), (200, 10, 30, 20)}


def test_two_objects_that_are_cut_at_one_seam_stay_two() -> None:
    side_by_side = [(10, 5, 150, 25, 1, 0.9), (12, 40, 148, 60, 1, 0.8)]
    assert boxes(merge(GRID, seen(side_by_side), image())) == {(10, 5, 140, 20), (12, 40, 136, 20)}
    two_classes = [(10, 5, 90, 25, 1, 0.9), (70, 5, 150, 25, 2, 0.9)]
    assert set(merge(GRID, seen(two_classes), image()).labels.tolist()) == {1, 2}


def test_a_part_that_ends_short_of_the_edge_counts_as_cut() -> None:
    tiles = seen([(60, 10, 90, 25, 1, 0.5)])
    cut = next(rows for tile, rows in tiles if tile.left == 64)
    cut.boxes_xywh[:, 0] += 6
    cut.boxes_xywh[:, 2] -= 6
    cut.scores[:] = 0.99
    assert boxes(merge(GRID, tiles, image())) == {(60, 10, 30, 15)}


def test_masks_move_with_their_boxes() -> None:
    objects = [(70, 40, 90, 60, 1, 0.9), (5, 5, 20, 25, 2, 0.8), (130, 10, 150, 95, 3, 0.6)]
    found = merge(GRID, seen(objects, with_masks=True), image())
    assert found.kind == "instance"
    for rle, box in zip(found.rles, found.boxes_xywh.tolist(), strict=True):
        assert (rle.height, rle.width) == (100, 160)
        assert masks.bbox(rle) == tuple(box)
        assert masks.area(rle) == box[2] * box[3]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rows_lie_in_the_stored_frame(orientation: int) -> None:
    objects = [(70, 40, 90, 60, 1, 0.9), (130, 10, 150, 95, 3, 0.6)]
    upright = merge(GRID, seen(objects, with_masks=True), image())
    found = merge(GRID, seen(objects, with_masks=True), image(orientation))
    for there, here, box in zip(upright.rles, found.rles, found.boxes_xywh.tolist(), strict=True):
        assert masks.bbox(here) == tuple(box)
        assert (masks.decode(here) == mask_to_stored_frame(masks.decode(there), orientation)).all()


def test_nothing_in_any_tile() -> None:
    found = merge(GRID, seen([], with_masks=True), image())
    assert (found.kind, found.boxes_xywh.shape, found.rles) == ("instance", (0, 4), ())


def test_many_objects_are_found_as_they_are() -> None:
    grid = Grid(600, 900, 128, 40)
    rng = np.random.default_rng(0)
    places = [(x, y) for x in range(0, 860, 40) for y in range(0, 560, 40)]
    objects = [
        (x + a, y + b, x + a + 18, y + b + 20, int(k), 0.5 + i / 2000)
        for i, ((x, y), a, b, k) in enumerate(
            zip(places, *rng.integers(0, 18, (2, len(places))), rng.integers(1, 4, len(places)), strict=True)
        )
    ]
    found = merge(grid, seen(objects, grid), image(grid=grid))
    assert boxes(found) == {(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2, *_ in objects}
    assert len(found.labels) == len(objects)
    assert (np.diff(found.scores) <= 0).all()
