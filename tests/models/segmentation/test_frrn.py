import pytest
import torch
from torch import nn

from shardlens.models import build
from shardlens.models.segmentation.frrn import _at


def test_both_streams_resolutions_per_unit():
    model = build("frrn_a", 3, {"width": 2, "residual": 3}).eval()
    found = []
    for unit in model.units:
        unit.register_forward_hook(lambda layer, inputs, output: found.append([tuple(x.shape[1:]) for x in output]))
    model(torch.rand(1, 3, 32, 64))
    scales = [2] * 3 + [4] * 4 + [8] * 2 + [16] * 2 + [8] * 2 + [4] * 2 + [2] * 2
    channels = [4] * 3 + [8] * 4 + [16] * 2 + [16] * 2 + [8] * 2 + [8] * 2 + [4] * 2
    pooled = [(c, 32 // s, 64 // s) for c, s in zip(channels, scales, strict=True)]
    assert found == [[shape, (3, 32, 64)] for shape in pooled]


def test_the_papers_number_of_parameters():
    with torch.device("meta"):
        model = build("frrn_a", 19)
    assert sum(p.numel() for p in model.parameters()) == 17_746_803


def test_the_pooling_stream_grows_bilinearly():
    pooled = torch.tensor([[[[0.0, 1.0]]]])
    assert _at(pooled, 4)[0, 0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]


def test_the_split_is_normalized_and_the_first_unit_after_the_streams_join_maps_them_itself():
    model = build("frrn_a", 3, {"width": 2, "residual": 3})
    assert [type(layer) for layer in model.split] == [nn.Conv2d, nn.BatchNorm2d]
    assert model.split[0].bias is None
    first, *others = model.tail
    assert (first.skip.in_channels, first.skip.out_channels, first.skip.bias) == (2 * 2 + 3, 2, None)
    assert first.body[0].in_channels == 2 * 2 + 3
    assert [type(unit.skip) for unit in others] == [nn.Identity] * 2


def test_units_only_add_to_the_full_stream():
    torch.manual_seed(0)
    model = build("frrn_a", 2, {"width": 2, "residual": 3}).eval()
    unit = model.units[0]
    pooled, full = torch.rand(1, 2, 8, 8), torch.rand(1, 3, 16, 16)
    new_pooled, new_full = unit(pooled, full)
    added = unit.to_residual(new_pooled)
    torch.testing.assert_close(new_full - full, added.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


@pytest.mark.parametrize("size", [(1, 1), (33, 70)])
def test_any_size_in_the_same_size_out(size):
    model = build("frrn_a", 3, {"width": 2, "residual": 2}).eval()
    assert model(torch.rand(2, 3, *size))["out"].shape == (2, 3, *size)
