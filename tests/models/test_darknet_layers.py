import math

import pytest
import torch

from shardlens.models.darknet.cfg import parse
from shardlens.models.darknet.layers import ACTIVATIONS, MaxPool, Reorg, Route, Shape, Shortcut, Upsample, build
from shardlens.models.errors import ModelError

NINE = torch.arange(1.0, 10).reshape(1, 1, 3, 3)


def layer(kind, body, *shapes):
    return build(parse(f"[net]\n[{kind}]\n{body}")[1], len(shapes) - 1, shapes)


def test_pooling_of_size_2_and_stride_1_keeps_the_size():
    assert MaxPool(2, (1, 1), 1)(NINE)[0, 0].tolist() == [[5, 6, 6], [8, 9, 9], [8, 9, 9]]


def test_pooling_never_takes_the_padding():
    assert MaxPool(2, (1, 1), 1)(-NINE)[0, 0].tolist() == [[-1, -2, -3], [-4, -5, -6], [-7, -8, -9]]


def test_pooling_of_an_odd_side_keeps_its_last_pixel():
    assert MaxPool(2, (2, 2), 1)(NINE)[0, 0].tolist() == [[5, 6], [8, 9]]
    assert MaxPool(2, (2, 2), 0)(NINE)[0, 0].tolist() == [[5]]


def test_pooling_with_an_odd_size_pads_both_sides():
    assert MaxPool(3, (1, 1), 2)(NINE)[0, 0].tolist() == [[5, 6, 6], [8, 9, 9], [8, 9, 9]]
    assert MaxPool(3, (2, 1), 2)(-NINE)[0, 0].tolist() == [[-1, -1, -2], [-4, -4, -5]]


