import pytest
import torch

from shardlens.models import build
from shardlens.models.segmentation.parsenet import L2Norm

SMALL = {"width": 4, "head_width": 16}


def test_length_one_by_hand():
    norm = L2Norm(2)
    found = norm(torch.tensor([3.0, 4.0])[None, :, None, None])
    torch.testing.assert_close(found.flatten(), torch.tensor([6.0, 8.0]))


def test_a_dead_pixel_stays_zero_and_passes_a_finite_gradient():
    features = torch.zeros(1, 2, 1, 1, requires_grad=True)
    L2Norm(2)(features).sum().backward()
    assert torch.isfinite(features.grad).all()


def test_every_pixel_sees_the_same_mean_of_the_whole_image():
    torch.manual_seed(0)
    model = build("parsenet", 3, SMALL).eval()
    features = torch.rand(2, 16, 5, 7)
    both = model.with_context(features)
    assert both.shape == (2, 32, 5, 7)
    assert torch.equal(both[:, :16], model.local_norm(features))
    assert (both[:, 16:] == both[:, 16:, :1, :1]).all()
    mean = features.mean(dim=(2, 3))
    torch.testing.assert_close(both[:, 16:, 0, 0], 10 * mean / mean.norm(dim=1, keepdim=True))


def test_a_far_corner_changes_every_logit():
    torch.manual_seed(0)
    model = build("parsenet", 2, SMALL).eval().double()
    image = torch.rand(1, 3, 256, 256, dtype=torch.float64)
    other = image.clone()
    other[..., -8:, -8:] += 5
    assert ((model(image)["out"] - model(other)["out"])[..., :8, :8] != 0).all()


@pytest.mark.parametrize("size", [(1, 1), (33, 70)])
def test_any_size_in_the_same_size_out(size):
    model = build("parsenet", 3, SMALL).eval()
    assert model(torch.rand(2, 3, *size))["out"].shape == (2, 3, *size)
