import numpy as np
import pytest
from PIL import Image
from torch import Tensor, from_numpy, tensor

from shardlens.models.boxes.matching import best_overlaps
from shardlens.models.detection.color_spaces import hsv, lab
from shardlens.models.detection.external_proposals import external_proposals
from shardlens.models.detection.graph_segmentation import pixel_grid, segment
from shardlens.models.detection.selective_search import FAST, SINGLE, selective_search
from tests.drawn_images import picture


def by_the_paper(image: np.ndarray, scale: float, min_size: int) -> np.ndarray:
    """Edge by edge, with a forest in lists."""
    grid = pixel_grid(image)
    pairs = grid.ends.T.tolist()
    count = image.shape[0] * image.shape[1]
    parent, sizes, inner = list(range(count)), [1] * count, [0.0] * count

    def root(a: int) -> int:
        while parent[a] != a:
            a = parent[a]
        return a

    for (a, b), weight in zip(pairs, grid.weights.tolist(), strict=True):
        a, b = root(a), root(b)
        if a != b and weight <= min(inner[a] + scale / sizes[a], inner[b] + scale / sizes[b]):
            parent[b], inner[a] = a, weight
            sizes[a] += sizes[b]
    for a, b in pairs:
        a, b = root(a), root(b)
        if a != b and min(sizes[a], sizes[b]) < min_size:
            parent[b] = a
            sizes[a] += sizes[b]
    return np.array([root(i) for i in range(count)]).reshape(image.shape[:2])


def same_segments(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = len(np.unique(np.stack([a.ravel(), b.ravel()]), axis=1).T)
    return pairs == len(np.unique(a)) == len(np.unique(b))


@pytest.mark.parametrize(("scale", "min_size"), [(50.0, 20), (300.0, 1), (5.0, 5)])
def test_segments_are_the_paper_s(scale, min_size):
    noisy = picture(40, 50, seed=1) + np.random.default_rng(0).normal(0, 8, (40, 50, 3))
    image = np.clip(noisy, 0, 255).astype(np.float32)
    found = segment(pixel_grid(image), scale, min_size)
    assert same_segments(found, by_the_paper(image, scale, min_size))
    assert 1 < found.max() + 1 < 1500


def test_the_grid_joins_eight_neighbors_the_likest_first():
    image = np.zeros((2, 3, 1), np.float32)
    grid = pixel_grid(image)
    assert grid.shape == (2, 3)
    pairs = {tuple(sorted(pair)) for pair in grid.ends.T.tolist()}
    assert pairs == {(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5), (0, 4), (1, 5), (1, 3), (2, 4)}
    slope = pixel_grid(np.tile(np.array([0, 1, 9, 50], np.float32)[:, None], (4, 1, 1)))
    assert (np.diff(slope.weights) >= 0).all()


def test_flat_areas_are_one_segment_each():
    image = np.zeros((30, 40, 3), np.float32)
    image[5:20, 10:30] = 200
    found = segment(pixel_grid(image), 50, 10)
    assert found[0, 0] == found[29, 39] != found[12, 20]


def scene() -> tuple[np.ndarray, list[list[int]]]:
    image = np.full((80, 100, 3), 60, np.uint8)
    image[10:40, 15:45] = (220, 40, 40)
    image[50:70, 50:90] = (40, 200, 80)
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), [[15, 10, 45, 40], [50, 50, 90, 70]]


@pytest.mark.parametrize("rule", [FAST, SINGLE])
def test_objects_are_among_the_boxes(rule):
    image, objects = scene()
    boxes = selective_search(image, rule)
    overlaps, _ = best_overlaps(tensor(objects).float(), from_numpy(boxes))
    assert overlaps.min() > 0.85
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (100, 80)).all()
    assert [0, 0, 100, 80] in boxes.tolist()


def test_the_same_image_gives_the_same_boxes():
    image, _ = scene()
    assert np.array_equal(selective_search(image), selective_search(image))


def enlarged(image: np.ndarray, rows: int, columns: int) -> Tensor:
    """Each pixel repeated: (3, H x rows, W x columns) in [0, 1]."""
    return from_numpy(image.repeat(rows, axis=0).repeat(columns, axis=1)).permute(2, 0, 1) / 255


def test_a_wide_image_is_searched_at_a_width_of_500():
    image, objects = scene()
    search = external_proposals("single", 2000)
    (at_500,) = search([enlarged(image, 1, 5)])
    (at_1000,) = search([enlarged(image, 2, 10)])
    assert (at_1000 / 2 == (at_1000 / 2).round()).all()  # whole pixels of the image of 500
    assert [0, 0, 1000, 160] in at_1000.tolist()
    overlaps, _ = best_overlaps(tensor(objects).float() * tensor([10.0, 2, 10, 2]), at_1000)
    assert overlaps.min() > 0.85
    assert any(at_500[:, 0] % 2)


def test_a_narrower_image_is_never_enlarged():
    image, _ = scene()
    (found,) = external_proposals("single", 2000)([enlarged(image, 1, 1)])
    assert np.array_equal(found.numpy(), selective_search(image, SINGLE))


def test_an_image_of_one_color_is_one_box():
    assert selective_search(np.full((20, 30, 3), 90, np.uint8)).tolist() == [[0, 0, 30, 20]]


def test_colors():
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90], [0, 0, 0], [255, 255, 255]]], np.uint8)
    assert (hsv(image)[0, :3, 0] / 255 * 360).round().tolist() == [0, 120, 240]
    assert hsv(image)[0, 3:, 1].tolist() == [0, 0, 0]
    expected = np.array([[53.24, 80.09, 67.2], [87.74, -86.18, 83.18], [32.3, 79.19, -107.86]])  # CIE's, sRGB under D65
    found = lab(image)[0, :3] * (1 / 2.55, 1, 1) - (0, 128, 128)
    np.testing.assert_allclose(found, expected, atol=0.1)


@pytest.mark.realdata
def test_about_two_thousand_on_a_photo(realdata):
    path = sorted((realdata / "coco2017-subset" / "val2017").glob("*.jpg"))[2]
    photo = np.asarray(Image.open(path).convert("RGB"))
    assert 1500 <= len(selective_search(photo)) <= 2000
