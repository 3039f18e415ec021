"""The models of a folder of the zoo: each module that defines a `SPEC`, or several `SPECS`, is one of them."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from shardlens.models.spec import ModelSpec

SPEC_MODULE = "spec"
"""In a folder for one model: the module that defines its `SPEC`."""


def modules(package: ModuleType) -> list[str]:
    """Names of the modules and sub-packages of `package` in order, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def specs(package: ModuleType) -> tuple[ModelSpec, ...]:
    """The specs that the modules of `package` define, by the modules' names."""
    return tuple(spec for name in modules(package) for spec in _specs_of(_imported(package, name)))


def _imported(package: ModuleType, name: str) -> ModuleType:
    module = import_module(f"{package.__name__}.{name}")
    inside = modules(module) if hasattr(module, "__path__") else []
    return import_module(f"{module.__name__}.{SPEC_MODULE}") if SPEC_MODULE in inside else module


def _specs_of(module: ModuleType) -> Iterator[ModelSpec]:
    own = getattr(module, "SPEC", None)
    yield from (own,) if isinstance(own, ModelSpec) else ()
    many = getattr(module, "SPECS", ())
    yield from (spec for spec in many if isinstance(spec, ModelSpec))
