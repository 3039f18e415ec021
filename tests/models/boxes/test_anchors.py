"""Torchvision's anchors, matching and coding do what our detectors rely on."""

import math

import torch
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from shardlens.models.boxes.coding import NORMALIZED, decode, encode
from shardlens.models.boxes.matching import best_overlaps, matched


def boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 50
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 40], dim=1)


def test_anchors_lie_on_the_grid_with_their_areas_and_ratios():
    generator = AnchorGenerator(((32, 64),), ((0.5, 1.0, 2.0),))
    images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    anchors = generator(images, [torch.zeros(1, 8, 4, 6)])[0].reshape(4, 6, 6, 4)
    sides = anchors[..., 2:] - anchors[..., :2]
    centers = (anchors[..., 2:] + anchors[..., :2]) / 2
    assert centers[2, 3].unique(dim=0).tolist() == [[48, 32]]  # column 3, row 2, stride 16
    areas = torch.tensor([32.0, 64]).square().repeat(3).reshape(3, 2).T.flatten().sort().values
    torch.testing.assert_close(sides[0, 0].prod(1).sort().values, areas, rtol=0.03, atol=0)
    assert sorted(set((sides[0, 0, :, 1] / sides[0, 0, :, 0]).mul(2).round().div(2).tolist())) == [0.5, 1.0, 2.0]


def test_decoding_undoes_coding():
    proposals, truth = boxes(50, 1), boxes(50, 2)
    for weights in ((1.0, 1.0, 1.0, 1.0), NORMALIZED):
        codes = encode(truth, proposals, weights)
        torch.testing.assert_close(decode(codes, proposals, weights), truth, rtol=1e-4, atol=1e-3)


def test_codes_by_hand():
    box, proposal = torch.tensor([[10.0, 20, 30, 60]]), torch.tensor([[0.0, 0, 10, 20]])
    codes = encode(box, proposal)
    torch.testing.assert_close(codes, torch.tensor([[1.5, 1.5, math.log(2), math.log(2)]]))
    torch.testing.assert_close(encode(box, proposal, NORMALIZED), codes * torch.tensor(NORMALIZED))


def test_several_boxes_of_a_proposal():
    proposals = boxes(4, 3)
    codes = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(decode(codes, proposals)[:, 4:8], decode(codes[:, 4:8], proposals))


def test_a_wild_code_stays_finite():
    assert decode(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0, 10, 10]])).isfinite().all()


def test_best_overlaps():
    found, truth = boxes(30, 4), boxes(5, 5)
    overlaps, index = best_overlaps(found, truth)
    every = box_iou(found, truth)
    assert overlaps.tolist() == every.max(1).values.tolist()
    assert matched(truth, index).equal(truth[every.argmax(1)])


def test_nothing_is_true():
    overlaps, index = best_overlaps(boxes(3, 6), torch.zeros(0, 4))
    assert (overlaps.tolist(), index.tolist()) == ([0, 0, 0], [0, 0, 0])
    assert matched(torch.zeros(0, 4), index).shape == (3, 4)


def test_a_true_box_keeps_its_best_anchor_however_little_they_share():
    overlaps = torch.tensor([[0.8, 0.1, 0.5], [0.2, 0.3, 0.25]])
    assert Matcher(0.7, 0.3, allow_low_quality_matches=True)(overlaps).tolist() == [0, 1, -2]
    assert Matcher(0.7, 0.3)(overlaps).tolist() == [0, -2, -2]
