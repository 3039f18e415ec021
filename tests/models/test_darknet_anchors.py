import pytest
import torch

from shardlens.models.darknet.anchors import cluster, mean_best_iou, shape_iou
from shardlens.models.errors import ModelError


def test_shapes_are_compared_by_their_centers():
    found = shape_iou(torch.tensor([[2.0, 4.0], [1.0, 1.0]]), torch.tensor([[4.0, 2.0], [2.0, 4.0]]))
    assert found.flatten().tolist() == pytest.approx([4 / 12, 1, 1 / 8, 1 / 8])


def test_groups_of_boxes_are_found():
    generator = torch.Generator().manual_seed(1)
    centers = torch.tensor([[10.0, 12.0], [60.0, 20.0], [30.0, 90.0]])
    sizes = torch.cat([center * (1 + 0.1 * torch.rand(40, 2, generator=generator)) for center in centers])
    found = cluster(sizes, 3)
    expected = torch.stack([sizes[i * 40 : i * 40 + 40].mean(dim=0) for i in range(3)])
    torch.testing.assert_close(found, expected.double())
    assert mean_best_iou(sizes.double(), found) > 0.9


def test_large_boxes_count_no_more_than_small_ones():
    """By Euclid's distance the two large shapes, 60 apart, would have an anchor each and the small ones share one."""
    sizes = torch.tensor([[10.0, 10.0], [20.0, 20.0], [400.0, 400.0], [460.0, 400.0]]).repeat(5, 1)
    assert cluster(sizes, 3).tolist() == [[10, 10], [20, 20], [430, 400]]


def test_more_anchors_fit_better_and_one_is_the_mean():
    sizes = torch.rand(200, 2, generator=torch.Generator().manual_seed(2)) * 100 + 5
    fits = [mean_best_iou(sizes.double(), cluster(sizes, count)) for count in (1, 3, 6, 9)]
    assert fits == sorted(fits)
    torch.testing.assert_close(cluster(sizes, 1), sizes.double().mean(dim=0, keepdim=True))


def test_equal_seeds_give_equal_anchors():
    sizes = torch.rand(50, 2, generator=torch.Generator().manual_seed(3)) + 0.1
    assert torch.equal(cluster(sizes, 5, seed=4), cluster(sizes, 5, seed=4))


def test_boxes_without_area_are_left_out():
    sizes = torch.tensor([[0.0, 5.0], [5.0, -1.0], [3.0, 4.0]])
    assert cluster(sizes, 1).tolist() == [[3, 4]]
    with pytest.raises(ModelError, match="2 anchors asked for of 1 boxes of different shapes; expected 1 to 1"):
        cluster(sizes, 2)
