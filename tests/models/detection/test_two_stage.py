"""Fast R-CNN, R-FCN and Light-Head R-CNN."""

import pytest
import torch
from torch import nn

from shardlens.models import build
from shardlens.models.boxes.sampling import Sample
from shardlens.models.detection.fast_rcnn import POOLED
from shardlens.models.detection.light_head_rcnn import LargeSeparableConvolution
from shardlens.models.detection.region_heads import Verdict, region_losses
from shardlens.models.detection.rfcn import PositionSensitiveHead
from shardlens.models.detection.two_stage import stride_16
from shardlens.models.errors import ModelError
from tests.models.small import SMALL


def small(name: str, **options: object) -> nn.Module:
    return build(name, 4, {**SMALL[name].options, **options})


def test_fast_rcnn_pools_seven_by_seven():
    with torch.device("meta"):
        head = build("fast_rcnn", 21).heads.head
    assert POOLED == 7
    assert tuple(head.dense[0].weight.shape) == (4096, 512 * 7 * 7)
    assert head.boxes.out_features == 4 * 21


def test_proposals_are_searched_once_for_each_content():
    model = small("fast_rcnn").eval()
    image = torch.rand(3, 40, 50)
    first = model.proposals([image])[0]
    assert model.proposals([image.clone()])[0] is first
    assert model.proposals([image.flip(2)])[0] is not first
    assert model.proposals([image * 255 / 255, torch.rand(3, 20, 20)])[0] is first


def test_rfcn_has_k_by_k_score_maps_for_each_class():
    with torch.device("meta"):
        head = build("rfcn", 21).heads.head
    assert head.score_maps.out_channels == 7 * 7 * 21
    assert head.box_maps.out_channels == 7 * 7 * 4


def test_a_part_votes_with_its_own_maps_alone():
    head = PositionSensitiveHead(1, 1, 2, parts=2)
    maps = torch.zeros(1, 2 * 2 * 2, 4, 4)
    maps[0, 0 * 4 + 1, :2, 2:] = 8.0  # class 0, upper right part, and only there
    regions = [torch.tensor([[0.0, 0, 64, 64]])]
    assert head._vote(maps, regions).tolist() == [[2.0, 0.0]]
    assert head._vote(maps.flip(2), regions).tolist() == [[0.0, 0.0]]


def test_aligned_regions_are_not_rounded_to_cells():
    maps = torch.arange(8.0).expand(1, 1, 8, 8)  # a cell's value is its column
    regions = [torch.tensor([[32.0, 32, 96, 96], [39.0, 32, 103, 96]])]
    rounded, exact = (PositionSensitiveHead(1, 1, 1, 1, aligned)._vote(maps, regions) for aligned in (False, True))
    assert rounded[0] == rounded[1]
    assert (exact[1] - exact[0]).item() == pytest.approx(7 / 16)


def test_light_head_has_ten_thin_maps_a_part():
    with torch.device("meta"):
        head = build("light_head_rcnn", 81).heads.head
    assert head.dense.in_features == 10 * 7 * 7
    assert head.dense.out_features == 2048
    assert (head.box.out_features, head.classes.out_features) == (4, 81)


def test_light_head_learns_from_the_256_hardest_regions_of_an_image_and_counts_their_boxes_twice():
    with torch.device("meta"):
        heads = build("light_head_rcnn", 81).heads
    assert (heads.hard_examples, heads.box_weight) == (256, 2.0)
    assert heads.sampling.regions >= 2 * 2000
    once, twice = small("rfcn").heads, small("light_head_rcnn").heads
    assert once.box_weight == 1.0
    torch.manual_seed(0)
    features, regions = torch.rand(1, 32, 8, 8), torch.tensor([[0.0, 0, 40, 40], [50, 50, 90, 90]])
    target = {"boxes": torch.tensor([[2.0, 2, 44, 40]]), "labels": torch.tensor([1])}
    channels = twice.head.thin_maps.tall_first[0].in_channels
    losses = twice.losses(features[:, :1].expand(1, channels, 8, 8), [regions], [target])
    twice.box_weight = 1.0
    again = twice.losses(features[:, :1].expand(1, channels, 8, 8), [regions], [target])
    torch.testing.assert_close(losses["box"], 2 * again["box"])
    assert losses["box"] > 0


