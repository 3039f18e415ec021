from __future__ import annotations

import numpy as np
import pyarrow as pa

from shardlens.pipeline.metrics.truth_by_shard import TRUTH, split_truth
from shardlens.pipeline.warehouse import tables


def image_table(sizes):
    plain = {"file_name": "", "uri": "", "flags": []}
    rows = [{"image_id": i, "height": h, "width": w, **plain} for i, (h, w) in sizes.items()]
    return tables.from_rows(rows, tables.IMAGES)


def annotation_table(image_ids):
    plain = {"kind": "box", "iscrowd": False, "ignore": False, "flags": []}
    rows = [{"annotation_id": n, "image_id": i, "category_id": n, **plain} for n, i in enumerate(image_ids)]
    return tables.from_rows(rows, tables.ANNOTATIONS)


def dealt():
    """Two shards of interleaved images; image 5 is of another split."""
    sizes = {2: (10, 20), 5: (11, 21), 7: (None, None), 9: (12, 22)}
    shards = [np.array([9, 2]), np.array([7])]
    return split_truth(shards, image_table(sizes), annotation_table([2, 5, 7, 7, 9]), np.array([0, 1, 2, 3, 4]))


def test_each_shard_gets_the_truth_of_its_images_alone():
    works = dealt().work(["p0", "p1"], ["m0", "m1"], [0, 1])
    truth = {work.shard: pa.ipc.open_stream(work.annotations).read_all() for work in works}
    assert {shard: rows["image_id"].to_pylist() for shard, rows in truth.items()} == {0: [2, 9], 1: [7, 7]}
    assert truth[1]["category_id"].to_pylist() == [2, 3]
    assert tuple(truth[0].column_names) == TRUTH


def test_scopes_place_images_among_all_of_the_run():
    first, second = dealt().scopes
    assert (first.image_ids.tolist(), first.positions.tolist()) == ([2, 9], [0, 2])
    assert first.sizes_hw.tolist() == [[10, 20], [12, 22]]
    assert (second.positions.tolist(), second.sizes_hw.tolist()) == ([1], [[0, 0]])


def test_only_the_missing_shards_are_given():
    (work,) = dealt().work(["p0", "p1"], ["m0", "m1"], [1])
    assert (work.shard, work.predictions, work.partial) == (1, "p1", "m1")


def test_images_without_truth_get_none():
    nothing = split_truth([np.array([1])], image_table({1: (4, 4)}), annotation_table([]), np.array([1]))
    (work,) = nothing.work(["p"], ["m"], [0])
    assert pa.ipc.open_stream(work.annotations).read_all().num_rows == 0
