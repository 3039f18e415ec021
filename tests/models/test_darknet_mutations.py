"""Damaged .cfg, tree and map files: whatever stands in them, the error is one that explains."""

from __future__ import annotations

import contextlib
import random

import pytest

from shardlens.models import build
from shardlens.models.errors import ModelError
from tests.models.samples import CLASSES, TINY_CFG

TREE, MAP = "animal -1\nvehicle -1\ncat 0\ndog 0\n", "cat\ndog\n"
VALUES = (
    *(
        "",
        "-1",
        "0",
        "1e9",
        "9" * 21,
        "nan",
        "inf",
        "1.5",
        "x",
        "1,2,3",
        "-99",
        "\x00",
        "1e400",
        "2147483648",
        "3" * 5000,
    ),
    *("100000", "=", "true", "-1,-2,-3,99"),
)
KEYS = (
    *(
        "filters",
        "size",
        "stride",
        "pad",
        "groups",
        "activation",
        "anchors",
        "mask",
        "classes",
        "layers",
        "from",
        "width",
    ),
    *("height", "channels", "scale_x_y", "dilation", "batch_normalize", "iou_loss", "num", "padding", "max_delta"),
)
SECTIONS = (
    "[",
    "[net]",
    "[yolo]",
    "[route]",
    "[shortcut]",
    "[region]",
    "[crnn]",
    "[sam]",
    "[upsample]",
    "[reorg]",
    "[maxpool]",
)


def mutated(text: str, choose: random.Random) -> str:
    """The text with some of its lines changed, doubled, moved or gone."""
    lines = text.split("\n")
    for _ in range(choose.choice((1, 1, 2, 4))):
        place = choose.randrange(len(lines))
        change = choose.randrange(6)
        if change == 0:
            lines[place] = f"{lines[place].partition('=')[0]}={choose.choice(VALUES)}"
        elif change == 1 and len(lines) > 1:
            lines.pop(place)
        elif change == 2:
            lines.insert(place, lines[choose.randrange(len(lines))])
        elif change == 3:
            lines.insert(place, f"{choose.choice(KEYS)}={choose.choice(VALUES)}")
        elif change == 4:
            lines[place] = "".join(choose.sample(lines[place], len(lines[place])))
        else:
            lines[place] = choose.choice(SECTIONS)
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_cfg_is_explained(seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(300):
        with contextlib.suppress(ModelError):
            build("darknet", CLASSES, {"cfg": mutated(TINY_CFG, choose)})


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_tree_or_map_is_explained(seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(100):
        options = {"tree": mutated(TREE, choose), "map": mutated(MAP, choose), "width": 0.02}
        with contextlib.suppress(ModelError):
            build("yolo9000", 2, options)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("filters=2147483648", r"filters=2147483648 size=1 on \d+ channels need \d+ weights"),
        ("size=2147483647", "need .* weights, more than"),
        ("anchors=nan,1", "anchors=nan,1, expected numbers"),
        ("ignore_thresh=inf", "ignore_thresh=inf, expected a number"),
    ],
)
def test_sizes_that_no_machine_holds_are_explained(line: str, reason: str) -> None:
    key = line.partition("=")[0]
    head = "[yolo]\nanchors=8,8\nclasses=2\n"
    body = "[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\nfilters=7\nsize=1\nactivation=linear\n"
    cfg = (
        f"{body}{head}{line}\n"
        if key == "ignore_thresh"
        else (body + head).replace(next(text for text in (body + head).split("\n") if text.startswith(f"{key}=")), line)
    )
    with pytest.raises(ModelError, match=reason):
        build("darknet", 2, {"cfg": cfg})
