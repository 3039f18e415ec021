"""What the values of mask pixels stand for: names, background, void, colors.

A label map is a file of one class a row: CSV (`id,name,color,ignore`) or a JSON list of objects with these keys. `color` is
`#rrggbb` or three numbers, in the column `color` or in `r`, `g`, `b`; `ignore` marks values that are not scored.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.class_names import is_background, listed_names
from shardlens.pipeline.errors import ConfigError

MaskKind = Literal["auto", "semantic", "instance"]
NONE = "none"
YES = {"1", "true", "yes", "y"}
COLOR = re.compile(r"#?([0-9a-fA-F]{6})")


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """How mask images are read, and what their pixels stand for."""

    mask_kind: MaskKind = "auto"
    """What the pixels of mask images are: class ids (semantic) or ids of objects (instance). auto: judged by all masks."""
    mask_pattern: str | None = None
    """Name of an image's mask, such as {stem}_mask.png. Default: the usual prefixes and suffixes are tried."""
    mask_threshold: int | None = None
    """Gray value from which a pixel belongs to the one class of black and white masks, for masks with soft edges."""
    classes: str | None = None
    """Names of the categories: comma-separated, or the URI of a .txt or .names file with one a line. Their ids count from
    --first-id. A first name that means background, as in background,cat,dog, is no category and counts as 0."""
    label_map: str | None = None
    """URI of a CSV or JSON file of the masks' classes: id, name, and if wanted color and ignore. Instead of --classes."""
    first_id: int | None = None
    """Pixel value of the first of --classes. Default: 1, or 0 if it is the background."""
    background: str | None = None
    """Pixel value that belongs to no class, or none. Default: 0, unless a class has it."""
    void: str | None = None
    """Pixel values that are not scored, comma-separated, or none. Default: 255, unless larger values occur."""

    def __post_init__(self) -> None:
        if self.mask_threshold is not None and not 1 <= self.mask_threshold <= 65535:
            raise ConfigError(f"the mask threshold is {self.mask_threshold}: expected a gray value from 1 to 65535")
        if self.mask_pattern is not None and self.mask_pattern.count("{stem}") != 1:
            raise ConfigError(f"the mask pattern is {self.mask_pattern!r}: expected one {{stem}}, as {{stem}}_mask.png")
        if self.classes is not None and self.label_map is not None:
            raise ConfigError("--classes and --label-map both name the classes: expected one of them")
        values_of("background", self.background)
        values_of("void", self.void)

    def asked(self) -> list[str]:
        """The options, as written on the command line, that are given and hold for masks alone."""
        names = ("mask_pattern", "mask_threshold", "label_map", "first_id", "background", "void")
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]
        return [*(["--mask-kind"] if self.mask_kind != "auto" else []), *given]


@dataclass(frozen=True)
class LabelScheme:
    """What each pixel value stands for."""

    names: Mapping[int, str] = field(default_factory=dict)
    """Value -> name of its class; empty = each value that occurs is a class."""
    background: int | None = 0
    """Value that belongs to no class."""
    void: frozenset[int] | None = None
    """Values that are not scored; None = 255 where no larger value occurs."""
    colors: Mapping[tuple[int, int, int], int] = field(default_factory=dict)
    """RGB -> value, of masks that hold colors."""
    threshold: int | None = None
    """Gray value from which pixels are 1, below it 0; None = values are taken as they are."""


def scheme_of(options: MaskOptions) -> LabelScheme:
    """Work the options out, reading the files that they name.

    Raises:
        ConfigError: they do not go together, or a file is not what it should be.
    """
    void = values_of("void", options.void)
    if options.label_map is not None:
        rows = _label_map(storage.normalize(options.label_map))
        return _from_rows(rows, options, void)
    names = listed_names(options.classes)
    first, background = options.first_id, None
    if names and is_background(names[0]):
        background = first or 0
        names, first = names[1:], background + 1
    named = dict(enumerate(names, 1 if first is None else first))
    return LabelScheme(*_settled(named, background, options, void), threshold=options.mask_threshold)


