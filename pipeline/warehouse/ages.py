"""Ages as people write them, and sizes as people read them."""

from __future__ import annotations

import re

from shardlens.pipeline.errors import ConfigError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
AGE = re.compile(r"(\d+(?:\.\d+)?) ?([smhdw])")


def seconds(age: str, option: str) -> float:
    """Turn an age such as 30d or 12h into seconds.

    Raises:
        ConfigError: it is none.
    """
    match = AGE.fullmatch(age.strip())
    if match is None:
        raise ConfigError(f"{option} is {age!r}: expected a number and s, m, h, d or w, such as 12h, 30d or 8w")
    return float(match[1]) * UNITS[match[2]]


def ago(seconds: float) -> str:
    """How long ago something was, in its largest unit."""
    unit, length = next(((u, n) for u, n in reversed(UNITS.items()) if u != "w" and seconds >= n), ("s", 1.0))
    return f"{max(0, int(seconds // length))} {unit}"


def size(count: int) -> str:
    """Bytes for people, such as 1.2 GB."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.95 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
