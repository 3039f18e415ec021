from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shardlens import models
from shardlens.models.options import coerce
from shardlens.pipeline.cli import build_app
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.training import recipes
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.preview import DPI, LEGEND, TILE


def parsed(*words: str) -> TrainConfig:
    """The settings that a command line of `shardlens train` makes."""
    _, bound, _ = build_app().parse_args(["train", *words], print_error=False, exit_on_error=False)
    config: TrainConfig = bound.arguments["config"]
    return config


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_command_line_takes_every_recipe_as_it_is(name: str) -> None:
    assert parsed("--recipe", name) == recipes.find(name)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_of_a_trainable_model_that_takes_its_options(name: str) -> None:
    config = recipes.find(name)
    spec = models.find(config.model)
    assert spec.trainable
    coerce(spec, config.options)


def test_other_options_override_the_recipes() -> None:
    words = "--epochs 3 --no-flip-vertical --option width=32 --milestones 0.5 --crop 64 96 --workers 2 --executor ray"
    config = parsed("cells", "--recipe", "bccd", *words.split())
    assert (config.dataset, config.epochs, config.flip_vertical) == ("cells", 3, False)
    assert (config.milestones, config.crop) == ((0.5,), (64, 96))
    assert (config.workers, config.model, config.ema) == (2, "fcos", recipes.bccd().ema)


def test_options_of_the_model_are_overridden_one_by_one() -> None:
    config = parsed("--recipe", "dsb2018-200", "--option", "depth=2")
    assert config.options == {**recipes.nuclei().options, "depth": "2"}
    assert parsed("--recipe", "bccd", "--option", "width=32").options == {**recipes.bccd().options, "width": "32"}
    assert parsed("--recipe", "bccd", "--model", "fcos_small", "--option", "width=32").option == ("width=32",)


def test_from_scratch_a_recipe_leaves_its_weights_out() -> None:
    config = parsed("--recipe", "bccd", "--transfer", "scratch")
    assert config == replace(recipes.bccd(), transfer="scratch", init=None, backbone_factor=1.0)
    with pytest.raises(ConfigError, match=r"init is '/a\.pth': expected none, with --transfer scratch"):
        parsed("--recipe", "bccd", "--transfer", "scratch", "--init", "/a.pth")


def test_a_default_that_is_given_overrides_the_recipe() -> None:
    assert parsed("--recipe", "bccd", "--mosaic", "0").mosaic == 0


def test_without_a_recipe_the_defaults_stand() -> None:
    assert parsed("shapes", "--model", "unet") == TrainConfig("shapes", model="unet")


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no recipe is called 'bcdc'; nearest: bccd; there are bccd, detection-1x"):
        parsed("--recipe", "bcdc")


def test_a_preview_is_a_picture_and_no_run(warehouse: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"train shapes --model fcos_small --option min_size=64 --warehouse {warehouse} --run r --preview 6"
    build_app()([*words.split(), "--mosaic", "0.5"], result_action="return_value")
    place = Path(capsys.readouterr().out.strip())
    with Image.open(place) as picture:
        assert picture.size == (round(4 * TILE * DPI), round((2 * TILE + LEGEND) * DPI))
        colors: Any = picture.convert("RGB").getcolors(1 << 20)
    assert {(60, 180, 75), (67, 99, 216), (245, 130, 49)} <= {color for _, color in colors}  # of the three labels
    assert [entry.name for entry in place.parent.iterdir()] == ["preview.png"]


def test_a_preview_of_less_than_one_image_is_an_error(warehouse: str) -> None:
    words = f"train shapes --model fcos_small --warehouse {warehouse} --preview -1"
    with pytest.raises(ConfigError, match="preview is -1: expected the number of images to draw"):
        build_app()(words.split(), result_action="return_value")
