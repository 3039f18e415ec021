"""`--recipe NAME`: what the command line leaves out comes from a recipe."""

from __future__ import annotations

from dataclasses import fields

from cyclopts import App, ArgumentCollection, Token


def fill_in(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give every option that was not named the value that the recipe has for it, if a recipe is named.

    Raises:
        ConfigError: no recipe has that name.
    """
    given = {argument.field_info.name: argument for argument in arguments}
    tokens = given["recipe"].tokens if "recipe" in given else []
    if not tokens:
        return
    from pipeline.training import recipes  # torch takes seconds to import, and most commands need no recipe

    config = recipes.find(tokens[-1].value)
    plain = recipes.defaults()
    for field in fields(config):
        argument, value = given.get(field.name), getattr(config, field.name)
        if argument is not None and not argument.tokens and value != plain.get(field.name):
            argument.append(Token(keyword=f"--{field.name}", source=f"recipe {tokens[-1].value}", implicit_value=value))