@pytest.mark.parametrize("name", ["rfcn", "light_head_rcnn"])
def test_the_region_proposal_network_is_512_wide(name):
    with torch.device("meta"):
        head = build(name, 21).rpn.head
    assert tuple(head.conv[0][0].weight.shape) == (512, 1024, 3, 3)
    assert head.cls_logits.in_channels == head.bbox_pred.in_channels == 512
    assert head.conv[0][0].bias is not None


def test_a_large_separable_convolution_sees_a_cross_and_its_square():
    layer = LargeSeparableConvolution(1, 2, 3, 7)
    x = torch.zeros(1, 1, 21, 21)
    image = x.clone().requires_grad_()
    layer(image)[0, :, 10, 10].sum().backward()
    rows, columns = torch.where(image.grad[0, 0] != 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 13, 7, 13)
    with pytest.raises(ModelError, match="kernel is 4; it must be odd"):
        small("light_head_rcnn", kernel=4)


@pytest.mark.parametrize(("name", "maps"), [("resnet18", 2), ("resnet50", 2), ("mobilenet_v2", 1)])
def test_features_stay_at_stride_16(name, maps):
    found = stride_16(name).eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(each.shape[2:]) for each in found] == [(4, 6)] * maps


def sample(labels: list[int]) -> Sample:
    regions = torch.tensor([[0.0, 0, 10, 10]]).repeat(len(labels), 1)
    return Sample(regions, torch.tensor(labels, dtype=torch.int64), regions + torch.tensor([1.0, 0, 1, 0]))


def test_the_losses_by_hand():
    logits = torch.zeros(2, 3)
    codes = torch.zeros(2, 12)
    codes[1, 4:8] = torch.tensor([3.0, 0, 0, 0])  # of class 1, which the second region is; it should be 10 * 0.1 = 1
    losses = region_losses(Verdict(logits, codes), [sample([0, 1])])
    torch.testing.assert_close(losses["classification"], torch.tensor(3.0).log())
    torch.testing.assert_close(losses["box"], torch.tensor((2 - 0.5) / 2))  # smooth L1 of 2, over two regions


def test_boxes_that_all_classes_share():
    codes = torch.tensor([[0.0, 0, 0, 0], [1.5, 0, 0, 0]])
    losses = region_losses(Verdict(torch.zeros(2, 3), codes), [sample([0, 2])])
    torch.testing.assert_close(losses["box"], torch.tensor(0.5 * 0.5**2 / 2))


def test_the_hardest_examples_alone_count():
    logits = torch.tensor([[5.0, 0], [0.0, 5.0], [0.0, 1.0], [5.0, 0]], requires_grad=True)
    samples = [sample([0, 0]), sample([0, 0])]
    losses = region_losses(Verdict(logits, torch.zeros(4, 4)), samples, hard_examples=1)
    losses["classification"].backward()
    assert (logits.grad.abs().sum(1) > 0).tolist() == [False, True, True, False]


def test_nothing_sampled_costs_nothing():
    losses = region_losses(Verdict(torch.zeros(0, 3), torch.zeros(0, 12)), [sample([])])
    assert [float(loss) for loss in losses.values()] == [0.0, 0.0]


@pytest.mark.parametrize("name", ["fast_rcnn", "rfcn", "light_head_rcnn"])
def test_soft_suppression_is_an_option(name):
    torch.manual_seed(0)
    model = small(name, suppression="gaussian", nms_threshold=0.3).eval()
    with torch.no_grad():
        (found,) = model([torch.rand(3, 64, 64)])
    assert (found["scores"].diff() <= 0).all()
    with pytest.raises(ModelError, match="suppression is 'none'"):
        small(name, suppression="none")
