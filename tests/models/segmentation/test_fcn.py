import pytest
import torch
import torchvision
from torch import nn

from shardlens.models import build
from shardlens.models.errors import ModelError

SMALL = {"width": 4, "head_width": 16}


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
@pytest.mark.parametrize("size", [(1, 1), (64, 32), (33, 70)])
def test_any_size_in_the_same_size_out(name, size):
    model = build(name, 3, SMALL).eval()
    assert model(torch.rand(2, 3, *size))["out"].shape == (2, 3, *size)


@pytest.mark.parametrize(
    ("name", "finest", "maps"), [("fcn32s", 32, [5]), ("fcn16s", 16, [5, 4]), ("fcn8s", 8, [5, 4, 3])]
)
def test_which_pooled_maps_are_scored(name, finest, maps):
    model = build(name, 3, {"backbone": "vgg16", **SMALL})
    channels = {3: 16, 4: 32, 5: 32}
    assert [layer.in_channels for layer in model.skips] == [channels[i] for i in sorted(maps)[:-1]]
    assert model.last_up.stride == (finest, finest)
    pooled = model.backbone(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape[2:]) for m in pooled] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]


def test_the_papers_size_and_torchvisions_names():
    with torch.device("meta"):
        model = build("fcn8s", 21)
        vgg = torchvision.models.vgg16(weights=None)
    assert (model.head[0].weight.shape, model.head[3].weight.shape) == ((4096, 512, 7, 7), (4096, 4096, 1, 1))
    published = {k: v.shape for k, v in vgg.state_dict().items() if k.startswith("features")}
    ours = {k.removeprefix("backbone."): v.shape for k, v in model.state_dict().items() if k.startswith("backbone.")}
    assert ours == published
    fully_connected = sum(p.numel() for k, p in vgg.named_parameters() if k[:12] in ("classifier.0", "classifier.3"))
    assert sum(p.numel() for p in model.head.parameters()) == fully_connected


def test_skips_begin_as_nothing_and_learn():
    model = build("fcn8s", 3, SMALL).eval()
    assert all(skip.weight.count_nonzero() == 0 for skip in model.skips)
    model(torch.rand(1, 3, 64, 64))["out"].square().sum().backward()
    assert all(skip.weight.grad.abs().sum() > 0 for skip in model.skips)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small"])
def test_any_backbone_with_these_strides_serves(backbone):
    model = build("fcn8s", 2, {"backbone": backbone, "head_width": 0}).eval()
    assert isinstance(model.head, nn.Identity)
    assert model(torch.rand(1, 3, 50, 60))["out"].shape == (1, 2, 50, 60)


def test_only_a_vgg_has_a_width():
    with pytest.raises(ModelError, match="width is 8: only a VGG has another than 64; the backbone is resnet18"):
        build("fcn8s", 2, {"backbone": "resnet18", "width": 8})
