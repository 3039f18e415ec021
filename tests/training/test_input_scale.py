from __future__ import annotations

import pytest
import torch

from shardlens import models
from shardlens.models.torchvision_zoo import transform_rule
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.training.augment.config import Augmentation
from shardlens.pipeline.training.augment.input_scale import at_largest, vary_input

OPTIONS = {"width": 8, "min_size": 100, "max_size": 1000}


def test_a_detector_learns_at_several_sizes_and_predicts_at_one() -> None:
    network = models.build("fcos_small", 3, OPTIONS)
    rule = transform_rule(network)
    vary_input(network, Augmentation(multi_scale=0.25), "detection")
    transform = network.get_submodule("transform")
    learned = {min(transform([torch.rand(3, 50, 60)])[0].image_sizes[0]) for _ in range(60)}
    assert learned == {75, 88, 100, 112, 125}
    network.eval()
    assert {min(transform([torch.rand(3, 50, 60)])[0].image_sizes[0]) for _ in range(10)} == {100}
    assert transform_rule(network) == rule


def test_the_largest_of_the_sizes_can_be_asked_for() -> None:
    network = models.build("fcos_small", 3, OPTIONS)
    vary_input(network, Augmentation(multi_scale=0.25), "detection")
    transform = at_largest(network).get_submodule("transform")
    assert {min(transform([torch.rand(3, 50, 60)])[0].image_sizes[0]) for _ in range(10)} == {125}


def test_an_input_of_one_size_is_an_error() -> None:
    network = models.build("ssdlite320_mobilenet_v3_large", 3)
    with pytest.raises(ConfigError, match=r"multi_scale is 0.25: expected 0, for the model's input has one size"):
        vary_input(network, Augmentation(multi_scale=0.25), "detection")


def test_semantic_networks_are_left_alone() -> None:
    vary_input(models.build("unet", 3, {"depth": 1, "width": 4}), Augmentation(multi_scale=0.25), "semantic")
