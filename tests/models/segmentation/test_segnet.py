import pytest
import torch
import torchvision
from torch import nn

from shardlens.models import build, find
from shardlens.models.errors import ModelError


def test_switches_put_each_value_where_it_came_from():
    torch.manual_seed(0)
    model = build("segnet", 2, {"width": 2}).eval()
    given = []
    model.decoder[0].register_forward_pre_hook(lambda block, inputs: given.append(inputs[0].clone()))
    images = torch.randn(2, 3, 64, 96)
    model(images)
    deepest = pooled = images
    for stage in model.backbone.stages():
        deepest = stage(pooled)
        pooled = nn.functional.max_pool2d(deepest, 2)
    (unpooled,) = given
    filled = unpooled != 0
    assert unpooled.shape == deepest.shape
    assert 0 < filled.sum() <= pooled.numel()
    assert torch.equal(unpooled[filled], deepest[filled])  # each value lies where the encoder had it
    assert torch.equal(nn.functional.max_pool2d(unpooled, 2), pooled)  # and none was lost


def test_the_decoder_mirrors_the_encoder():
    model = build("segnet", 21, {"width": 2})
    encoder = [m for m in model.backbone.features if isinstance(m, nn.Conv2d)]
    decoder = [m for block in model.decoder for m in block if isinstance(m, nn.Conv2d)]
    assert len(encoder) == len(decoder) == 13
    mirrored = [(m.out_channels, m.in_channels) for m in reversed(encoder)]
    assert [(m.in_channels, m.out_channels) for m in decoder] == [*mirrored[:-1], (2, 21)]


def test_an_imagenet_classifier_fits():
    with torch.device("meta"):
        ours = build("segnet", 2).backbone.state_dict()
        published = torchvision.models.vgg16_bn(weights=None).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in published.items() if k in ours}
    assert len(ours) == sum(k.startswith("features") for k in published)


@pytest.mark.parametrize("size", [(1, 1), (33, 70), (64, 32)])
def test_any_size_in_the_same_size_out(size):
    model = build("segnet", 3, {"width": 2}).eval()
    assert model(torch.rand(2, 3, *size))["out"].shape == (2, 3, *size)


def test_fewer_stages_pool_less_often():
    model = build("segnet", 3, {"width": 2, "stages": 2}).eval()
    assert find("segnet").input_rule(model).multiple == 4
    assert model(torch.rand(1, 3, 7, 9))["out"].shape == (1, 3, 7, 9)
    with pytest.raises(ModelError, match="option stages is 6; it must be between 1 and 5"):
        build("segnet", 3, {"stages": 6})


def test_it_is_built_on_a_vgg():
    with pytest.raises(ModelError, match="backbone is 'vgg16bn'; this network is built on a VGG, nearest: vgg16_bn"):
        build("segnet", 2, {"backbone": "vgg16bn"})
