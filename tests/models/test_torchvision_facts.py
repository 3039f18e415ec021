"""What the papers say of the networks that torchvision has."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_inference, maskrcnn_loss
from torchvision.ops import FeaturePyramidNetwork

from shardlens.models import build, find
from shardlens.models.torchvision_zoo import SPECS


def test_ssd300_has_8732_default_boxes():
    with torch.device("meta"):
        model = build("ssd300_vgg16", 21)
    maps = [torch.zeros(1, 1, side, side) for side in (38, 19, 10, 5, 3, 1)]
    boxes = model.anchor_generator(ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), maps)
    assert [tuple(each.shape) for each in boxes] == [(8732, 4)]
    assert model.anchor_generator.num_anchors_per_location() == [4, 6, 6, 6, 4, 4]


def test_the_feature_pyramid_upsamples_by_nearest_neighbor():
    torch.manual_seed(0)
    pyramid = FeaturePyramidNetwork([4, 8], 6)
    fine, coarse = torch.rand(1, 4, 8, 8), torch.rand(1, 8, 4, 4)
    found = pyramid({"fine": fine, "coarse": coarse})
    inner = pyramid.inner_blocks[1](coarse)
    repeated = inner.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(found["fine"], pyramid.layer_blocks[0](pyramid.inner_blocks[0](fine) + repeated))


def test_the_masks_of_mask_rcnn_do_not_compete():
    logits = torch.randn(1, 3, 28, 28)
    other = logits.clone()
    other[:, 1] += 50.0  # however sure another class is
    for masks in (logits, other):
        (found,) = maskrcnn_inference(masks, [torch.tensor([2])])
        torch.testing.assert_close(found[:, 0], logits[:, 2].sigmoid())


def test_the_mask_loss_is_that_of_the_true_class_alone():
    logits = torch.randn(1, 3, 28, 28, requires_grad=True)
    truth, box = torch.ones(1, 28, 28), torch.tensor([[0.0, 0, 28, 28]])
    loss = maskrcnn_loss(logits, [box], [truth], [torch.tensor([2])], [torch.tensor([0])])
    loss.backward()
    assert (logits.grad.abs().sum((0, 2, 3)) > 0).tolist() == [False, False, True]
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits[:, 2], truth))


@pytest.mark.parametrize(
    "family", ["fasterrcnn", "maskrcnn", "retinanet", "fcos_resnet50", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large"]
)
def test_every_family_of_the_lectures_is_there(family):
    names = [spec.name for spec in SPECS if spec.name.startswith(family)]
    assert names
    assert all(find(name).trainable and find(name).source == "torchvision" for name in names)
