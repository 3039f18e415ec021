import pytest
import torch

from shardlens.models.segmentation.upsampling import bilinear_kernel, bilinear_upsampling


@pytest.mark.parametrize("stride", [2, 8, 32])
def test_a_ramp_is_interpolated_exactly(stride):
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    ramp = (2 * rows - 3 * columns + 1)[None, None]
    found = bilinear_upsampling(1, stride)(ramp)[0, 0]
    y, x = ((torch.arange(size * stride) + 0.5) / stride - 0.5 for size in (6, 7))
    expected = 2 * y[:, None] - 3 * x[None, :] + 1
    inside = slice(stride, -stride)
    assert found.shape == (6 * stride, 7 * stride)
    torch.testing.assert_close(found[inside, inside], expected[inside, inside])


def test_the_kernel_by_two_is_the_known_one():
    quarters = torch.tensor([1.0, 3, 3, 1]) / 4
    assert torch.equal(bilinear_kernel(2), quarters[:, None] * quarters)


def test_channels_begin_apart_and_are_learned():
    layer = bilinear_upsampling(3, 2)
    found = layer(torch.tensor([1.0, 0, 0])[None, :, None, None].expand(1, 3, 4, 4))
    assert found[0, 1:].abs().sum() == 0
    assert found[0, 0, 1:-1, 1:-1].eq(1).all()
    assert layer.weight.requires_grad
