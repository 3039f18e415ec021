from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from shardlens import models
from shardlens.models.backbones import Backbone
from shardlens.models.matching import match


def tensors(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


def test_names_as_they_are_win() -> None:
    own = tensors(a__weight=(2, 2), b__weight=(2, 2))
    found = match(own, tensors(b__weight=(2, 2)))
    assert found.taken == {"b.weight": "b.weight"}
    assert found.missing == ("a.weight",)


def test_a_classifiers_names_become_the_backbones() -> None:
    classifier = torchvision.models.resnet18(weights=None).state_dict()
    network = models.build("fcos", 4, {"backbone": "resnet18", "width": 32, "convolutions": 1}).state_dict()
    found = match(network, classifier)
    assert found.taken["backbone.layer1.0.bn1.running_mean"] == "layer1.0.bn1.running_mean"
    assert set(found.left_out) == {"fc.weight", "fc.bias"}
    assert {name for name in network if name.startswith("backbone.layer")} <= set(found.taken)
    assert all(name.startswith(("backbone.fpn.", "head.")) for name in found.missing)


def test_a_detectors_backbone_becomes_a_classifiers() -> None:
    detector = models.build("retinanet_resnet50_fpn", 3).state_dict()
    found = match(Backbone("resnet50").state_dict(), detector)
    assert found.taken["conv1.weight"] == "backbone.body.conv1.weight"
    assert not found.missing


def test_a_classifier_fits_the_frozen_norms_of_detr() -> None:
    network = models.build("detr", 4, {"backbone": "resnet18", "layers": 1, "width": 32}).state_dict()
    found = match(network, torchvision.models.resnet18(weights=None).state_dict())
    assert found.taken["backbone.0.body.layer1.0.bn1.running_mean"] == "layer1.0.bn1.running_mean"
    assert not [name for name in found.missing if name.startswith("backbone.")]


def test_a_head_for_other_classes_is_left_out_with_both_shapes() -> None:
    options = {"depth": 2, "width": 4}
    found = match(models.build("unet", 3, options).state_dict(), models.build("unet", 21, options).state_dict())
    assert found.left_out == {
        "classifier.weight": "(21, 4, 1, 1) in the file, (3, 4, 1, 1) in the model",
        "classifier.bias": "(21,) in the file, (3,) in the model",
    }
    assert found.missing == ("classifier.weight", "classifier.bias")


def test_counters_are_neither_missed_nor_told() -> None:
    own = tensors(bn__weight=(2, 1), bn__num_batches_tracked=())
    assert match(own, tensors(bn__weight=(2, 1))).missing == ()
    assert match(tensors(bn__weight=(2, 1)), own).left_out == {}


def test_nothing_fits_nothing() -> None:
    found = match(tensors(a__weight=(2, 2)), tensors(b__weight=(3, 3)))
    assert (found.taken, found.left_out) == ({}, {"b.weight": "not in the model"})


@pytest.mark.realdata
def test_the_published_mobilenet_fills_a_backbone(realdata: Path) -> None:
    state = torch.load(realdata.parent / "weights/mobilenet_v2-b0353104.pth", weights_only=True)
    found = match(Backbone("mobilenet_v2").state_dict(), state)
    assert not found.missing
    assert set(found.left_out) == {"classifier.1.weight", "classifier.1.bias"}
