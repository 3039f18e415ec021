"""What of a run's settings goes into its fingerprint: everything but what is named as unable to change a row."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, Field, asdict, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def counted(
    settings: DataclassInstance, *, always: Collection[str] = (), without: Collection[str] = ()
) -> dict[str, Any]:
    """Fields of a settings dataclass that belong into the fingerprint, as plain values.

    A field counts where it differs from its default, so that a setting that is new leaves the fingerprints of earlier
    runs as they are, and is not forgotten.

    Args:
        always: fields that count at their defaults too.
        without: fields that never count: they cannot change a row, or they count through what they are resolved to.
    """
    values = asdict(settings)
    return {
        field.name: values[field.name]
        for field in fields(settings)
        if field.name not in without and (field.name in always or values[field.name] != _default(field))
    }


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default
