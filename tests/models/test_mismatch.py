import re

import pytest
import torch
from torch import nn

from shardlens.models import build, find
from shardlens.models.errors import WeightsError
from shardlens.models.mismatch import explain
from shardlens.pipeline.networks.weights import Checkpoint, load, save
from tests.models.small import SMALL

DETECTORS = [name for name in SMALL if find(name).task == "detection"]
LARGE = ["retinanet_resnet50_fpn", "ssd300_vgg16", "maskrcnn_resnet50_fpn", "fcos_resnet50_fpn"]


def state(**shapes):
    return {name: torch.ones(shape) for name, shape in shapes.items()}


def pair():
    return nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 4)})


def test_what_fits_is_copied():
    model = pair()
    fitting = {key: torch.full_like(value, 7) for key, value in model.state_dict().items()}
    assert explain(model, fitting) is None
    assert model["b"].weight.eq(7).all()


def test_the_first_differing_keys_are_named_with_both_shapes():
    given = {
        "a.weight": torch.ones(5, 2),
        "a.bias": torch.ones(3),
        "b.weight": torch.ones(4, 3),
        "c.weight": torch.ones(1),
    }
    assert explain(pair(), given) == (
        "1 of another shape: a.weight (5, 2) in the file, (3, 2) in the model; 1 missing in the file: b.bias; "
        "1 unknown to the model: c.weight (2 of the model's 4 tensors fit; is it another model, or are options or labels "
        "different?)"
    )


def test_of_many_the_first_three_are_named():
    told = explain(pair(), {})
    assert "4 missing in the file: a.weight, a.bias, b.weight and 1 more (0 of the model's 4 tensors fit" in told


def test_another_model_altogether():
    data = save(build("unet", 3, {"width": 4}), Checkpoint("unet", {}, ("a",)))
    with pytest.raises(
        WeightsError, match=r"x: does not fit the model: \d+ missing in the file: backbone.*\(0 of the model's"
    ):
        load(build("fcos_small", 3), data, "x")


@pytest.mark.parametrize(
    "name", ["fcos_small", "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn", "unet"]
)
def test_a_head_for_other_classes_is_reported_as_that(name):
    source, target = build(name, 6), build(name, 4)
    with pytest.raises(
        WeightsError, match=r"its head tells 6 classes apart, the model's 4; give the labels it was trained with: \d"
    ):
        load(target, save(source, Checkpoint(name, {}, ("a",))), "x")


def for_labels(name, labels):
    """The network for 4 labels or more, small where it can be."""
    options = dict(SMALL[name].options) if name in SMALL else {}
    if "tree" in options:  # which has as many leaves as there are labels
        options["tree"] += "".join(f"shape{i} 1\n" for i in range(4, labels))
        options["map"] += "".join(f"{i + 1}\n" for i in range(4, labels))
    return build(name, labels, options)


def first_difference(source, target):
    own = target.state_dict()
    first = next(key for key, tensor in source.state_dict().items() if tensor.shape != own[key].shape)
    shapes = [tuple(model.state_dict()[first].shape) for model in (source, target)]
    return f"shape: {first} {shapes[0]} in the file, {shapes[1]} in the model"


@pytest.mark.parametrize("name", DETECTORS)
def test_each_family_names_the_first_key_with_both_shapes(name):
    source, target = (for_labels(name, labels) for labels in (6, 4))
    with pytest.raises(WeightsError, match=re.escape(first_difference(source, target))):
        load(target, save(source, Checkpoint(name, {}, ("a",))), "x")


@pytest.mark.parametrize("name", LARGE)
def test_torchvisions_families_name_it_too(name):
    with torch.device("meta"):  # shapes alone
        source, target = (for_labels(name, labels) for labels in (6, 4))
    assert first_difference(source, target) in explain(target, source.state_dict())


def test_other_widths_are_not_taken_for_classes():
    told = explain(build("unet", 4, {"width": 4}), build("unet", 4, {"width": 8}).state_dict())
    assert "classes" not in told
    assert "encoder.0.0.weight (8, 3, 3, 3) in the file, (4, 3, 3, 3) in the model" in told
