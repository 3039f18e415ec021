import pytest
import torch
from torch import nn

from shardlens.models import build
from shardlens.models.errors import ModelError
from shardlens.models.segmentation.gcn import BoundaryRefinement, GlobalConvolution
from tests.models.segmentation.receptive_field import seen_from_the_middle, square


@pytest.mark.parametrize("kernel", [3, 7])
def test_two_thin_paths_see_what_a_dense_kernel_sees(kernel):
    torch.manual_seed(0)
    dense = nn.Conv2d(2, 3, kernel, padding=(kernel - 1) // 2).double()
    seen = seen_from_the_middle(GlobalConvolution(2, 3, kernel).double(), 2, 21)
    assert torch.equal(seen, seen_from_the_middle(dense, 2, 21))
    assert torch.equal(seen, square(21, kernel))


def test_both_paths_together_are_one_dense_kernel():
    torch.manual_seed(0)
    thin = GlobalConvolution(2, 3, 5).double()
    for p in thin.parameters():
        if p.ndim == 1:
            nn.init.zeros_(p)
    (tall, wide), (wide_too, tall_too) = (
        [layer.weight for layer in path] for path in (thin.tall_first, thin.wide_first)
    )
    dense = torch.einsum("omzx,miyz->oiyx", wide, tall) + torch.einsum("omyz,mizx->oiyx", tall_too, wide_too)
    features = torch.randn(1, 2, 9, 11, dtype=torch.float64)
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(thin(features)[inside], nn.functional.conv2d(features, dense))


def test_borders_are_complete_pixels_and_weights_grow_with_the_kernels_side():
    thin = GlobalConvolution(16, 4, 7)
    assert [layer.padding for path in (thin.tall_first, thin.wide_first) for layer in path] == [
        (3, 0),
        (0, 3),
        (0, 3),
        (3, 0),
    ]
    assert sum(p.numel() for p in thin.parameters() if p.ndim > 1) == 2 * 7 * (16 * 4 + 4 * 4)
    assert thin(torch.rand(1, 16, 5, 9)).shape == (1, 4, 5, 9)


def test_refinement_is_a_residual():
    refinement = BoundaryRefinement(2)
    nn.init.zeros_(refinement.residual[2].weight)
    nn.init.zeros_(refinement.residual[2].bias)
    scores = torch.randn(1, 2, 4, 4)
    assert torch.equal(refinement(scores), scores)


def test_scores_of_four_strides_meet():
    model = build("gcn", 3, {"backbone": "mobilenet_v3_small"}).eval()
    sides = []
    for score in model.scores:
        score.register_forward_hook(lambda layer, inputs, output: sides.append(output.shape[-1]))
    assert model(torch.rand(1, 3, 60, 50))["out"].shape == (1, 3, 60, 50)
    assert sides == [16, 8, 4, 2]


def test_even_kernels_have_no_middle():
    with pytest.raises(ModelError, match="option kernel is 8; it must be odd"):
        build("gcn", 2, {"kernel": 8})
