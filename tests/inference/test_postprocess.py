from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from shardlens.pipeline import masks
from shardlens.pipeline.images.decode import Decoded
from shardlens.pipeline.images.orientation import mask_to_stored_frame
from shardlens.pipeline.inference.postprocess import PostProcessing, decide, decide_all
from shardlens.pipeline.inference.rows import ImageRows, from_semantic

EVERYTHING = PostProcessing(fill_holes=True, min_area=5, largest_component=True, components=True)


def rows(classes: np.ndarray, wanted: PostProcessing, orientation: int = 1, sure: float = 0.9) -> ImageRows:
    """Rows of a network that gives each pixel's class `sure`, the others the rest."""
    labels = torch.from_numpy(classes.astype(np.int64))
    one = torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1).double()
    height, width = classes.shape if orientation < 5 else classes.T.shape
    decoded = Decoded(np.zeros((*classes.shape, 3), np.uint8), orientation, height, width)
    return from_semantic(decide(one * sure + (1 - one) * (1 - sure) / 2), decoded, wanted)


def drawn(found: ImageRows, shape: tuple[int, int]) -> np.ndarray:
    """The class map that the rows paint."""
    classes = np.zeros(shape, int)
    for label, rle in zip(found.labels, found.rles, strict=True):
        mask = masks.decode(rle).astype(bool)
        assert not classes[mask].any(), "no pixel has two rows"
        classes[mask] = label
    return classes


