from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as codec
from torchvision.models.detection.roi_heads import paste_masks_in_image

from shardlens.pipeline import masks
from shardlens.pipeline.errors import DatasetError, ImageError
from shardlens.pipeline.masks.rle import Rle

SQUARE = [1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]


def random_mask(rng, height, width):
    return rng.random((height, width)) < rng.choice([0.0, 0.02, 0.5, 0.98, 1.0])


def pasted_by_torchvision(probability_mm, box_xyxy, height, width, threshold):
    pasted = paste_masks_in_image(
        torch.from_numpy(probability_mm)[None, None], torch.from_numpy(box_xyxy)[None], (height, width)
    )
    return masks.encode((pasted[0, 0] > threshold).numpy())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40))
def test_encoding_is_pycocotools_own_and_decodes_to_the_same_pixels(seed, height, width):
    mask = random_mask(np.random.default_rng(seed), height, width)
    rle = masks.encode(mask)
    assert rle.counts.encode() == codec.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    assert (masks.decode(rle) == mask).all()
    assert masks.area(rle) == mask.sum()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40))
def test_run_lengths_are_those_of_the_columns(seed, height, width):
    mask = random_mask(np.random.default_rng(seed), height, width)
    lengths = masks.run_lengths(masks.encode(mask))
    pixels = np.repeat(np.arange(len(lengths)) % 2, lengths)
    assert (pixels == mask.ravel(order="F")).all()
    assert masks.from_counts(lengths.tolist(), height, width) == masks.encode(mask)


def test_long_runs_survive_the_text():
    lengths = [7, 1, 4_000_000, 3, 2, 31, 32, 5_000_000, 16, 90_000_000 - 9_000_092]
    rle = masks.from_counts(lengths, 9000, 10000)
    assert masks.run_lengths(rle).tolist() == lengths
    assert masks.area(rle) == sum(lengths[1::2])


def test_encode_takes_every_nonzero_value_as_one():
    assert masks.encode(np.array([[0, 1], [2, 255]])) == masks.encode(np.array([[False, True], [True, True]]))


def test_bbox_of_a_mask_and_of_an_empty_one():
    mask = np.zeros((5, 6), bool)
    assert masks.bbox(masks.encode(mask)) == (0.0, 0.0, 0.0, 0.0)
    mask[1:4, 2:4] = True
    assert masks.bbox(masks.encode(mask)) == (2.0, 1.0, 2.0, 3.0)


def test_polygons_are_rasterized_as_pycocotools_does():
    whole = codec.merge(codec.frPyObjects([SQUARE, [3.0, 2.0, 5.5, 2.0, 5.5, 5.0]], 6, 7))
    rle = masks.from_polygons([SQUARE, [3.0, 2.0, 5.5, 2.0, 5.5, 5.0]], 6, 7)
    assert (rle.height, rle.width, rle.counts.encode()) == (6, 7, whole["counts"])
    assert masks.area(masks.from_polygons([SQUARE], 6, 7)) == 6


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ([], "a mask of no polygons"),
        ([[1, 1, 2, 2]], "a polygon of 4 numbers: expected x, y of three points"),
        ([[1, 1, 2, 2, 3, 3, 4]], "a polygon of 7 numbers"),
        ([[1, 1, 2, 2, 3, float("nan")]], "coordinate nan"),
        ([[1, 1, 2, 2, 3, 1e9]], r"coordinate 1000000000.0: expected pixels within \+-131072"),
        ([["a", 1, 2, 2, 3, 3]], "other things than numbers"),
    ],
)
def test_polygons_that_are_none_are_refused(polygons, message):
    with pytest.raises(DatasetError, match=message):
        masks.from_polygons(polygons, 10, 10)


def test_counts_come_as_list_text_or_bytes():
    rle = masks.encode(np.eye(4))
    lengths = masks.run_lengths(rle).tolist()
    assert masks.from_counts(lengths, 4, 4) == masks.from_counts(rle.counts, 4, 4) == rle
    assert masks.from_counts(rle.counts.encode(), 4, 4) == rle


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([5, 3], "counts of 8 pixels in 2 runs .*: expected 4 x 4 = 16"),
        ([20, -4], r"counts of 16 pixels in 2 runs \(shortest -4\)"),
        ([[1, 2]], "expected a list of integers"),
        ([1.5, 14.5], "expected a list of integers"),
        ("", "counts of 0 pixels in 0 runs"),
        ("5", "counts of 5 pixels in 1 runs"),
        ("ab cd", "not COCO's compressed text, or cut"),
        ("5p", "not COCO's compressed text, or cut"),
        ("é5", "not COCO's compressed text, or cut"),
        ("5" + "o" * 9 + "0", "a number of 10 characters"),
    ],
)
def test_counts_that_do_not_fill_the_image_are_refused(counts, message):
    with pytest.raises(DatasetError, match=message):
        masks.from_counts(counts, 4, 4)


