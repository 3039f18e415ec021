"""Options of a network's builder: which there are, and their values from text.

A builder is a function with annotated keyword arguments (`num_classes` and the options); its signature is the only
place where an option is declared.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from shardlens.models.errors import ModelError
from shardlens.models.spec import ModelSpec

Value = str | int | float | bool

_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of the `known` names that `name` may be a slip for, nearest first."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    return [by_lower[lower] for lower in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]


def parameters(builder: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options that `builder` takes, by name, in its order.

    Raises:
        ModelError: it is no builder.
    """
    try:
        taken = dict(inspect.signature(builder, eval_str=True).parameters)
    except (TypeError, ValueError, NameError) as error:
        raise ModelError(f"the builder {_named(builder)} cannot be looked at: {error}") from error
    if taken.pop("num_classes", None) is None:
        raise ModelError(
            f"the builder {_named(builder)} takes no argument num_classes: expected build(num_classes=K, **options), which "
            "returns the network"
        )
    return taken


def _named(builder: Callable[..., Any]) -> str:
    return f"{getattr(builder, '__module__', '')}.{getattr(builder, '__qualname__', builder)}"


def describe(spec: ModelSpec) -> dict[str, str]:
    """What each option of the model is, for a reader: name -> "float = 0.05", or "str, required"."""
    return {
        name: f"{option.annotation.__name__}, required"
        if option.default is option.empty
        else f"{option.annotation.__name__} = {option.default}"
        for name, option in parameters(spec.build).items()
    }


def coerce(spec: ModelSpec, options: Mapping[str, Value]) -> dict[str, Value]:
    """`options` with each value in the type that the model's builder declares for it."""
    taken = parameters(spec.build)
    unknown = next((name for name in options if name not in taken), None)
    if unknown is not None:
        close = nearest(unknown, taken)
        order = [*close, *(name for name in taken if name not in close)]
        raise ModelError(f"{spec.name} takes no option {unknown!r}; it takes {', '.join(order) or 'none'}")
    missing = [name for name, option in taken.items() if option.default is option.empty and name not in options]
    if missing:
        text = " (the text of a file; give its URI)" if missing[0] in spec.text_options else ""
        raise ModelError(f"{spec.name} needs the option {missing[0]}{text}")
    return {name: _convert(spec.name, name, value, taken[name].annotation) for name, value in options.items()}


def require(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse an option's value outside of [low, high]."""
    if not low <= value <= high:
        limits = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise ModelError(f"option {name} is {value}; it must be {limits}")


def _convert(model: str, name: str, value: Value, kind: type[Any]) -> Value:
    if kind not in _EXPECTED:
        raise ModelError(f"{model}: its builder must annotate option {name} with bool, int, float or str")
    try:
        return _typed(value, kind)
    except (ValueError, KeyError) as error:
        raise ModelError(f"{model}: option {name} is {value!r}; expected {_EXPECTED[kind]}") from error


def _typed(value: Value, kind: type[Any]) -> Value:
    """`value` as a `kind`; ValueError or KeyError where it is none."""
    if kind is bool:
        return _BOOLEANS[str(value).strip().lower()]
    if kind is float and not isinstance(value, bool) and math.isfinite(float(value)):
        return float(value)
    if kind is int and isinstance(value, int | str) and not isinstance(value, bool):
        return int(value)
    if kind is str and isinstance(value, str):
        return value
    raise ValueError(value)
