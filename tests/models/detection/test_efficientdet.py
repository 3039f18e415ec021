import pytest
import torch

from shardlens.models import build, find
from shardlens.models.detection.efficientdet import STRIDES, BiFPNCell, Fusion, Heads, Pyramid
from shardlens.models.errors import ModelError, WeightsError
from shardlens.pipeline.networks.weights import Checkpoint, load, save

SMALL = {"width": 16, "cells": 1, "depth": 1, "image_size": 128}


def test_d0_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = build("efficientdet", 91)
    published, unused_background = 3_880_067, 9 * (64 + 1)  # the authors' network counts 90 classes
    assert sum(p.numel() for p in model.parameters()) == published + unused_background


def test_five_levels_of_one_width():
    maps = Pyramid("efficientnet_b0", 8, 1)(torch.rand(2, 3, 128, 256))
    assert [tuple(level.shape) for level in maps.values()] == [(2, 8, 128 // s, 256 // s) for s in STRIDES]


@pytest.mark.parametrize("inputs", [2, 3])
def test_fusion_weights_sum_to_one_less_epsilon(inputs):
    fusion = Fusion(inputs, 4)
    shares = fusion.shares()
    torch.testing.assert_close(shares.sum().item(), 1 - 1e-4 / inputs, rtol=0, atol=1e-7)
    with torch.no_grad():
        fusion.weights.copy_(torch.tensor([-2.0, 3.0, 1.0][:inputs]))
    torch.testing.assert_close(
        fusion.shares(), torch.tensor([0.0, 3.0, 1.0][:inputs]) / (sum([0.0, 3.0, 1.0][:inputs]) + 1e-4)
    )


def test_fusion_weighs_its_inputs():
    fusion = Fusion(2, 3).eval()
    fusion.convolution, fusion.norm = torch.nn.Identity(), torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        fusion.weights.copy_(torch.tensor([3.0, 1.0]))
    a, b = torch.rand(2, 1, 3, 4, 4)
    torch.testing.assert_close(fusion([a, b]), torch.nn.functional.silu((3 * a + b) / 4.0001))


@pytest.mark.parametrize(("source", "reached"), [(0, 4), (4, 0)])
def test_levels_hear_of_each_other_both_ways(source, reached):
    cell = BiFPNCell((4,) * 5, 4).eval()
    levels = [torch.rand(1, 4, 32 >> i, 32 >> i, requires_grad=True) for i in range(5)]
    cell(levels)[reached].sum().backward()
    assert levels[source].grad.abs().sum() > 0


def test_heads_share_convolutions_but_not_norms():
    heads = Heads(8, 3, 2)
    names = [name for name, _ in heads.classes.named_parameters()]
    assert len([n for n in names if n.startswith("convolutions.")]) == 2 * 3  # depthwise weight, pointwise weight, bias
    assert len([n for n in names if n.startswith("norms.")]) == 5 * 2 * 2
    with torch.no_grad():
        for norm in list(heads.classes.eval().norms[1].children()):
            norm.weight.zero_()
    level = torch.rand(1, 8, 4, 4)
    logits = heads.classes([level] * 5).reshape(5, 16 * 9, 3)
    torch.testing.assert_close(logits[0], logits[2])
    assert (logits[0] - logits[1]).abs().max() > 1e-4


def one_anchor(logit, code):
    """Losses of one anchor [0, 10] x [0, 10] on an object [2, 12] x [0, 10] of label 1, of two labels."""
    target = {"boxes": torch.tensor([[2.0, 0, 12, 10]]), "labels": torch.tensor([1])}
    outputs = {"cls_logits": torch.tensor([[[-logit, logit]]]), "bbox_regression": torch.tensor([[code]])}
    return Heads(4, 2, 1).compute_loss([target], outputs, [torch.tensor([[0.0, 0, 10, 10]])], [torch.tensor([0])])


def test_losses_by_hand():
    nothing_known = one_anchor(0.0, [0.0, 0, 0, 0])
    # both scores are 1/2: ln 2 x (1/2)^1.5 x (1/4 of the positive + 3/4 of the negative)
    assert nothing_known["classification"].item() == pytest.approx(0.693147 * 0.5**1.5, rel=1e-5)
    # dx is 0.2: Huber's delta x (0.2 - delta / 2) with delta 0.1, the mean of four numbers, times 50
    assert nothing_known["bbox_regression"].item() == pytest.approx(50 * 0.1 * 0.15 / 4, rel=1e-5)
    known = one_anchor(20.0, [0.2, 0, 0, 0])
    assert sum(known.values()).item() == pytest.approx(0, abs=1e-6)


def test_images_are_padded_to_the_coarsest_stride():
    model = build("efficientdet", 3, SMALL).eval()
    batch, _ = model.transform([torch.rand(3, 60, 100)])
    assert tuple(batch.tensors.shape[2:]) == find("efficientdet").input_rule(model).shape(60, 100) == (128, 128)
    assert batch.image_sizes == [(76, 128)]


def test_another_width_is_reported_by_the_first_key():
    wide = build("efficientdet", 3, {**SMALL, "width": 24})
    with pytest.raises(
        WeightsError, match=r"backbone.coarser.0.weight \(24, 320, 1, 1\) in the file, \(16, 320, 1, 1\)"
    ):
        load(build("efficientdet", 3, SMALL), save(wide, Checkpoint("efficientdet", {}, ("a",))), "x")


@pytest.mark.parametrize(("option", "value"), [("width", 0), ("cells", 0), ("depth", 99), ("image_size", 1)])
def test_limits(option, value):
    with pytest.raises(ModelError, match=f"option {option} is {value}"):
        build("efficientdet", 2, {option: value})
