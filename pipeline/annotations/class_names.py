"""The names of classes as a user gives them."""

from __future__ import annotations

import re

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError


def is_background(name: str) -> bool:
    """Whether a class name means the background, in any usual spelling (`background`, `__background__`, `BG`, ...)."""
    return re.sub(r"[^a-z]", "", name.lower()) in {"background", "bg", "backgrd"}


def named(classes: str | None) -> tuple[str, ...]:
    """Return the names in `classes`: comma-separated, or the URI of a .txt or .names file with one a line.

    A first name that means background is left out: it is no category.

    Raises:
        ConfigError: there is no name, or one twice.
    """
    names = listed_names(classes)
    return names[1:] if names and is_background(names[0]) else names


def listed_names(classes: str | None) -> tuple[str, ...]:
    """Return the names as `named` does, the background's too.

    Raises:
        ConfigError: there is no name besides the background's, or one twice.
    """
    if classes is None:
        return ()
    is_file = classes.endswith((".txt", ".names"))
    text = storage.read(storage.normalize(classes)).decode("utf-8-sig", "replace") if is_file else classes
    lines = [line.strip() for line in (text.splitlines() if is_file else text.split(","))]
    names = tuple(line for line in lines if line)
    if not names or len(set(names)) < len(names) or (len(names) == 1 and is_background(names[0])):
        raise ConfigError(f"the classes {classes!r} are {list(names)}: expected one name or more, each once")
    return names
