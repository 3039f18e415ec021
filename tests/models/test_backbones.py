import pytest
import torch
import torchvision

from shardlens.models.backbones import Backbone
from shardlens.models.errors import ModelError


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "efficientnet_b0", "densenet121"])
def test_parameters_keep_torchvisions_names_and_shapes(name):
    published = torchvision.models.get_model(name, weights=None).state_dict()
    ours = Backbone(name, (8, 16)).state_dict()
    assert ours
    assert {key: value.shape for key, value in ours.items()} == {key: published[key].shape for key in ours}


def test_features_at_each_stride():
    backbone = Backbone("resnet18").eval()
    assert [tuple(f.shape) for f in backbone(torch.rand(2, 3, 97, 65))] == [
        (2, 128, 13, 9),
        (2, 256, 7, 5),
        (2, 512, 4, 3),
    ]
    assert backbone.channels == (128, 256, 512)


def test_a_densenet_s_features():
    backbone = Backbone("densenet121").eval()
    assert [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 96))] == [
        (1, 512, 8, 12),
        (1, 1024, 4, 6),
        (1, 1024, 2, 3),
    ]


def test_what_lies_behind_the_last_stride_is_left_out():
    assert not any(key.startswith("layer4") for key in Backbone("resnet18", (4, 16)).state_dict())


@pytest.mark.parametrize(
    ("name", "said"),
    [("resnet19", "resnet18"), ("vit_b_16", "cannot serve"), ("squeezenet1_1", "no features at stride 16")],
)
def test_what_cannot_serve_is_explained(name, said):
    with pytest.raises(ModelError, match=said):
        Backbone(name, (8, 16))


@pytest.mark.parametrize(("name", "channels"), [("efficientnet_b0", 320), ("mobilenet_v2", 320), ("resnet18", 512)])
def test_the_widening_before_the_classifier_can_be_left_out(name, channels):
    assert Backbone(name, (16, 32), widened=False).channels[1] == channels
    assert Backbone(name, (16, 32)).channels[1] == max(channels, 512 if name == "resnet18" else 1280)
