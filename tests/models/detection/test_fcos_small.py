import pytest
import torch

from shardlens.models import build, find
from shardlens.models.detection.fcos_small import SmallPyramid
from shardlens.models.errors import ModelError
from tests.models.samples import sample_images


def test_the_pyramid_has_three_scales_of_one_width():
    maps = SmallPyramid(8)(torch.rand(2, 3, 64, 96))
    assert [tuple(level.shape) for level in maps.values()] == [(2, 64, 8, 12), (2, 64, 4, 6), (2, 64, 2, 3)]


def test_the_finest_scale_sees_the_coarsest():
    pyramid = SmallPyramid(4).eval()
    image = torch.rand(1, 3, 128, 128, requires_grad=True)
    pyramid(image)["0"][0, :, 0, 0].sum().backward()
    assert image.grad[0, :, 50:70, 50:70].abs().sum() > 0  # the finest alone sees some 30 pixels


def test_it_finds_a_square_after_a_few_steps():
    torch.manual_seed(0)
    model = build("fcos_small", 2, {"width": 8, "min_size": 64, "score_threshold": 0.3}).train()
    images, targets = [], []
    for x in (4, 12, 20, 30):
        image = torch.zeros(3, 64, 64)
        image[:, 10:34, x : x + 24] = 1
        images.append(image)
        targets.append({"boxes": torch.tensor([[x, 10.0, x + 24, 34]]), "labels": torch.tensor([1])})
    optimizer = torch.optim.AdamW(model.parameters(), 0.004)
    for _ in range(60):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (found,) = model.eval()(images[1:2])
    assert found["labels"][0] == 1
    torch.testing.assert_close(found["boxes"][0], targets[1]["boxes"][0], rtol=0, atol=3)


def test_images_are_resized_to_the_option():
    model = build("fcos_small", 3, {"min_size": "160", "max_size": "200"}).eval()
    assert find("fcos_small").input_rule(model).shape(100, 300) == (96, 224)
    batch, _ = model.transform(sample_images((100, 300)))
    assert tuple(batch.tensors.shape[2:]) == (96, 224)


@pytest.mark.parametrize(("option", "value"), [("width", 0), ("min_size", 16), ("max_size", 100), ("nms_threshold", 2)])
def test_limits(option, value):
    with pytest.raises(ModelError, match=f"option {option} is {value}"):
        build("fcos_small", 2, {option: value})
