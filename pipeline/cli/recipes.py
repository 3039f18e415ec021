"""`shardlens recipes`."""

from __future__ import annotations

import inspect
from typing import Annotated

from shardlens.pipeline.cli.console import Flat, Output, print_table


def recipes(*, output: Annotated[Output, Flat] = Output()) -> None:  # noqa: B008 - frozen
    """List the recipes: complete settings of a training run, for 'shardlens train --recipe NAME'."""
    from shardlens.pipeline.training.recipes import RECIPES

    rows = []
    for name, make in RECIPES.items():
        config = make()
        text = (inspect.getdoc(make) or "").partition("\n\n")[0].replace("\n", " ")
        rows.append({"recipe": name, "model": config.model, "epochs": config.epochs, "what": text})
    print_table(rows, output)