def _settled(
    named: Mapping[int, str], background: int | None, options: MaskOptions, void: frozenset[int] | None
) -> tuple[dict[int, str], int | None, frozenset[int] | None]:
    """Names, background and void: the options take precedence over the names."""
    if options.background is not None:
        asked = values_of("background", options.background) or frozenset()
        background = next(iter(asked), None)
    elif background is None:
        background = None if 0 in named else 0
    unscored = {background, *(void or ())}
    return {value: name for value, name in named.items() if value not in unscored}, background, void


def _from_rows(rows: Sequence[Mapping[str, Any]], options: MaskOptions, void: frozenset[int] | None) -> LabelScheme:
    named = {row["id"]: row["name"] for row in rows}
    ignored = frozenset(row["id"] for row in rows if row["ignore"])
    zero = next((row["id"] for row in rows if is_background(row["name"]) and not row["ignore"]), None)
    unscored = void if void is not None else (ignored or None)
    names, background, unscored = _settled(
        {value: name for value, name in named.items() if value not in ignored}, zero, options, unscored
    )
    colors = {row["color"]: row["id"] for row in rows if row["color"] is not None}
    return LabelScheme(names, background, unscored, colors, options.mask_threshold)


def values_of(name: str, text: str | None) -> frozenset[int] | None:
    """The pixel values in `text`: none, or numbers separated by commas; None where there is no text."""
    if text is None:
        return None
    if text.strip().lower() == NONE:
        return frozenset()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or (name == "background" and len(parts) > 1):
        number = "a pixel value" if name == "background" else "pixel values separated by commas"
        raise ConfigError(f"{name} is {text!r}: expected {number}, or none")
    return frozenset(map(int, parts))


def _label_map(uri: str) -> list[dict[str, Any]]:
    """Rows with id, name, color (None = not given) and ignore."""
    text = storage.read(uri).decode("utf-8-sig", "replace")
    try:
        raw = json.loads(text) if text.lstrip()[:1] in {"[", "{"} else list(csv.DictReader(io.StringIO(text)))
        raw = raw["categories"] if isinstance(raw, dict) else raw
        rows = [
            _row(i, {str(k).strip().lower().replace("colour", "color"): v for k, v in row.items()})
            for i, row in enumerate(raw)
        ]
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise ConfigError(
            f"{uri} is no label map ({type(error).__name__}: {error}): expected CSV with the columns id, name, color and "
            "ignore (the first two at least), or a JSON list of objects with these keys"
        ) from None
    _check_unique(uri, rows)
    return rows


def _key(text: object) -> str:
    return str(text).strip().lower().replace("colour", "color")


def _check_unique(uri: str, rows: Sequence[Mapping[str, Any]]) -> None:
    for key in ("id", "name", "color"):
        given = [row[key] for row in rows if row[key] is not None]
        again = sorted({str(value) for value in given if given.count(value) > 1})
        if again or (not given and key == "id"):
            raise ConfigError(
                f"{uri}: expected rows, each with its own {key}; given twice: {', '.join(again) or 'none'}"
            )


def _row(index: int, row: Mapping[str, Any]) -> dict[str, Any]:
    value = int(str(row.get("id", index)).strip())
    if value < 0:
        raise ValueError(f"the id {value} is negative")
    ignore = str(row.get("ignore") or "").strip().lower() in YES
    return {"id": value, "name": str(row["name"]).strip(), "color": _color(row), "ignore": ignore}


def _color(row: Mapping[str, Any]) -> tuple[int, int, int] | None:
    if all(str(row.get(channel) or "").strip() for channel in "rgb"):
        numbers = [int(row[channel]) for channel in "rgb"]
    elif isinstance(row.get("color"), list):
        numbers = [int(channel) for channel in row["color"]]
    else:
        text = str(row.get("color") or "").strip()
        if not text:
            return None
        match = COLOR.fullmatch(text)
        numbers = list(bytes.fromhex(match[1])) if match else [int(part) for part in re.split(r"[\s,;]+", text)]
    red, green, blue = numbers
    if not all(0 <= channel <= 255 for channel in numbers):
        raise ValueError(f"the color {numbers} is out of 0 to 255")
    return red, green, blue
