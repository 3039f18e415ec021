import pytest
import torch

from shardlens.models import build, find
from shardlens.models.errors import ModelError, WeightsError
from shardlens.pipeline.networks.weights import Checkpoint, load, save

SMALL = {"stacks": 3, "width": 8, "depth": 2}


@pytest.mark.parametrize("stacks", [1, 2, 3])
def test_there_are_as_many_losses_as_stacks(stacks):
    model = build("hourglass", 4, {**SMALL, "stacks": stacks}).train()
    found = model(torch.rand(2, 3, 64, 48))
    assert list(found) == [f"stack{i}" for i in range(stacks - 1)] + ["out"]
    assert {tuple(logits.shape) for logits in found.values()} == {(2, 4, 64, 48)}
    assert list(model.eval()(torch.rand(1, 3, 64, 48))) == ["out"]


def test_a_stack_knows_what_the_one_before_said():
    model = build("hourglass", 2, {**SMALL, "stacks": 2}).eval()
    image = torch.rand(1, 3, 32, 32)
    before = model(image)["out"]
    with torch.no_grad():
        model.classifiers[0].bias.add_(5)
    assert (model(image)["out"] - before).abs().max() > 1e-3


def test_padding_is_cut_off():
    model = build("hourglass", 2, SMALL).eval()
    assert find("hourglass").input_rule(model).shape(30, 33) == (32, 48)
    assert model(torch.rand(1, 3, 30, 33))["out"].shape == (1, 2, 30, 33)


def test_another_width_is_reported_by_the_first_key():
    wide = build("hourglass", 2, {**SMALL, "width": 16})
    with pytest.raises(WeightsError, match=r"stem.0.0.weight \(4, 3, 7, 7\) in the file, \(2, 3, 7, 7\) in the model"):
        load(build("hourglass", 2, SMALL), save(wide, Checkpoint("hourglass", {}, ("a",))), "x")


@pytest.mark.parametrize(("option", "value"), [("stacks", 0), ("width", 1), ("depth", 7), ("blocks", 0)])
def test_limits(option, value):
    with pytest.raises(ModelError, match=f"option {option} is {value}"):
        build("hourglass", 2, {option: value})