@pytest.mark.parametrize("side", range(4, 12))
@pytest.mark.parametrize(("size", "stride"), [(2, 1), (2, 2), (3, 1), (3, 2), (5, 1), (4, 3)])
def test_pooling_gives_the_foretold_shape_and_darknets_loop(side, size, stride):
    built = layer("maxpool", f"size={size}\nstride={stride}", Shape(1, side, side))
    x = torch.randn(1, 1, side, side)
    pooled = built.module(x)
    assert tuple(pooled.shape[1:]) == built.shape
    for row in range(built.shape.height):
        low = row * stride - (size - 1) // 2
        window = x[0, 0, max(0, low) : low + size, max(0, -((size - 1) // 2)) : size - (size - 1) // 2]
        assert pooled[0, 0, row, 0] == window.max()


def test_route_takes_a_group_of_every_source():
    first, second = torch.arange(4.0).reshape(1, 4, 1, 1), torch.arange(10.0, 12).reshape(1, 2, 1, 1)
    assert Route(2, 1)(first, second).flatten().tolist() == [2, 3, 11]
    assert Route(1, 0)(first, second).flatten().tolist() == [0, 1, 2, 3, 10, 11]
    built = layer("route", "layers=-1,0\ngroups=2", Shape(3, 8, 8), Shape(4, 8, 8), Shape(2, 8, 8))
    assert (built.sources, built.shape) == ((1, 0), Shape(3, 8, 8))


def test_shortcut_adds_then_activates():
    assert Shortcut(torch.nn.ReLU())(NINE, -2 * NINE, NINE - 3).flatten().tolist() == [0] * 9
    built = layer("shortcut", "from=-3,0\nactivation=leaky", *[Shape(2, 4, 4)] * 4)
    assert built.sources == (2, 0, 0)
    assert built.module(*[torch.tensor([-1.0])] * 3).item() == pytest.approx(-0.3)


def test_upsample_repeats_and_scales():
    assert Upsample(2, 0.5)(NINE[:, :, :1, :2])[0, 0].tolist() == [[0.5, 0.5, 1, 1]] * 2


def reorganized(maps, stride):
    """Darknet's loop over one image's memory, one index after another."""
    channels, height, width = maps.shape
    memory, result, few = maps.flatten(), torch.empty(maps.numel()), channels // stride**2
    for k in range(channels):
        for row in range(height):
            for column in range(width):
                y, x = row * stride + k // few // stride, column * stride + k // few % stride
                place = x + width * stride * (y + height * stride * (k % few))
                result[column + width * (row + height * k)] = memory[place]
    return result.reshape(channels * stride**2, height // stride, width // stride)


@pytest.mark.parametrize(("channels", "height", "width", "stride"), [(8, 4, 6, 2), (4, 2, 2, 2), (9, 3, 6, 3)])
def test_reorg_has_darknets_order(channels, height, width, stride):
    maps = torch.arange(1.0, 1 + channels * height * width).reshape(channels, height, width)
    built = layer("reorg", f"stride={stride}", Shape(channels, height, width))
    (found,) = built.module(maps[None])
    assert found.shape == built.shape
    assert torch.equal(found, reorganized(maps, stride))


def test_reorg_is_not_the_usual_space_to_depth():
    maps = torch.arange(32.0).reshape(1, 8, 2, 2)
    assert not torch.equal(Reorg(2)(maps), torch.nn.functional.pixel_unshuffle(maps, 2))
    # of one map of 4 x 4 instead: what lies beside and below each other in it
    assert Reorg(2)(maps[:, :4]).flatten().tolist() == [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]


@pytest.mark.parametrize("shape", [Shape(6, 4, 4), Shape(4, 5, 4), Shape(4, 4, 5)])
def test_reorg_of_what_the_stride_divides_not(shape):
    with pytest.raises(ModelError, match=r"\[reorg\]: stride=2 divides not \d channels of \d x \d"):
        layer("reorg", "stride=2", shape)


def test_dropout_is_for_training():
    module = layer("dropout", "probability=0.25", Shape(1, 1, 1)).module
    assert module.p == 0.25
    assert torch.equal(module.eval()(NINE), NINE)
    with pytest.raises(ModelError, match=r"probability=1.0, expected a share from 0 to 1"):
        layer("dropout", "probability=1", Shape(1, 1, 1))


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("filters=5\nsize=3\npad=1\nstride=2", (5, 4, 5)),
        ("filters=5\nsize=3\npad=1\npadding=7", (5, 8, 9)),
        ("filters=5\nsize=3\npadding=2\ndilation=2", (5, 12, 13)),
        ("filters=5\nsize=3\npad=1\ndilation=3", (5, 8, 9)),
        ("filters=6\nsize=1\ngroups=2\nstride_x=3", (6, 8, 3)),
        ("", (1, 8, 9)),
    ],
)
def test_convolutions_give_the_foretold_shape(body, shape):
    built = layer("convolutional", body, Shape(4, 8, 9))
    assert built.shape == shape == tuple(built.module(torch.rand(1, 4, 8, 9)).shape[1:])


def test_a_convolution_is_by_default_followed_by_a_sigmoid():
    built = layer("convolutional", "", Shape(1, 1, 1))
    torch.nn.init.zeros_(built.module[0].weight)
    torch.nn.init.constant_(built.module[0].bias, math.log(3))
    assert built.module(torch.ones(1, 1, 1, 1)).item() == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("name", "at_minus_one", "at_two"),
    [
        ("linear", -1, 2),
        ("leaky", -0.1, 2),
        ("relu", 0, 2),
        ("relu6", 0, 2),
        ("elu", math.expm1(-1), 2),
        ("selu", 1.0507 * 1.6733 * math.expm1(-1), 2.1014),
        ("gelu", -0.158808, 1.954598),
        ("logistic", 1 / (1 + math.e), 1 / (1 + math.exp(-2))),
        ("tanh", math.tanh(-1), math.tanh(2)),
        ("swish", -1 / (1 + math.e), 2 / (1 + math.exp(-2))),
        ("mish", -math.tanh(math.log1p(math.exp(-1))), 2 * math.tanh(math.log1p(math.exp(2)))),
    ],
)
def test_activations(name, at_minus_one, at_two):
    values = ACTIVATIONS[name]()(torch.tensor([-1.0, 2.0]))
    assert values.tolist() == pytest.approx([at_minus_one, at_two], abs=1e-3)


def test_normalization_adds_darknets_epsilon():
    built = layer("convolutional", "batch_normalize=1", Shape(1, 1, 1))
    convolution, norm, _ = built.module
    assert convolution.bias is None
    assert norm.eps == 1e-6
