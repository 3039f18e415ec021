"""Panoptic quality by hand, and against a loop over segments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from shardlens.pipeline import masks
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.metrics import panoptic
from shardlens.pipeline.metrics.objects import Scope
from shardlens.pipeline.metrics.panoptic import VOID, Segments, quality
from shardlens.pipeline.warehouse import tables

CATEGORIES = [(3, "disc"), (7, "sky")]


def segments(line: list[int], *category: int, crowd: tuple[int, ...] = ()) -> Segments:
    return Segments(
        np.array([line]),
        np.array(category, dtype=np.int64),
        np.array([i + 1 in crowd for i in range(len(category))], bool),
    )


def test_by_hand() -> None:
    truth = segments([1, 1, 1, 1, 2, 2, 3, 3, 3, 3], 0, 0, 1)
    guess = segments([1, 1, 1, 0, 0, 2, 3, 3, 3, 3], 0, 0, 1)
    # the first disc at IoU 3/4, the second at 1/2, which is no match: missed and false
    assert quality(truth, guess, 2).tolist() == [[0.75, 1], [1, 1], [1, 0], [1, 0]]
    score = panoptic.PanopticScore(quality(truth, guess, 2))
    assert score.by_category["PQ"].tolist() == [0.75 / 2, 1]
    assert score.by_category["SQ"].tolist() == [0.75, 1]
    assert score.by_category["RQ"].tolist() == [0.5, 1]
    assert score.mean("PQ") == (0.375 + 1) / 2


def test_what_is_void_counts_for_no_union_and_hides_false_segments() -> None:
    truth = segments([1, 1, 0, 0, 0, 0, 2, 2, 2, 2], 0, VOID)
    guess = segments([1, 1, 1, 1, 2, 2, 3, 3, 3, 0], 0, 0, 1)
    # IoU 2/2, since the pixels of no row and of the void row are not scored; both others lie in void
    assert quality(truth, guess, 2).tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]


def test_a_crowd_is_neither_missed_nor_makes_its_own_false() -> None:
    truth = segments([1, 1, 1, 1, 2, 2], 0, 1, crowd=(1,))
    assert quality(truth, segments([1, 1, 1, 0, 0, 0], 0), 2)[:, 0].tolist() == [0, 0, 0, 0]
    assert quality(truth, segments([1, 1, 1, 0, 0, 0], 1), 2)[:, 1].tolist() == [0, 0, 1, 1]


def test_nothing_found_and_nothing_to_find() -> None:
    truth, empty = segments([1, 1, 0], 0), segments([0, 0, 0])
    assert quality(truth, empty, 2)[2].tolist() == [1, 0]
    assert np.isnan(panoptic.PanopticScore(quality(empty, empty, 2)).by_category["PQ"]).all()
    assert panoptic.PanopticScore(quality(empty, empty, 2)).mean("PQ") is None


@pytest.mark.parametrize("seed", range(5))
def test_quality_equals_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = []
    for _ in range(2):
        numbers = np.kron(rng.integers(0, 7, (5, 6)), np.ones((3, 4), int))
        maps.append(Segments(numbers, rng.integers(0, 2, 6), np.zeros(6, bool)))
    truth, guess = maps
    guess.numbers_hw[:, 8:] = truth.numbers_hw[:, 8:]
    expected, matched = np.zeros((4, 2)), (set(), set())
    known = truth.numbers_hw > 0
    for i in range(6):
        for j in range(6):
            a, b = truth.numbers_hw == i + 1, (guess.numbers_hw == j + 1) & known
            iou = (a & b).sum() / max((a | b).sum(), 1)
            if truth.category[i] == guess.category[j] and iou > 0.5:
                expected[:2, truth.category[i]] += iou, 1
                matched[0].add(i)
                matched[1].add(j)
    for i in range(6):
        expected[2, truth.category[i]] += i not in matched[0] and True
        there = guess.numbers_hw == i + 1
        expected[3, guess.category[i]] += (
            i not in matched[1] and there.any() and (there & ~known).sum() <= there.sum() / 2
        )
    for segments_ in (truth,):  # numbers that no pixel has are no segments
        gone = [i for i in range(6) if not (segments_.numbers_hw == i + 1).any()]
        assert not gone
    present = np.array([(guess.numbers_hw == i + 1).any() for i in range(6)])
    guess = Segments(guess.numbers_hw, guess.category, guess.crowd)
    found = quality(truth, guess, 2)
    for i in np.flatnonzero(~present).tolist():
        found[3, guess.category[i]] -= 1
    assert found == pytest.approx(expected)


def row(
    image: int, category: int | None, x0: int, x1: int, size: tuple[int, int] = (4, 10), **more: Any
) -> dict[str, Any]:
    pixels = np.zeros(size, np.uint8)
    pixels[:, x0:x1] = 1
    rle = masks.encode(pixels)
    drawn = {"size": list(size), "counts": rle.counts}
    usual = {"image_id": image, "category_id": category, "kind": "instance", "segmentation": drawn}
    return {**usual, **more}


def truth_table(*rows: dict[str, Any]) -> pa.Table:
    usual = {"iscrowd": False, "ignore": False, "flags": []}
    return tables.from_rows([{**usual, "annotation_id": i, **r} for i, r in enumerate(rows)], tables.ANNOTATIONS)


def found_table(*rows: dict[str, Any]) -> pa.Table:
    usual = {"category": "x", "score": 0.5}
    return tables.from_rows([{**usual, "rank": i, **r} for i, r in enumerate(rows)], tables.PREDICTIONS)


def scope(*images: int) -> Scope:
    ids = np.array(images)
    return Scope(ids, np.arange(len(ids)), np.full((len(ids), 2), (4, 10)), np.array([3, 7]))


def test_rows_of_images_are_matched_and_partials_add_up() -> None:
    truth = truth_table(
        row(1, 7, 0, 10, kind="region"), row(1, 3, 2, 5), row(2, 3, 0, 4), row(2, 3, 6, 10, ignore=True)
    )
    found = found_table(row(1, 3, 2, 5), row(1, 7, 0, 2), row(2, 3, 0, 4), row(2, 7, 6, 10))
    whole = panoptic.partial(scope(1, 2), truth, found)
    parts = [panoptic.partial(scope(image), truth, found) for image in (1, 2)]
    assert panoptic.merge(parts, 2).counts.tolist() == panoptic.merge([whole], 2).counts.tolist()
    # both discs are found; of the sky's 7 columns (a disc lies on 3) 2: missed, and one false
    assert panoptic.merge([whole], 2).counts.tolist() == [[2, 0], [2, 0], [0, 1], [0, 1]]
    assert whole["found"] == 4
    rows = {(r["metric"], r.get("category")): r["value"] for r in panoptic.merge([whole], 2).rows(CATEGORIES)}
    assert (rows["PQ", None], rows["PQ", "disc"], rows["PQ", "sky"]) == (0.5, 1, 0)


def test_masks_of_another_size_are_an_error() -> None:
    truth, found = truth_table(row(1, 3, 2, 5)), found_table(row(1, 3, 2, 5, size=(5, 10)))
    with pytest.raises(DatasetError, match=r"image 1: its masks have the sizes \[\(4, 10\), \(5, 10\)\]"):
        panoptic.partial(scope(1), truth, found)