def test_union_of_masks():
    a, b = np.eye(4), np.eye(4)[::-1]
    assert masks.union([masks.encode(a), masks.encode(b)]) == masks.encode(a + b)
    assert masks.union([masks.encode(a)]) == masks.encode(a)
    with pytest.raises(ValueError, match=r"sizes \[\(4, 4\), \(5, 5\)\]: expected one size"):
        masks.union([masks.encode(a), masks.encode(np.eye(5))])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 30))
def test_regions_are_the_pixels_of_each_value(seed, height, width):
    classes = np.random.default_rng(seed).integers(0, 4, (height, width)) // 2 * 2
    found = masks.regions(classes, [0, 1, 2, 7])
    assert found == {value: masks.encode(classes == value) for value in (0, 2) if (classes == value).any()}


def test_regions_of_very_many_values_take_memory_as_their_pixels_do():
    ids = np.random.default_rng(0).permutation(16384).astype(np.uint16).reshape(128, 128)
    tracemalloc.start()
    found = masks.regions(ids, range(16384))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 16384
    assert [masks.area(found[value]) for value in (0, 77, 16383)] == [1, 1, 1]
    assert masks.decode(found[77])[ids == 77].tolist() == [1]
    assert peak < 16384 * 1000


@pytest.mark.parametrize("shape", [(1, 1), (64, 3), (65, 7), (200, 90), (0, 5), (5, 0)])
def test_columns_come_one_after_the_other_whatever_the_memory_is_like(shape):
    rng = np.random.default_rng(0)
    plain = rng.integers(0, 255, shape).astype(np.uint8)
    for pixels in (plain, np.asfortranarray(plain), plain[::-1], plain.astype(np.float32)[:, ::2]):
        assert np.array_equal(masks.column_major(pixels), pixels.ravel(order="F"))


boxes = st.tuples(st.floats(-40, 110), st.floats(-40, 110), st.floats(0, 150), st.floats(0, 150))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), boxes, st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 2, 14, 28]))
def test_paste_is_torchvisions_to_the_bit(seed, box, height, width, side):
    rng = np.random.default_rng(seed)
    probability = rng.random((side, side), dtype=np.float32)
    if seed % 3 == 0:
        probability = (np.round(probability * 4) / 4).astype(np.float32)  # many pixels exactly at the threshold
    x, y, w, h = (np.float32(v) for v in box)
    corners = np.array([x, y, min(x + w, 300), min(y + h, 300)], dtype=np.float32)
    rle = masks.paste(probability, corners, height, width)
    try:
        expected = pasted_by_torchvision(probability, corners, height, width, 0.5)
    except RuntimeError:  # torchvision cannot paste a box that lies outside the image
        expected = masks.encode(np.zeros((height, width)))
    assert rle == expected


@pytest.mark.parametrize(
    "box",
    [
        (0.0, 0.0, 1920.0, 1080.0),
        (-500.0, -300.0, 2600.0, 1500.0),
        (1900.5, 1000.0, 1920.0, 1080.0),
        (3.2, 4.1, 3.2, 4.1),
        (100.4, 0.0, 180.6, 1080.0),
    ],
)
@pytest.mark.parametrize("threshold", [0.5, 0.05])
def test_paste_in_a_large_image(box, threshold):
    probability = np.random.default_rng(1).random((28, 28), dtype=np.float32)
    corners = np.array(box, dtype=np.float32)
    rle = masks.paste(probability, corners, 1080, 1920, threshold)
    assert rle == pasted_by_torchvision(probability, corners, 1080, 1920, threshold)


def test_a_full_box_of_ones_is_one_run():
    """Runs of neighboring columns that touch are joined, as the codec joins them."""
    rle = masks.paste(np.ones((28, 28), np.float32), (-200.0, -200.0, 300.0, 300.0), 60, 80)
    assert masks.run_lengths(rle).tolist() == [0, 60 * 80]


def test_paste_outside_the_image_is_empty():
    assert masks.paste(np.ones((4, 4), np.float32), (200.0, 5.0, 220.0, 9.0), 50, 60) == Rle(50, 60, "hm2")
    assert masks.area(masks.paste(np.ones((4, 4), np.float32), (-90.0, 5.0, -80.0, 9.0), 50, 60)) == 0


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0.0, 0.0, float("nan"), 5.0), "expected four finite numbers"),
        ((0.0, 0.0, 1e6, 1e6), r"box of 107\d+ x 107\d+ pixels for an image of 60 x 50.*should clip"),
    ],
)
def test_boxes_that_cannot_be_drawn_cost_their_image_alone(box, message):
    with pytest.raises(ImageError, match=message):
        masks.paste(np.ones((28, 28), np.float32), box, 50, 60)
