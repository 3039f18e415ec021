import sys

import pytest
import torch
import torchvision
from torch import nn

from shardlens.models import build
from shardlens.models.errors import ModelError
from shardlens.models.segmentation import smp

SMALL = {"encoder": "mobilenet_v2", "width": 64}
NAMES = ["unetplusplus", "pspnet", "deeplabv3plus", "fpn"]


def test_pspnet_pools_at_four_sizes_of_an_eighth():
    model = build("pspnet", 3, SMALL).eval()
    sizes = []
    pools = [m for m in model.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    for pool in pools:
        pool.register_forward_hook(lambda layer, inputs, output: sizes.append((inputs[0].shape[2:], output.shape[2:])))
    model(torch.rand(1, 3, 64, 96))
    assert sizes == [((8, 12), (side, side)) for side in (1, 2, 3, 6)]


@pytest.mark.parametrize("name", NAMES)
def test_any_size_in_the_same_size_out(name):
    model = build(name, 3, SMALL).eval()
    assert model(torch.rand(2, 3, 33, 70))["out"].shape == (2, 3, 33, 70)


@pytest.mark.parametrize("name", NAMES)
def test_one_image_of_one_cell_trains(name):
    model = build(name, 3, SMALL).train()
    model(torch.rand(1, 3, 32, 64))["out"].sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_an_imagenet_classifier_fits_the_backbone():
    ours = build("fpn", 2, {"encoder": "resnet18", "width": 64}).backbone.state_dict()
    published = torchvision.models.resnet18(weights=None).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: published[k].shape for k in ours}


@pytest.mark.parametrize("name", ["unetplusplus", "pspnet"])
def test_encoders_of_timm_serve_too(name):
    model = build(name, 2, {"encoder": "tu-mobilenetv3_small_050", "width": 4}).eval()
    assert model(torch.rand(1, 3, 40, 40))["out"].shape == (1, 2, 40, 40)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("fpn", {"encoder": "resnet19"}, "no encoder 'resnet19'; nearest: .*resnet18"),
        ("pspnet", {"encoder": "vgg11"}, "pspnet cannot be built on the encoder vgg11: .*dilated"),
        ("fpn", {"encoder": "resnet18", "width": 40}, r"fpn cannot be built .*num_channels \(20\)"),
    ],
)
def test_what_cannot_be_built_is_explained(name, options, said):
    with pytest.raises(ModelError, match=said):
        build(name, 2, options)


def test_the_library_is_an_extra_that_only_a_build_asks_for(monkeypatch):
    assert "segmentation_models_pytorch" not in vars(smp)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    said = r"fpn needs the package segmentation_models_pytorch, an extra: pip install 'shardlens\[smp\]'"
    with pytest.raises(ModelError, match=said):
        build("fpn", 2)
