from __future__ import annotations

import numpy as np
import pytest

from shardlens.pipeline import masks
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.metrics import semantic
from shardlens.pipeline.metrics.objects import Scope
from shardlens.pipeline.warehouse import tables

CATEGORIES = (2, 5, 9)
NAMED = [(2, "cell"), (5, "wall"), (9, "dust")]


def truth_row(image_id, category_id, mask, kind="region", ignore=False):
    flags = {"iscrowd": False, "ignore": ignore, "flags": [], "annotation_id": 1}
    return {"image_id": image_id, "category_id": category_id, "kind": kind, "segmentation": coded(mask), **flags}


def found_row(image_id, category_id, mask, rank=0):
    row = {"image_id": image_id, "category_id": category_id, "rank": rank, "category": "", "kind": "region"}
    return {**row, "score": 1.0, "segmentation": coded(mask)}


def coded(mask):
    rle = masks.encode(np.asarray(mask))
    return {"size": [rle.height, rle.width], "counts": rle.counts}


def score(truth, found, image_ids=(1,), size=(4, 4), shards=1, rng=None):
    annotations = tables.from_rows(truth, tables.ANNOTATIONS)
    predictions = tables.from_rows(found, tables.PREDICTIONS)
    order = np.random.default_rng(0).permutation(image_ids) if rng is None else rng.permutation(image_ids)
    scopes = [scope_of(np.sort(part), size) for part in np.array_split(order, shards)]
    return semantic.merge([semantic.partial(scope, annotations, predictions) for scope in scopes], len(CATEGORIES))


def scope_of(image_ids, size):
    return Scope(image_ids, image_ids, np.tile(size, (len(image_ids), 1)), np.array(CATEGORIES))


def values(result, metric):
    return [None if np.isnan(value) else value for value in result.by_category[metric]]


def label_rows(row, image_id, labels):
    return [row(image_id, c, labels == c) for c in CATEGORIES if (labels == c).any()]


def numpy_loop(truth_maps, found_maps):
    """Dice, IoU and accuracy the plain way; -1 = void, 0 = background."""
    dice, iou, accuracy = [], [], []
    for c in CATEGORIES:
        hit = sum(((t == c) & (f == c)).sum() for t, f in zip(truth_maps, found_maps, strict=True))
        t_area = sum((t == c).sum() for t in truth_maps)
        f_area = sum(((f == c) & (t != -1)).sum() for t, f in zip(truth_maps, found_maps, strict=True))
        dice.append(2 * hit / (t_area + f_area) if t_area + f_area else None)
        iou.append(hit / (t_area + f_area - hit) if t_area + f_area else None)
        accuracy.append(hit / t_area if t_area else None)
    right = sum((t == f).sum() for t, f in zip(truth_maps, found_maps, strict=True))
    return dice, iou, accuracy, right / sum((t != -1).sum() for t in truth_maps)


@pytest.mark.parametrize("seed", range(30))
def test_label_maps_equal_the_numpy_loop_in_any_shards(seed):
    rng = np.random.default_rng(seed)
    used = rng.choice([0, *CATEGORIES], 3)
    ids = np.arange(1, 8)
    size = tuple(int(n) for n in rng.integers(1, 20, 2))
    truth_maps = [np.where(rng.random(size) < 0.1, -1, rng.choice(used, size)) for _ in ids]
    found_maps = [
        np.where(rng.random(size) < 0.5, np.maximum(t, 0), rng.choice([0, *CATEGORIES], size)) for t in truth_maps
    ]
    truth = [row for i, t in zip(ids, truth_maps, strict=True) for row in label_rows(truth_row, i, t)]
    truth += [truth_row(i, None, t == -1) for i, t in zip(ids, truth_maps, strict=True)]
    found = [row for i, f in zip(ids, found_maps, strict=True) for row in label_rows(found_row, i, f)]
    result = score(truth, found, ids, size, int(rng.integers(1, 8)), rng)
    assert [values(result, m) for m in semantic.BY_CATEGORY] == list(numpy_loop(truth_maps, found_maps)[:3])
    assert result.pixel_accuracy == numpy_loop(truth_maps, found_maps)[3]


LEFT, TOP = np.eye(4) * 0, np.eye(4) * 0
LEFT[:, :2] = 1
TOP[:2] = 1
ALL = np.ones((4, 4))


