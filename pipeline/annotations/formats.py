"""The annotation formats by name, and which one lies at a place."""

from __future__ import annotations

from shardlens.pipeline.annotations import coco, label_maps, plain, voc
from shardlens.pipeline.annotations.source import Format, Look
from shardlens.pipeline.errors import ConfigError, DatasetError

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        coco.FORMAT,
        voc.FORMAT,
        label_maps.FORMAT,
        plain.FORMAT,
    )
}
"""Name -> format, in the order in which they are tried. A new format is one module and one line here."""


def find(name: str) -> Format:
    """The format called `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in FORMATS:
        raise ConfigError(f"annotation format {name!r}: expected auto or one of {', '.join(FORMATS)}")
    return FORMATS[name]


def detect(look: Look) -> tuple[Format, str]:
    """The first format that recognizes the places, and why.

    Raises:
        DatasetError: annotations are named, and no format recognizes them.
    """
    for format in FORMATS.values():
        reason = format.recognizes(look)
        if reason is not None:
            return format, reason
    held = sorted({name.partition("/")[0] + "/" * ("/" in name) for name in look.files.names})
    raise DatasetError(
        f"the format of the annotations {look.root} cannot be told (it holds {', '.join(held[:4]) or 'nothing'}): "
        f"expected a .json file, or a folder of .xml files or mask images; "
        f"name the format with --format, one of {', '.join(FORMATS)}"
    )
