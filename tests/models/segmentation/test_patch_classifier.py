import numpy as np
import pytest
import torch
from scipy import ndimage

from shardlens.models import build
from shardlens.models.errors import ModelError
from shardlens.models.segmentation import patch_classifier
from shardlens.models.segmentation.patch_classifier import median

SMALL = {"stages": 2, "width": 4, "hidden": 8}


@pytest.mark.parametrize(("stages", "patch"), [(1, 9), (2, 23), (4, 95)])
def test_every_pixel_is_classified_as_its_patch_alone(stages, patch):
    torch.manual_seed(0)
    model = build("patch_classifier", 3, {**SMALL, "stages": stages}).double().eval()
    side = patch + 5
    image = torch.randn(1, 3, side, side, dtype=torch.float64)
    logits = model(image)["out"]
    assert (model.patch, logits.shape) == (patch, (1, 3, side, side))
    middle = patch // 2
    for y, x in ((middle, middle), (middle + 1, middle + 4), (middle + 3, middle)):
        around = image[..., y - middle : y - middle + patch, x - middle : x - middle + patch]
        torch.testing.assert_close(logits[:, :, y, x], model.classify(around))


def test_the_patch_lies_around_its_pixel():
    model = build("patch_classifier", 2, {**SMALL, "stages": 1}).double().eval()
    image = torch.randn(1, 3, 31, 31, dtype=torch.float64, requires_grad=True)
    model(image)["out"][0, :, 15, 15].sum().backward()
    seen = image.grad.abs().sum(dim=(0, 1)).nonzero()
    assert seen.min() >= 15 - 4
    assert seen.max() <= 15 + 4


def test_a_border_pixel_sees_the_image_mirrored():
    model = build("patch_classifier", 2, {**SMALL, "stages": 1}).double().eval()
    image = torch.randn(1, 3, 20, 20, dtype=torch.float64)
    mirrored = torch.nn.functional.pad(image, (4, 4, 4, 4), mode="reflect")
    torch.testing.assert_close(model(image)["out"][:, :, 0, 0], model.classify(mirrored[..., :9, :9]))


def test_the_papers_network():
    model = build("patch_classifier", 2)
    assert [tuple(stage.weight.shape[:1] + stage.weight.shape[2:]) for stage in model.stages] == [
        (48, 4, 4),
        (48, 5, 5),
        (48, 4, 4),
        (48, 4, 4),
    ]
    assert tuple(model.hidden.weight.shape) == (200, 48, 3, 3)


def test_other_frequencies_shift_the_probabilities_as_bayes_has_it():
    torch.manual_seed(0)
    plain = build("patch_classifier", 2, SMALL).eval()
    calibrated = build("patch_classifier", 2, {**SMALL, "priors": "0.8,0.2", "trained_priors": "1,1"}).eval()
    calibrated.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 8, 8)
    p = plain(image)["out"].softmax(1)
    expected = p * torch.tensor([0.8, 0.2])[:, None, None] / 0.5
    torch.testing.assert_close(calibrated(image)["out"].softmax(1), expected / expected.sum(1, keepdim=True))
    torch.testing.assert_close(calibrated.train()(image), plain.train()(image))


def test_the_median_is_scipys(monkeypatch):
    maps = torch.rand(1, 2, 9, 11)
    expected = [ndimage.median_filter(channel, size=5, mode="mirror") for channel in maps[0].numpy()]
    assert np.array_equal(median(maps, 2)[0].numpy(), np.stack(expected))
    monkeypatch.setattr(patch_classifier, "VALUES_AT_ONCE", 1)  # a row at a time
    assert np.array_equal(median(maps, 2)[0].numpy(), np.stack(expected))


def test_a_lone_pixel_is_smoothed_away():
    model = build("patch_classifier", 2, {**SMALL, "median_radius": 1}).eval()
    logits = torch.zeros(1, 2, 7, 7)
    logits[:, 1] -= 2
    logits[0, 1, 3, 3] = 5
    assert model.after(logits).argmax(1).sum() == 0


@pytest.mark.parametrize("text", ["0.5", "a,b", "1,0", "0.2,-1"])
def test_frequencies_are_one_positive_number_a_class(text):
    with pytest.raises(ModelError, match=r"option priors is '.*'; expected 2 positive numbers, as in 0.8,0.2"):
        build("patch_classifier", 2, {**SMALL, "priors": text})
