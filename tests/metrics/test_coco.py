from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pycocotools.cocoeval import COCOeval

from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.metrics import coco
from shardlens.pipeline.metrics.coco import FIGURES
from shardlens.pipeline.metrics.engines import ENGINES
from shardlens.pipeline.metrics.rules import Rules
from shardlens.pipeline.warehouse import tables
from tests.metrics.coco_sets import CATEGORIES, CocoSet, annotation, by_pycocotools, random_set, shape

BOX = [10.0, 10.0, 40.0, 40.0]
NAMED = [(category, f"c{category}") for category in CATEGORIES]


def score(coco_set, task="bbox", engine="hotcoco", shards=1, rng=None, kind=None, max_dets=100):
    """Score a set in shards, the images dealt out at random, merged in random order."""
    rng = rng or np.random.default_rng(0)
    truth, found = coco_set.tables(kind or ("instance" if task == "segm" else "box"))
    dealt = rng.integers(0, shards, len(coco_set.image_ids)) if shards > 1 else np.zeros(len(coco_set.image_ids))
    partials = [
        coco.partial(
            task, coco_set.scope(np.array(coco_set.image_ids)[dealt == n]), truth, found, Rules(engine, max_dets)
        )
        for n in range(shards)
    ]
    order = rng.permutation(shards)
    return coco.merge(task, [partials[i] for i in order], len(CATEGORIES), Rules(engine, max_dets))


def figures(result):
    return {f.name: v for f, v in zip(FIGURES, result.stats, strict=True)}


def same_bits(result, oracle):
    stats = [-1.0 if value is None else value for value in result.stats]
    return (
        np.array_equal(result.accumulated.precision, oracle.eval["precision"])
        and np.array_equal(result.accumulated.recall, oracle.eval["recall"])
        and np.array_equal(result.accumulated.scores, oracle.eval["scores"])
        and np.array_equal(stats, oracle.stats)
    )


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("block", range(4))
def test_200_random_sets_equal_pycocotools_to_the_bit_whole_and_in_shards(task, block):
    for seed in range(block * 50, block * 50 + 50):
        rng = np.random.default_rng(seed)
        coco_set = random_set(rng, with_masks=task == "segm", images=int(rng.integers(1, 12)))
        oracle = by_pycocotools(coco_set, task)
        for shards in (1, 2, 7):
            assert same_bits(score(coco_set, task, "hotcoco", shards, rng), oracle), (seed, shards)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_the_pycocotools_engine_merges_shards_too(task):
    for seed in range(15):
        rng = np.random.default_rng(seed)
        coco_set = random_set(rng, with_masks=task == "segm", images=int(rng.integers(1, 12)))
        oracle = by_pycocotools(coco_set, task)
        for shards in (1, 7):
            assert same_bits(score(coco_set, task, "pycocotools", shards, rng), oracle), (seed, shards)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("limit", [10, 12, 300])
def test_another_limit_equals_pycocotools_with_it(engine, limit):
    class Limited(COCOeval):
        def evaluate(self):
            self.params.maxDets = [1, 10, limit]
            super().evaluate()

        def summarize(self):
            """Its own looks for a limit of 100 by number."""

    found = [[0.0, 0.0, 10.0 + i, 10.0] for i in range(15)]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        coco_set = random_set(rng)
        low = {"image_id": coco_set.image_ids[0], "category_id": 3, "score": 0.01}
        coco_set.predictions.extend({**low, "bbox": box} for box in found)
        oracle = by_pycocotools(coco_set, "bbox", Limited)
        result = score(coco_set, "bbox", engine, 3, rng, max_dets=limit)
        assert np.array_equal(result.accumulated.precision, oracle.eval["precision"])
        assert np.array_equal(result.accumulated.recall, oracle.eval["recall"])
        named = {row["metric"]: row for row in result.rows(NAMED) if row["category_id"] is None}
        recall = oracle.eval["recall"][:, :, 0, 2]
        assert named[f"AR{limit}"]["value"] == np.mean(recall[recall > -1])
        assert (named["AP"]["max_dets"], named["AR1"]["max_dets"]) == (limit, 1)


