"""The operators of unpooling and deconvolution, on numbers that can be followed by hand."""

import pytest
import torch
from torch.nn import functional as F

from shardlens.models.segmentation.unpooling import unpool_add


def _map(*rows):
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def test_a_transposed_convolution_by_hand():
    kernel = _map((1, 4, 1), (1, 4, 3), (3, 3, 1))
    found = F.conv_transpose2d(_map((2, 1), (4, 4)), kernel)
    assert torch.equal(found, _map((2, 9, 6, 1), (6, 29, 30, 7), (10, 29, 33, 13), (12, 24, 16, 4)))


def test_stamping_adds_a_scaled_kernel_at_every_pixel():
    image, kernel = _map((120, 150, 120), (100, 50, 110), (25, 25, 10)), _map((1, -1), (2, -2))
    stamped = torch.zeros(1, 1, 4, 4)
    for row in range(3):
        for column in range(3):
            stamped[..., row : row + 2, column : column + 2] += image[0, 0, row, column] * kernel
    by_hand = _map((120, 30, -30, -120), (340, 10, 0, -350), (225, -100, 105, -230), (50, 0, -30, -20))
    assert torch.equal(stamped, by_hand)
    assert torch.equal(F.conv_transpose2d(image, kernel), by_hand)


def test_overlapping_windows_add():
    switches = torch.tensor([[[[1, 1], [3, 5]]]])
    found = unpool_add(_map((300, 450), (100, 250)), switches, 3, 3)
    assert torch.equal(found, _map((0, 750, 0), (100, 0, 250), (0, 0, 0)))


def test_windows_apart_unpool_as_torch_has_it():
    image = torch.randn(2, 3, 7, 9)
    pooled, switches = F.max_pool2d(image, 2, return_indices=True)
    assert torch.equal(unpool_add(pooled, switches, 7, 9), F.max_unpool2d(pooled, switches, 2, output_size=(7, 9)))


@pytest.mark.parametrize("stride", [1, 2])
def test_unpooling_is_the_adjoint_of_pooling(stride):
    image = torch.randn(1, 2, 9, 9, dtype=torch.float64, requires_grad=True)
    pooled, switches = F.max_pool2d(image, 3, stride, return_indices=True)
    weights = torch.randn_like(pooled)
    (gradient,) = torch.autograd.grad((pooled * weights).sum(), image)
    torch.testing.assert_close(unpool_add(weights, switches, 9, 9), gradient)


def test_gradients_pass_by_the_switches():
    pooled, switches = torch.ones(1, 1, 2, 2, requires_grad=True), torch.tensor([[[[1, 1], [3, 5]]]])
    (unpool_add(pooled, switches, 3, 3) * torch.arange(9.0).reshape(3, 3)).sum().backward()
    assert pooled.grad.flatten().tolist() == [1, 1, 3, 5]
