"""`--recipe NAME`: what the command line leaves out comes from a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cyclopts import App, Argument, ArgumentCollection, Token

OF_WEIGHTS = ("init", "backbone_factor")
"""Fields of a recipe that mean nothing from scratch."""


def fill_in(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give every option that was not named the value that the recipe has for it, if a recipe is named.

    Options of the model are merged by name, unless another model is named; what the recipe says of the weights to start
    from is left out where `--transfer scratch` is asked for.

    Raises:
        ConfigError: no recipe has that name.
    """
    given = {argument.field_info.name: argument for argument in arguments}
    tokens = given["recipe"].tokens if "recipe" in given else []
    if not tokens:
        return
    from shardlens.pipeline.training import recipes  # torch takes seconds to import, and most commands need no recipe

    name = tokens[-1].value
    values = _wanted(recipes.changed(recipes.find(name)), given)
    _merge(name, values.pop("option", ()), given["option"])
    for field, value in values.items():
        if not given[field].tokens:
            given[field].append(Token(keyword=f"--{field}", source=f"recipe {name}", implicit_value=value))


def _wanted(values: dict[str, Any], given: Mapping[str, Argument]) -> dict[str, Any]:
    """The recipe's values, without those that the method or the model asked for has no use for."""
    scratch = [token.value for token in given["transfer"].tokens][-1:] == ["scratch"]
    other = [token.value for token in given["model"].tokens][-1:] not in ([], [values["model"]])
    unwanted = (*(OF_WEIGHTS if scratch else ()), *(("option",) if other else ()))
    return {field: value for field, value in values.items() if field not in unwanted}


def _merge(name: str, pairs: Sequence[str], option: Argument) -> None:
    """Add those of the recipe's options K=V whose names were not given to those that were."""
    taken = {token.value.partition("=")[0] for token in option.tokens}
    for pair in pairs:
        if pair.partition("=")[0] not in taken:
            option.append(Token(keyword="--option", source=f"recipe {name}", value=pair))
