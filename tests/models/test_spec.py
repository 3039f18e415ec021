import random

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.functional import resize

from shardlens.models.spec import InputRule
from shardlens.models.torchvision_zoo import transform_rule

SIDES = [1, 2, 3, 7, 29, 33, 97, 128, 333, 427, 480, 499, 500, 511, 640, 641, 799, 800, 801, 1080, 1334, 2000, 4001]
PAIRS = [(height, width) for height in SIDES for width in SIDES]


def transform(min_size, max_size, fixed=None, multiple=32):
    model = torch.nn.Module()
    model.transform = GeneralizedRCNNTransform(
        min_size, max_size, [0.5] * 3, [0.25] * 3, size_divisible=multiple, fixed_size=fixed
    )
    return model.eval()


def real_shapes(model, height, width):
    """(resized, padded) shape that the transform itself makes, on a device that holds no pixels."""
    made, _ = model.transform([torch.empty(3, height, width, device="meta")])
    return made.image_sizes[0], tuple(made.tensors.shape[2:])


@pytest.mark.parametrize(("shortest", "longest"), [(800, 1333), (320, 640), (128, 256), (7, 1000)])
def test_torchvisions_transform_is_foretold_to_the_pixel(shortest, longest):
    model = transform(shortest, longest)
    rule = transform_rule(model)
    for height, width in random.Random(shortest).sample(PAIRS, 150):
        if max(height, width) < longest * min(height, width):  # beyond, the shorter side would vanish
            expected = real_shapes(model, height, width)
            assert (rule.resized(height, width), rule.shape(height, width)) == expected, (height, width)


def test_a_vanishing_side_keeps_one_pixel():
    model = transform(320, 640)
    with pytest.raises(RuntimeError, match="greater than 0"):
        model.transform([torch.zeros(3, 1, 2000)])
    assert transform_rule(model).resized(1, 2000) == (1, 640)


def test_a_rounded_product_can_fall_a_pixel_short():
    rule = InputRule(min_size=800, max_size=100_000)
    short = [side for side in range(1, 800) if rule.resized(side, side) == (799, 799)]
    assert short
    assert InputRule(min_size=800).resized(short[0], short[0]) == (800, 800)


def test_the_last_of_several_sizes_counts_and_fixed_is_width_first():
    assert transform_rule(transform((640, 672, 800), 1333)).min_size == 800
    stretched = transform(300, 200, fixed=(300, 200), multiple=1)
    assert transform_rule(stretched).fixed == (200, 300)
    assert real_shapes(stretched, 50, 70) == ((200, 300), (200, 300))


@pytest.mark.parametrize("size", [520, 33])
def test_without_a_longest_side_it_is_torchvisions_resize(size):
    rule = InputRule(min_size=size)
    for height, width in random.Random(size).sample(PAIRS, 100):
        if max(height, width) < 60 * min(height, width):
            expected = resize(torch.empty(1, height, width, device="meta"), [size], antialias=True).shape[1:]
            assert rule.resized(height, width) == tuple(expected), (height, width)


@pytest.mark.parametrize(
    ("rule", "size", "shape"),
    [
        (InputRule(), (33, 70), (33, 70)),
        (InputRule(multiple=16), (33, 64), (48, 64)),
        (InputRule(fixed=(416, 320)), (33, 70), (416, 320)),
        (InputRule(min_size=100, max_size=150, multiple=32), (50, 100), (96, 160)),
    ],
)
def test_padded_shapes_by_hand(rule, size, shape):
    assert rule.shape(*size) == shape


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (InputRule(fixed=(300, 200)), "300x200"),
        (InputRule(min_size=800, max_size=1333, multiple=32), "800..1333 by 32"),
        (InputRule(min_size=520), "520"),
        (InputRule(multiple=16), "any by 16"),
        (InputRule(), "any"),
    ],
)
def test_a_rule_says_itself_in_a_word(rule, said):
    assert str(rule) == said
