"""Checks of settings: the one message that all of them share."""

from __future__ import annotations

from shardlens.pipeline.errors import ConfigError


def check(settings: object, name: str, good: bool, expected: str) -> None:
    """Refuse the value of a field.

    Raises:
        ConfigError: it is not `good`; the message says what was `expected`.
    """
    if not good:
        raise ConfigError(f"{name} is {getattr(settings, name)!r}: expected {expected}")