def test_by_hand_half_overlap():
    result = score([truth_row(1, 2, LEFT)], [found_row(1, 2, TOP)])
    assert values(result, "Dice") == [0.5, None, None]
    assert values(result, "IoU") == [1 / 3, None, None]
    assert (values(result, "accuracy")[0], result.pixel_accuracy) == (0.5, 0.5)
    assert result.confusion[:2, :2].tolist() == [[4, 4], [4, 4]]


def test_ideal_and_worst():
    assert score([truth_row(1, 2, LEFT)], [found_row(1, 2, LEFT)]).mean("Dice") == 1.0
    assert score([truth_row(1, 2, LEFT)], [found_row(1, 2, 1 - LEFT)]).mean("Dice") == 0.0


def test_an_absent_class_is_left_out_and_one_only_predicted_scores_zero():
    result = score([truth_row(1, 2, LEFT)], [found_row(1, 2, LEFT), found_row(1, 5, 1 - LEFT)])
    assert values(result, "Dice") == [1.0, 0.0, None]
    assert values(result, "accuracy") == [1.0, None, None]
    assert (result.mean("Dice"), result.mean("accuracy")) == (0.5, 1.0)


def test_no_predictions_no_truth_and_nothing_at_all():
    missed = score([truth_row(1, 2, LEFT)], [])
    assert (missed.mean("Dice"), missed.pixel_accuracy) == (0.0, 0.5)
    empty = score([], [])
    assert (empty.mean("Dice"), empty.pixel_accuracy) == (None, 1.0)
    assert semantic.merge([], 3).pixel_accuracy is None


@pytest.mark.parametrize("void", [truth_row(1, None, TOP), truth_row(1, 5, TOP, ignore=True)])
def test_void_pixels_are_not_scored(void):
    result = score([truth_row(1, 2, LEFT), void], [found_row(1, 2, 1 - LEFT)])
    assert result.confusion.sum() == 8
    assert result.confusion[2].sum() == 0


def test_a_pixel_of_two_categories_is_void():
    result = score([truth_row(1, 2, LEFT), truth_row(1, 5, TOP)], [])
    assert result.confusion.sum(axis=1).tolist() == [4, 4, 4, 0]


def test_instances_of_a_category_are_united():
    truth = [truth_row(1, 2, LEFT, "instance"), truth_row(1, 2, TOP, "instance"), truth_row(1, 2, ALL, "box")]
    assert score(truth, []).confusion.sum(axis=1).tolist() == [4, 12, 0, 0]


def test_the_better_rank_has_the_pixel_and_a_stranger_is_background():
    found = [found_row(1, 2, LEFT, 0), found_row(1, 5, TOP, 1), found_row(1, None, ALL, 2)]
    assert score([], found).confusion[0].tolist() == [4, 8, 4, 0]


def test_an_image_of_unknown_size_without_masks_cannot_be_counted():
    assert score([], [], size=(0, 0)).pixel_accuracy is None
    assert score([truth_row(1, 2, LEFT)], [], size=(0, 0)).pixel_accuracy == 0.5


def test_masks_of_two_sizes_are_an_error():
    with pytest.raises(DatasetError, match=r"image 1: .*\(true 4 x 4, predicted 5 x 4\), expected one size"):
        score([truth_row(1, 2, LEFT)], [found_row(1, 2, np.ones((5, 4)))])


def test_rows_are_the_means_then_each_category():
    rows = list(score([truth_row(1, 2, LEFT)], [found_row(1, 2, TOP)]).rows(NAMED))
    found = {(r["metric"], r.get("category")): (r["value"], r["support"]) for r in rows}
    assert len(rows) == 3 * 4 + 1
    assert found["Dice", None] == found["Dice", "cell"] == (0.5, 8)
    assert (found["pixel_accuracy", None], found["IoU", "dust"]) == ((0.5, 16), (None, 0))
    assert tables.from_rows([{"run": "r", "dataset": "d", **row} for row in rows], tables.METRICS).num_rows == 13


def test_the_work_grows_with_the_runs_not_the_pixels():
    """Two blocks in an image of 4 gigapixels: nothing of its size is allocated."""
    side = 1 << 16
    block = masks.from_counts([10, 100, side * side - 110], side, side)
    counts = semantic.confusion([(1, block)], [(1, block)], side, side, 1)
    assert counts.tolist() == [[side * side - 100, 0], [0, 100]]
