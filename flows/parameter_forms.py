"""The stages' own configurations as forms: Prefect draws one from a parameter's JSON schema, which is labeled here."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from cyclopts import Parameter
from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

ABBREVIATIONS = {
    "compiled": "compile",
    "cpus": "CPUs",
    "ema": "EMA",
    "gpus": "GPUs",
    "iou": "IoU",
    "mb": "(MB)",
    "sha256": "SHA-256",
    "tta": "TTA",
    "uri": "URI",
    "val": "validation",
}
"""Parts of fields' names that are written otherwise in a label."""


@dataclasses.dataclass(frozen=True)
class Form:
    """Marks a flow's parameter that is a configuration: `Annotated[PredictConfig, Form(PredictConfig)]`.

    The line under each field of the dataclass becomes the line under its input, and fields that the command line
    does not ask for (`Parameter(parse=False)`) are not asked for here either. Dataclasses within are drawn alike.
    """

    config: type
    """The dataclass."""
    first: tuple[str, ...] = ()
    """The usual fields, which come first; the others follow in the dataclass's order."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Pydantic's hook: describe the schema that it made."""
        schema = handler(core)
        _describe(self.config, schema, handler, self.first)
        return schema


def _describe(config: type, schema: dict[str, Any], handler: GetJsonSchemaHandler, first: tuple[str, ...] = ()) -> None:
    """Put title, line and place of each field into the schema of `config`, in place, and of the dataclasses within."""
    for branch in schema.get("anyOf", [schema]):
        if branch.get("type") == "null":
            continue
        fields = handler.resolve_ref_schema(branch).get("properties", {})
        for name in _unasked(config):
            fields.pop(name, None)
        lines = field_lines(config)
        _reorder(fields, first)
        for name, field in fields.items():
            field["title"] = title(name)  # Pydantic's own makes 'Tta' of tta, and shows the class of a dataclass within
            if name in lines:
                field["description"] = lines[name]
        for name, within in _within(config):
            if name in fields:
                _describe(within, fields[name], handler)


def _reorder(fields: dict[str, Any], first: tuple[str, ...]) -> None:
    """Put the usual fields first, in place; the page draws them by position."""
    ordered = [name for name in first if name in fields] + [name for name in fields if name not in first]
    for position, name in enumerate(ordered):
        field = fields.pop(name)
        field["position"] = position
        fields[name] = field


def title(name: str) -> str:
    """A field's name as a label: 'Batch size', 'TTA', 'SHA-256'."""
    words = [ABBREVIATIONS.get(word, word) for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def field_lines(config: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, those of its bases included, by name."""
    bases = [base for base in reversed(config.__mro__) if dataclasses.is_dataclass(base)]
    return {name: line for base in bases for name, line in _own_lines(base)}


def _own_lines(config: type) -> Iterator[tuple[str, str]]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(config)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for field, below in itertools.pairwise(body):
        text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, str):
            yield field.target.id, inspect.cleandoc(text)


def _unasked(config: type) -> Iterator[str]:
    """Fields that are derived, never given."""
    for name, hint in get_type_hints(config, include_extras=True).items():
        if any(isinstance(mark, Parameter) and mark.parse is False for mark in getattr(hint, "__metadata__", ())):
            yield name


def _within(config: type) -> Iterator[tuple[str, type]]:
    """Fields that are dataclasses themselves."""
    for name, hint in get_type_hints(config).items():
        kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield name, kind


def given(config: Any) -> dict[str, Any]:
    """The fields of a configuration that differ from their defaults, as JSON knows them: a deployment's parameters."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value, default = given(value), {}
        if value != default:
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found
