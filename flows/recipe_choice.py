"""A training recipe as a choice in a form: what the form leaves at its default comes from the recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from shardlens.pipeline.cli.recipe import OF_WEIGHTS
from shardlens.pipeline.train import TrainConfig
from shardlens.pipeline.training import recipes

Recipe = Literal["bccd", "detection-1x", "dsb2018-200", "isbi-membrane", "segmentation-poly"]


def with_recipe(config: TrainConfig, name: Recipe | None) -> TrainConfig:
    """Return `config` with the recipe's values in the fields that have their defaults, as `train --recipe` does.

    Options of the model are merged by name, unless another model than the recipe's is named.
    """
    if name is None:
        return config
    values = recipes.changed(recipes.find(name))
    options = values.pop("option", ()) if config.model == values["model"] else ()
    taken = {pair.partition("=")[0] for pair in config.option}
    kept = {*recipes.changed(config), "dataset", "model", *(OF_WEIGHTS if config.transfer == "scratch" else ())}
    return replace(
        config,
        option=(*config.option, *(pair for pair in options if pair.partition("=")[0] not in taken)),
        **{field: value for field, value in values.items() if field not in {*kept, "option"}},
    )