@pytest.fixture
def blobs() -> np.ndarray:
    """Ragged regions of two classes, with specks and holes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(60, 80)), 2)
    return np.digitize(noise, [0, 0.08])


def test_without_options_every_class_is_a_region(blobs: np.ndarray) -> None:
    found = rows(blobs, PostProcessing())
    assert found.kind == "region"
    assert sorted(found.labels) == [1, 2]
    assert (drawn(found, blobs.shape) == blobs).all()
    assert found.scores == pytest.approx([0.9, 0.9])


def test_the_largest_part_is_scipys(blobs: np.ndarray) -> None:
    found = drawn(rows(blobs, PostProcessing(largest_component=True)), blobs.shape)
    for label in (1, 2):
        numbers, _ = ndimage.label(blobs == label, np.ones((3, 3)))
        assert ((found == label) == (numbers == np.bincount(numbers.flat)[1:].argmax() + 1)).all()


def test_small_parts_are_removed(blobs: np.ndarray) -> None:
    found = drawn(rows(blobs, PostProcessing(min_area=30)), blobs.shape)
    for label in (1, 2):
        numbers, _ = ndimage.label(blobs == label, np.ones((3, 3)))
        assert ((found == label) == (np.bincount(numbers.flat) >= 30)[numbers] & (blobs == label)).all()


def test_holes_are_filled_where_nobody_else_is() -> None:
    classes = np.zeros((12, 12), int)
    classes[1:11, 1:11] = 1
    classes[3:9, 3:9] = 0
    classes[4:8, 4:8] = 2
    classes[5:7, 5:7] = 0
    found = drawn(rows(classes, PostProcessing(fill_holes=True)), classes.shape)
    assert (found == 0).sum() == 12 * 12 - 100
    assert (found[5:7, 5:7] == 1).all(), "the first class that encloses a hole has it"
    assert (found == 2).sum() == 12


def test_every_part_is_an_object(blobs: np.ndarray) -> None:
    found = rows(blobs, PostProcessing(components=True))
    assert found.kind == "instance"
    assert (drawn(found, blobs.shape) == blobs).all()
    expected = [ndimage.label(blobs == label, np.ones((3, 3)))[1] for label in (1, 2)]
    assert [(found.labels == label).sum() for label in (1, 2)] == expected
    assert all(ndimage.label(masks.decode(rle), np.ones((3, 3)))[1] == 1 for rle in found.rles)


def test_objects_are_scored_each_by_its_own_pixels() -> None:
    probability = torch.zeros(2, 3, 7, dtype=torch.double)
    probability[1, :, :3], probability[1, :, 4:] = 0.6, 0.8
    probability[0] = 1 - probability[1]
    decoded = Decoded(np.zeros((3, 7, 3), np.uint8), 1, 3, 7)
    found = from_semantic(decide(probability), decoded, PostProcessing(components=True))
    assert found.scores == pytest.approx([0.8, 0.6])
    assert found.boxes_xywh.tolist() == [[4, 0, 3, 3], [0, 0, 3, 3]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rows_lie_in_the_stored_frame(blobs: np.ndarray, orientation: int) -> None:
    found = rows(blobs, EVERYTHING, orientation)
    expected = mask_to_stored_frame(drawn(rows(blobs, EVERYTHING), blobs.shape), orientation)
    assert (drawn(found, expected.shape) == expected).all()


def test_nothing_stays_nothing() -> None:
    assert len(rows(np.zeros((5, 6), int), EVERYTHING).labels) == 0
    speck = np.zeros((5, 6), int)
    speck[2, 2] = 1
    assert len(rows(speck, EVERYTHING).labels) == 0


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        ((), [2, 2, 0, 1]),
        (((1, 0.3),), [1, 2, 0, 1]),  # reached by the first pixel, though another class is likelier
        (((1, 0.3), (2, 0.5)), [2, 2, 0, 1]),  # both reached there: the likelier one
        (((2, 0.7),), [1, 0, 0, 1]),  # not reached: the likeliest of the others
    ],
)
def test_thresholds_by_class(thresholds: tuple[tuple[int, float], ...], expected: list[int]) -> None:
    probability = torch.tensor([[0.1, 0.3, 0.6, 0.2], [0.35, 0.2, 0.2, 0.5], [0.55, 0.5, 0.2, 0.3]])[:, None]
    classes, chosen = decide(probability, thresholds)
    assert classes.tolist() == [expected]
    assert chosen[0].tolist() == [probability[k, 0, x].item() for x, k in enumerate(expected)]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("thresholds", [(), ((1, 0.5),)])
def test_probabilities_that_are_none_are_refused(value: float, thresholds: tuple[tuple[int, float], ...]) -> None:
    probability = torch.full((3, 2, 2), 0.3)
    decide(probability, thresholds)
    probability[2, 1, 0] = value
    with pytest.raises(FloatingPointError, match="not finite"):
        decide(probability, thresholds)


def test_images_of_a_batch_are_decided_alike() -> None:
    maps = [torch.rand(4, 3, 5).softmax(0), torch.rand(4, 6, 2).softmax(0)]
    for found, one in zip(decide_all(maps), maps, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, decide(one), strict=True))


def test_many_classes_keep_their_numbers() -> None:
    probability = torch.zeros(300, 1, 1)
    probability[299] = 1
    assert decide(probability)[0].item() == 299


def test_a_hole_that_removing_a_speck_leaves_is_filled() -> None:
    classes = np.zeros((12, 12), int)
    classes[2:10, 2:10] = 1
    classes[5, 5:8] = 2
    for wanted in (
        PostProcessing(fill_holes=True, min_area=5),
        PostProcessing(fill_holes=True, min_area=5, components=True),
    ):
        found = drawn(rows(classes, wanted), classes.shape)
        assert (found[2:10, 2:10] == 1).all()
        assert found.sum() == 64


def test_without_a_background_label_0_is_a_class_like_the_others(blobs: np.ndarray) -> None:
    probability = torch.nn.functional.one_hot(torch.from_numpy(blobs), 3).permute(2, 0, 1).double()
    decoded = Decoded(np.zeros((*blobs.shape, 3), np.uint8), 1, *blobs.shape)
    found = from_semantic(decide(probability), decoded, background=False)
    assert set(found.labels.tolist()) == {0, 1, 2}
    for label, rle in zip(found.labels, found.rles, strict=True):
        assert (masks.decode(rle).astype(bool) == (blobs == label)).all()
    assert set(from_semantic(decide(probability), decoded).labels.tolist()) == {1, 2}
