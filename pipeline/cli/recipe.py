"""`--recipe NAME`: what the command line leaves out comes from a recipe."""

from __future__ import annotations

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

    name = tokens[-1].value
    for field, value in recipes.changed(recipes.find(name)).items():
        if not given[field].tokens:
            given[field].append(Token(keyword=f"--{field}", source=f"recipe {name}", implicit_value=value))
