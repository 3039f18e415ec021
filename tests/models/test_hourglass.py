import pytest
import torch
from torch import nn

from shardlens.models.hourglass import Bottleneck, Hourglass, Residual


@pytest.mark.parametrize("block", [Residual, Bottleneck])
@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 6, 1), (4, 6, 2), (4, 4, 2)])
def test_blocks_give_what_is_asked(block, inputs, outputs, stride):
    assert block(inputs, outputs, stride)(torch.rand(2, inputs, 8, 12)).shape == (2, outputs, 8 // stride, 12 // stride)


def test_features_come_back_at_their_own_size():
    hourglass = Hourglass((4, 6, 8, 8), 2, 3, Residual)
    assert hourglass(torch.rand(1, 4, 16, 24)).shape == (1, 4, 16, 24)


def test_every_scale_has_its_blocks():
    hourglass = Hourglass((2, 2, 2, 2), 2, 4, Residual)
    assert sum(isinstance(module, Residual) for module in hourglass.modules()) == 3 * (2 + 2 + 2) + 4


def test_a_cell_hears_of_the_whole_map():
    torch.manual_seed(0)
    hourglass = Hourglass((8,) * 4, 1, 1, Bottleneck).eval()
    x = torch.rand(1, 8, 32, 32, requires_grad=True)
    hourglass(x)[0, :, 0, 0].sum().backward()
    assert x.grad[0, :, 24:32, 24:32].abs().sum() > 0


def test_the_skip_keeps_what_the_coarse_scale_loses():
    hourglass = Hourglass((1, 1), 1, 1, lambda inputs, outputs, stride: nn.MaxPool2d(stride))
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    torch.testing.assert_close(hourglass(x), x + 4)
