import pytest
import torch
from torchvision.ops import box_iou

from shardlens.models.boxes.overlap import iou


def test_boxes_one_by_one_have_the_overlaps_of_all_pairs():
    corners = torch.rand(2, 9, 2, 2, generator=torch.Generator().manual_seed(0)).sort(dim=2).values
    first, second = corners.flatten(2)
    torch.testing.assert_close(iou(first, second), box_iou(first, second).diagonal())
    torch.testing.assert_close(iou(first[:, None], second), box_iou(first, second))


@pytest.mark.parametrize(
    ("other", "expected"), [((0, 0, 2, 2), 1), ((2, 0, 4, 2), 0), ((1, 0, 3, 2), 1 / 3), ((1, 1, 1, 1), 0)]
)
def test_overlaps_by_hand(other, expected):
    assert iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor(other).float()).item() == pytest.approx(expected)


def test_two_boxes_without_area_overlap_by_nothing():
    assert iou(torch.ones(4), torch.ones(4)).item() == 0
