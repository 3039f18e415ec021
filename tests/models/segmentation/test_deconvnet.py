import pytest
import torch
from torch.nn import functional as F

from shardlens.models import build
from shardlens.models.errors import ModelError
from shardlens.models.segmentation.deconvnet import Transposed

SMALL = {"backbone": "vgg11_bn", "width": 2, "head_width": 8}


def _parameters(**options):
    return dict(build("deconvnet", 3, {**SMALL, **options}).named_parameters())


@pytest.mark.parametrize("window", [2, 3])
def test_switches_put_each_value_where_it_came_from(window):
    torch.manual_seed(0)
    model = build("deconvnet", 2, {**SMALL, "window": window}).eval()
    images = torch.randn(1, 3, 128, 128)
    model.head = torch.nn.Identity()
    given, seen = [], []
    model.decoder[-1][-1].register_forward_pre_hook(lambda layer, inputs: given.append(inputs[0]))
    model.backbone.features[-2].register_forward_hook(lambda layer, inputs, output: seen.append(output.clone()))
    model(images)
    (unpooled,), (deepest,) = given, seen
    border = (window - 1) // 2
    pooled, where = F.max_pool2d(deepest, window, 2, border, return_indices=True)
    times = torch.stack([torch.bincount(plane.flatten(), minlength=64) for plane in where[0]]).view_as(deepest)
    torch.testing.assert_close(unpooled, deepest * times)
    torch.testing.assert_close(unpooled.sum(), pooled.sum())


def test_a_tied_decoder_has_the_encoders_kernels_flipped():
    model = build("deconvnet", 2, {**SMALL, "tied": True}).eval()
    stage = model.backbone.stages()[3]
    layer, kernel = model.decoder[3][1], stage[3].weight
    assert layer.weight is None
    x = torch.randn(1, kernel.shape[0], 6, 6)
    flipped = F.conv2d(x, kernel.flip(2, 3).transpose(0, 1), padding=1)
    torch.testing.assert_close(layer(x, kernel), F.relu(layer.norm(flipped)))


def test_a_tied_decoder_learns_through_both_uses_of_a_kernel():
    model = build("deconvnet", 2, {**SMALL, "tied": True})
    own = sum(p.numel() for m in model.decoder.modules() if isinstance(m, Transposed) for p in m.parameters(False))
    biases = 3 + 2 + 4 + 8 + 8 + 16 + 16 + 16 - 1
    assert own == biases + 2 * 2 * 9  # the only kernel of its own, beside the encoder's first, which sees an image
    assert set(_parameters(tied="yes")) < set(_parameters())
    model(torch.rand(2, 3, 32, 32))["out"].square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_papers_size():
    with torch.device("meta"):
        model = build("deconvnet", 21)
    assert [m.weight.shape[:2] for stage in model.decoder[::-1] for m in stage.children()][:2] == [(512, 512)] * 2
    assert model.head[0].weight.shape == (4096, 512, 7, 7)
    assert model.head[6].weight.shape == (4096, 512, 7, 7)
    encoder = sum(p.numel() for p in model.backbone.parameters())
    decoder = sum(p.numel() for p in model.decoder.parameters())
    assert decoder - encoder == 64 * 64 * 9 - 3 * 64 * 9 + _biases(model.decoder) - _biases(model.backbone)


def _biases(module):
    return sum(p.numel() for p in module.parameters() if p.ndim == 1)


@pytest.mark.parametrize("options", [{}, {"window": 3}, {"stages": 2}], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (33, 70)])
def test_any_size_in_the_same_size_out(options, size):
    model = build("deconvnet", 3, {**SMALL, **options}).eval()
    assert model(torch.rand(2, 3, *size))["out"].shape == (2, 3, *size)


def test_windows_cover_what_they_pool():
    with pytest.raises(ModelError, match="option window is 1; it must be between 2 and 4"):
        build("deconvnet", 2, {"window": 1})
