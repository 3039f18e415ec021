import pytest
import torch
from torchvision.models.segmentation import FCN_ResNet50_Weights

from shardlens.models import build, find
from shardlens.models.errors import ModelError
from shardlens.models.inputs import prepare, restore
from shardlens.models.spec import InputRule
from tests.models.samples import sample_images

PRESET = InputRule(min_size=520, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def test_it_is_torchvisions_preset():
    (image,) = sample_images((180, 240))
    theirs = FCN_ResNet50_Weights.DEFAULT.transforms()(image)
    with torch.device("meta"):
        model = build("fcn_resnet50", 2)
    assert find("fcn_resnet50").input_rule(model) == PRESET
    torch.testing.assert_close(prepare([image], PRESET)[0], theirs, rtol=0, atol=1e-5)


def test_bytes_and_floats_are_the_same_image():
    pixels = torch.arange(0, 192, dtype=torch.uint8).reshape(3, 8, 8)
    torch.testing.assert_close(prepare([pixels], PRESET), prepare([pixels / 255], PRESET))


def test_padding_is_right_and_below_and_zero():
    rule = InputRule(multiple=4, mean=(0.5,), std=(0.25,))
    batch = prepare([torch.ones(1, 3, 2), torch.zeros(1, 2, 4)], rule)
    assert batch.shape == (2, 1, 4, 4)
    assert batch[0, 0].tolist() == [[2, 2, 0, 0]] * 3 + [[0] * 4]
    assert batch[1, 0].tolist() == [[-2] * 4] * 2 + [[0] * 4] * 2


def test_an_image_is_prepared_as_if_alone():
    rule = InputRule(min_size=20, multiple=8)
    images = sample_images((30, 40), (33, 45), (60, 80))
    together = prepare(images, rule)
    assert together.shape == (3, 3, 24, 32)
    for image, batched in zip(images, together, strict=True):
        assert torch.equal(prepare([image], rule)[0], batched)


def test_restore_cuts_the_padding_and_resizes_back():
    rule = InputRule(min_size=4, multiple=8)
    logits = torch.full((2, 1, 8, 8), -9.0)
    logits[:, :, :4, :4] = torch.tensor([1.0, 1.0, 3.0, 3.0])
    small, large = restore(logits, rule, [(4, 4), (8, 8)])
    assert small[0].tolist() == [[1, 1, 3, 3]] * 4
    assert large[0].tolist() == [[1, 1, 1, 1.5, 2.5, 3, 3, 3]] * 8


@pytest.mark.parametrize("rule", [InputRule(), InputRule(multiple=16), InputRule(fixed=(32, 16))])
def test_restore_gives_the_images_sizes(rule):
    images = sample_images((21, 30))
    batch = prepare(images, rule)
    assert batch.shape[2:] == rule.shape(21, 30)
    (logits,) = restore(batch, rule, [(21, 30)])
    assert logits.shape == (3, 21, 30)


def test_images_that_cannot_share_a_batch_are_refused():
    with pytest.raises(ModelError, match=r"one padded shape; got 2 images of \[\(8, 8\), \(8, 16\)\]"):
        prepare(sample_images((8, 8), (8, 9)), InputRule(multiple=8))


def test_channels_must_be_the_models():
    with pytest.raises(ModelError, match="takes 3 channels; the image has 1"):
        prepare([torch.zeros(1, 8, 8)], PRESET)
