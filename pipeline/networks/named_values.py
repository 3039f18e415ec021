"""Options given as NAME=VALUE."""

from __future__ import annotations

from collections.abc import Sequence

from shardlens.pipeline.errors import ConfigError


def named_options(option: Sequence[str]) -> dict[str, str]:
    """Options K=V by name.

    Raises:
        ConfigError: one is not K=V.
    """
    pairs = [given.partition("=") for given in option]
    for given, (key, sign, _) in zip(option, pairs, strict=True):
        if not key or not sign:
            raise ConfigError(f"--option {given!r}: expected NAME=VALUE, for example --option nms_threshold=0.45")
    return {key: value for key, _, value in pairs}


def named_numbers(option: str, given: Sequence[str]) -> dict[str, float]:
    """Numbers NAME=F by name; names may hold an equals sign.

    Raises:
        ConfigError: one is not NAME=F.
    """
    found: dict[str, float] = {}
    for text in given:
        name, sign, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            sign = ""
        if not name or not sign:
            raise ConfigError(f"{option} {text!r}: expected NAME=NUMBER, for example {option} disc=0.5")
    return found
