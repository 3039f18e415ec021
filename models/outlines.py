"""What `shardlens models` lists, without importing torch or building a network: a table made once, and kept true by a test.

`python -m shardlens.models.outlines` writes the table, `outline_table.py`, again. A model of a module that the table does
not know is measured when it is asked for.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import shardlens.models.detection as detection
import shardlens.models.segmentation as segmentation
from shardlens.models import outline_table
from shardlens.models.discovery import modules

if TYPE_CHECKING:
    from shardlens.models.spec import ModelSpec


@dataclass(frozen=True)
class Outline:
    """One line about a model."""

    model: str
    task: str
    parameters: int | None
    """With the default options and the labels of the published weights, else 21; None = it needs options of one's own."""
    input: str | None
    """What an image's size becomes, see `InputRule.__str__`."""
    source: str
    """Where the network's code comes from."""
    weights: tuple[str, ...]
    """Names of published weights."""
    paper: str
    """Its URL."""


def outlines() -> tuple[Outline, ...]:
    """A line about every model of the zoo, in its order."""
    known = {row[0]: Outline(*row) for row in outline_table.ROWS}
    if present() == outline_table.MODULES:
        return tuple(known.values())
    from shardlens.models.zoo import SPECS  # torch takes seconds to import

    return tuple(known.get(spec.name) or measured(spec) for spec in SPECS)


def present() -> tuple[str, ...]:
    """The modules in the zoo's folders, as package/module."""
    return tuple(
        f"{package.__name__.rpartition('.')[2]}/{name}"
        for package in (detection, segmentation)
        for name in modules(package)
    )


def measured(spec: ModelSpec) -> Outline:
    """The line about a model, which is built for it without memory for its weights."""
    from shardlens.models.zoo import outline

    size, rule = outline(spec) or (None, None)
    weights = tuple(spec.published or ())
    return Outline(spec.name, spec.task, size, str(rule) if rule else None, spec.source, weights, spec.paper)


def write() -> None:
    """Write the table again."""
    from shardlens.models.zoo import SPECS

    lines = ['"""Made by `python -m shardlens.models.outlines`, see there."""', "", "MODULES: tuple[str, ...] = ("]
    lines += [f'    "{name}",' for name in present()]
    lines += [")", "ROWS: tuple[tuple[str, str, int | None, str | None, str, tuple[str, ...], str], ...] = ("]
    for spec in SPECS:
        lines += ["    (", *(f"        {_written(value)}," for value in astuple(measured(spec))), "    ),"]
    Path(outline_table.__file__).write_text("\n".join([*lines, ")", ""]))


def _written(value: object) -> str:
    """A value as the formatter leaves it."""
    if isinstance(value, tuple):
        items = ", ".join(map(_written, value))
        return f"({items},)" if len(value) == 1 else f"({items})"
    return f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    write()
