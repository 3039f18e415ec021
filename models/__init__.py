"""The zoo: networks for detection, instance and semantic segmentation, by name.

`MODELS` maps a name to its `ModelSpec`, `find` looks one up, `build` makes the network. They are loaded at their first
use: code that never touches a network imports the errors and specs next to them, and torch takes seconds to load.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .zoo import MODELS, build, find, in_zoo

__all__ = ["MODELS", "build", "find", "in_zoo"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("shardlens.models.zoo"), name)
    raise AttributeError(f"module 'shardlens.models' has no attribute {name!r}; it has {', '.join(__all__)}")