class HonorsIgnore(COCOeval):
    """pycocotools with the line that forgets the key `ignore` undone: an oracle of another making."""

    def _prepare(self):
        super()._prepare()
        for rows in self._gts.values():
            for row in rows:
                row["ignore"] = row["iscrowd"] or row["difficult"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_ignored_truth_equals_pycocotools_with_its_ignore_restored(task, engine):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        coco_set = random_set(rng, with_masks=task == "segm")
        for row in coco_set.annotations:
            row["difficult"] = row["ignore"] = bool(rng.random() < 0.3)
        oracle = by_pycocotools(coco_set, task, HonorsIgnore)
        assert same_bits(score(coco_set, task, engine, 2, rng), oracle), seed


def one_image(truth_boxes, found, **changes):
    """One image; `found` holds (box, score)."""
    truth = [{**annotation(i + 1, 7, 3, box), **changes} for i, box in enumerate(truth_boxes)]
    predictions = [{"image_id": 7, "category_id": 3, "bbox": box, "score": s} for box, s in found]
    return CocoSet([7], truth, predictions)


@pytest.mark.parametrize("engine", ENGINES)
class TestByHand:
    def test_ideal(self, engine):
        found = figures(score(one_image([BOX], [(BOX, 0.9)]), engine=engine))
        assert found["AP"] == pytest.approx(1.0)
        assert (found["AR1"], found["APsmall"]) == (1.0, None)

    def test_nothing_right(self, engine):
        found = figures(score(one_image([BOX], [([80.0, 80.0, 20.0, 20.0], 0.9)]), engine=engine))
        assert (found["AP"], found["AR100"]) == (0.0, 0.0)

    def test_a_third_of_the_objects_found(self, engine):
        boxes = [BOX, [60.0, 10.0, 40.0, 40.0], [10.0, 60.0, 40.0, 40.0]]
        found = figures(score(one_image(boxes, [(BOX, 0.9)]), engine=engine))
        assert found["AR100"] == pytest.approx(1 / 3)
        assert found["AP"] == pytest.approx(34 / 101)  # recalls 0 to 0.33 are reached with precision 1

    def test_an_overlap_of_two_thirds_counts_for_four_of_ten_ious(self, engine):
        narrow = [10.0, 10.0, 40.0, 40.0 * 2 / 3]
        found = figures(score(one_image([BOX], [(narrow, 0.9)]), engine=engine))
        assert (found["AP50"], found["AP75"], found["AR1"]) == (pytest.approx(1.0), 0.0, pytest.approx(0.4))

    def test_an_ignored_object_is_neither_found_nor_missed(self, engine):
        boxes = [BOX, [60.0, 10.0, 40.0, 40.0]]
        coco_set = one_image(boxes, [(BOX, 0.9), (boxes[1], 0.8)])
        coco_set.annotations[0]["ignore"] = True
        result = score(coco_set, engine=engine)
        assert figures(result)["AP"] == pytest.approx(1.0)
        assert result.support[:, 0].tolist() == [1, 0, 0, 0]
        assert figures(score(CocoSet([7], coco_set.annotations, []), engine=engine))["AR100"] == 0.0

    def test_a_part_of_an_ignored_object_does_not_match_it_as_one_of_a_crowd_does(self, engine):
        """A crowd is matched by the share of the prediction inside it, an ignored object by plain IoU."""
        other, part = [70.0, 70.0, 40.0, 40.0], [10.0, 10.0, 10.0, 10.0]
        for flag, precision in (("iscrowd", 1.0), ("ignore", 0.5)):
            coco_set = one_image([BOX, other], [(part, 0.9), (other, 0.8)])
            coco_set.annotations[0][flag] = 1
            assert figures(score(coco_set, engine=engine))["AP50"] == pytest.approx(precision)

    def test_only_ignored_truth_is_undefined(self, engine):
        result = score(one_image([BOX], [(BOX, 0.9)], ignore=True), engine=engine)
        assert set(result.stats) == {None}

    def test_no_predictions_score_zero_and_no_truth_is_undefined(self, engine):
        assert figures(score(one_image([BOX], []), engine=engine))["AP"] == 0.0
        assert set(score(one_image([], [(BOX, 0.9)]), engine=engine).stats) == {None}
        assert set(score(CocoSet([7], [], []), engine=engine).stats) == {None}


@pytest.mark.parametrize("engine", ENGINES)
def test_no_shard_at_all_is_undefined(engine):
    assert set(coco.merge("bbox", [], 4, Rules(engine)).stats) == {None}


def test_equal_scores_are_ordered_by_image_not_by_shard():
    """A hit in the first image before a miss in the second: precision 1, then 1/2, whatever the order of merging."""
    truth = [annotation(1, 1, 3, BOX), annotation(2, 2, 3, BOX)]
    miss = [80.0, 80.0, 20.0, 20.0]
    predictions = [{"image_id": i, "category_id": 3, "bbox": b, "score": 0.5} for i, b in ((1, BOX), (2, miss))]
    coco_set = CocoSet([2, 1], truth, predictions)
    rng = np.random.default_rng(3)
    values = {score(coco_set, shards=2, rng=rng).value(FIGURES[1], 0) for _ in range(10)}
    assert [*values] == [pytest.approx(51 / 101)]


def test_rows_carry_every_figure_of_every_category():
    coco_set = one_image([BOX, [100.0, 100.0, 10.0, 10.0]], [(BOX, 0.9)])
    rows = list(score(coco_set).rows(NAMED))
    assert len(rows) == 12 * (1 + len(CATEGORIES))
    found = {(r["metric"], r["category_id"]): (r["value"], r["support"]) for r in rows}
    assert found["ARsmall", 3] == (0.0, 1)
    assert found["AR100", 3] == found["AR100", None] == (0.5, 2)
    assert found["AP", 41] == (None, 0)
    assert {(r["iou"], r["area"], r["max_dets"]) for r in rows if r["metric"] == "AP75"} == {(0.75, "all", 100)}
    assert tables.from_rows([{"run": "r", "dataset": "d", **row} for row in rows], tables.METRICS).num_rows == 60


def test_curves_hold_precision_and_score_at_each_recall():
    far = [80.0, 60.0, 40.0, 40.0]
    result = score(one_image([BOX, far], [(BOX, 0.75), ([0.0, 90.0, 9.0, 9.0], 0.5)]))
    rows = list(result.curve_rows(NAMED))
    assert len(rows) == 2 * 101
    at = {(r["iou"], round(r["recall"], 2)): (r["precision"], r["score"]) for r in rows}
    assert at[0.5, 0.5] == (pytest.approx(1.0), 0.75)
    assert at[0.5, 0.51] == (0.0, None)
    assert tables.from_rows([{"run": "r", "dataset": "d", **row} for row in rows], tables.CURVES).num_rows == 202


def test_rows_that_are_not_of_the_task_take_no_part():
    """Regions, void rows, predictions that name no category, and boxes among masks."""
    coco_set = one_image([BOX], [(BOX, 0.9), (BOX, 0.95), (BOX, 0.97)])
    truth, found = coco_set.tables("box")
    unnamed = tables.from_rows([{**found.to_pylist()[0], "category_id": None}], tables.PREDICTIONS)
    void = tables.from_rows([{**truth.to_pylist()[0], "category_id": None}], tables.ANNOTATIONS)
    _, regions = coco_set.tables("region")
    mixed = pa.concat_tables([unnamed, regions, found.slice(0, 1)])
    result = coco.merge(
        "bbox",
        [coco.partial("bbox", coco_set.scope(), pa.concat_tables([truth, void]), mixed, Rules("hotcoco"))],
        len(CATEGORIES),
        Rules("hotcoco"),
    )
    assert (result.truth, result.found, figures(result)["AP"]) == (1, 1, pytest.approx(1.0))
    assert coco.partial("segm", coco_set.scope(), truth, mixed, Rules("hotcoco"))["truth"] == 0


@pytest.mark.parametrize(("task", "area"), [("bbox", "medium"), ("segm", "small")])
def test_truth_without_an_area_is_measured_on_its_box_or_mask(task, area):
    rng = np.random.default_rng(0)
    coco_set = one_image([[10.0, 10.0, 33.0, 33.0]], [], area=None)
    for row in coco_set.annotations:
        row["segmentation"] = shape(row["bbox"], ellipse=True)
    result = score(coco_set, task, rng=rng, kind="instance")
    assert result.support[0].tolist() == [1, int(area == "small"), int(area == "medium"), 0]


def test_support_counts_what_can_be_missed():
    """Not crowds nor ignored objects; an area on the border of two ranges counts in both, as in the protocol."""
    coco_set = one_image([BOX] * 4, [])
    coco_set.annotations[0]["iscrowd"], coco_set.annotations[1]["ignore"] = 1, True
    coco_set.annotations[2]["area"] = 32.0**2
    assert score(coco_set).support[0].tolist() == [2, 1, 2, 0]


def test_more_masks_than_a_byte_counts():
    """pycocotools measures at most 255 masks in one call."""
    coco_set = one_image([BOX] * 300, [(BOX, 0.5)] * 300, area=None)
    for row in [*coco_set.annotations, *coco_set.predictions]:
        row["segmentation"] = shape(BOX, ellipse=False)
    assert score(coco_set, "segm").support[0].tolist() == [300, 0, 300, 0]


def test_an_unknown_engine_lists_the_known():
    with pytest.raises(ConfigError, match="no evaluation engine 'fast': expected one of hotcoco, pycocotools"):
        Rules("fast")
    with pytest.raises(ConfigError, match="max_dets is 5: expected 10 or more"):
        Rules(max_dets=5)
