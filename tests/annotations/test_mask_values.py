"""What mask pixels stand for: label maps, void, background, depth, edges of interpolation; which mask is of which image."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline.annotations.label_scheme import LabelScheme, MaskOptions, scheme_of
from shardlens.pipeline.errors import ConfigError, DatasetError
from tests.annotations.test_label_maps import blocks
from tests.annotations.tiny import HEIGHT, WIDTH, jpeg, png, put, rows, take
from tests.drawn_images import encode


def masks_of(tmp_path: Path, **masks: bytes) -> str:
    put(tmp_path / "set" / "images", {f"{name}.jpg": jpeg(i) for i, name in enumerate(masks)})
    return put(tmp_path / "set", {f"masks/{name}.png": data for name, data in masks.items()})


def soft(form: str = "PNG", values: tuple[int, ...] = (255,)) -> bytes:
    """A mask of blocks of 40 x 30 pixels drawn at an eighth of that and resized bilinearly, or saved as JPEG."""
    small = np.zeros((HEIGHT // 4, WIDTH // 4), np.uint8)
    for i, value in enumerate(values):
        small[2:10, 2 + 7 * i : 8 + 7 * i] = value
    image = Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    sink = io.BytesIO()
    image.save(sink, form, **({"quality": 60} if form == "JPEG" else {}))
    return sink.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_soft_edges_are_a_problem_with_a_remedy(tmp_path: Path, form: str) -> None:
    root = masks_of(tmp_path, a=soft(form), b=soft(form))
    report, _ = take(tmp_path, root)
    assert [(problem.kind, problem.count) for problem in report.problems] == [("interpolated-mask", 2)]
    assert "--mask-threshold 128" in report.problems[0].examples[0]
    assert any(note.startswith("255 is void: its pixels are not scored") for note in report.notes) or form == "JPEG"
    report, dataset = take(tmp_path, root, mask_threshold=128, classes="cell", name="cells")
    assert report.problems == ()
    assert rows(dataset.annotations, "category", "ignore") == [("cell", False)] * 2
    assert dataset.annotations["area"][0].as_py() == pytest.approx(24 * 32, abs=60)


def test_masks_with_crisp_edges_are_no_problem(tmp_path: Path) -> None:
    crisp = Image.open(io.BytesIO(soft())).point(lambda value: 255 if value > 127 else 0)
    report, _ = take(tmp_path, masks_of(tmp_path, a=encode(crisp, "PNG"), b=png(blocks(255))))
    assert report.problems == ()
    assert report.notes == ("255 is the only value of the masks: it is the one class, 1",)
    many, _ = take(tmp_path, masks_of(tmp_path, a=png(blocks(1, 2, 3, 4, 5)), b=png(blocks(9, 7))), name="many")
    assert many.problems == ()


def test_the_depth_of_all_masks_decides(tmp_path: Path) -> None:
    root = masks_of(tmp_path, a=png(blocks(1, 2)), b=png(blocks(300, 600, dtype=np.uint16)))
    report, dataset = take(tmp_path, root)
    assert rows(dataset.annotations, "kind", "category") == [("instance", "object")] * 4
    assert [(problem.kind, problem.count) for problem in report.problems] == [("mixed-masks", 1)]
    _, dataset = take(tmp_path, root, mask_kind="semantic", name="classes")
    assert dataset.categories["category_id"].to_pylist() == [1, 2, 300, 600]


def test_an_unreadable_mask_costs_its_image_alone(tmp_path: Path) -> None:
    report, dataset = take(tmp_path, masks_of(tmp_path, a=b"text", b=png(blocks(1))))
    assert dataset.images["flags"].to_pylist() == [["unreadable-annotation"], []]
    assert report.problems[0].examples[0].startswith("images/a.jpg: ")


def test_eight_bits_that_count_objects_in_every_mask_are_instances(tmp_path: Path) -> None:
    root = masks_of(tmp_path, a=png(blocks(1, 2, 3)), b=png(blocks(1, 2)), c=png(blocks(1)))
    report, dataset = take(tmp_path, root)
    assert set(rows(dataset.annotations, "kind", "category")) == {("instance", "object")}
    assert "count 1, 2, ... without a gap" in report.notes[0]
    for masks in (
        {"a": blocks(1, 2, 3), "b": blocks(2)},
        {"a": blocks(1, 2, 3), "b": blocks(1, 2, 3)},
        {"a": blocks(1, 2, 3, 3), "b": blocks(1)},
    ):
        root = masks_of(tmp_path / "other", **{name: png(mask) for name, mask in masks.items()})
        assert set(take(tmp_path, root, name="other")[1].annotations["kind"].to_pylist()) == {"region"}


NAMED = [
    ("{stem}", "{stem}_mask", None),
    ("{stem}", "mask_{stem}", None),
    ("{stem}", "{stem}_instance", None),
    ("{stem}", "{stem}_Mask", None),
    ("{stem}", "{stem}.seg", None),
    ("{stem}", "{stem}_xyz", "{stem}_xyz.png"),
    ("{stem}", "xyz-{stem}", "xyz-{stem}"),
]


@pytest.mark.parametrize(
    ("image", "mask", "pattern", "layout"),
    [
        *((*names, layout) for names in NAMED for layout in ("folders", "two", "one")),
        ("{stem}_sat", "{stem}_mask", None, "folders"),
        ("{stem}_sat", "{stem}_mask", None, "two"),
    ],
)
def test_masks_are_found_by_their_names(
    tmp_path: Path, image: str, mask: str, pattern: str | None, layout: str
) -> None:
    ours, theirs = {"folders": ("images/", "masks/"), "two": ("x/", "y/"), "one": ("", "")}[layout]
    files = {f"{ours}{image.format(stem=stem)}.jpg": jpeg(i) for i, stem in enumerate("pqr")}
    files |= {f"{theirs}{mask.format(stem=stem)}.png": png(blocks(i + 1)) for i, stem in enumerate("pqr")}
    root = put(tmp_path / "set", files)
    places = {"images": f"{root}/x", "annotations": f"{root}/y"} if layout == "two" else {"images": root}
    form = {} if layout != "one" or pattern is None else {"format": "masks"}
    report, dataset = take(tmp_path, **places, mask_pattern=pattern, **form)
    assert (dataset.images.num_rows, dataset.annotations.num_rows, report.problems) == (3, 3, ())
    kind = "instance" if "instance" in mask else "region"
    assert set(dataset.annotations["kind"].to_pylist()) == {kind}


def test_a_pattern_that_no_mask_has(tmp_path: Path) -> None:
    root = masks_of(tmp_path, a=png(blocks(1)))
    with pytest.raises(
        DatasetError, match=r"none of the 1 masks is named as .* \{stem\}_m\.png says; one is masks/a\.png"
    ):
        take(tmp_path, root, mask_pattern="{stem}_m.png")


def settled(
    tmp_path: Path, mask: Any, **options: Any
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], tuple[str, ...]]:
    report, dataset = take(tmp_path, masks_of(tmp_path, a=png(mask)), mask_kind="semantic", **options)
    found = rows(dataset.annotations, "category_id", "category", "ignore")
    return found, rows(dataset.categories, "category_id", "name"), report.notes


def test_camvid(tmp_path: Path) -> None:
    """0 is a class, 11 is void; the published order of names begins with 0."""
    found, categories, notes = settled(tmp_path, blocks(1, 11), first_id=0, void="11", classes="Sky,Building,Pole")
    assert found == [(0, "Sky", False), (1, "Building", False), (None, None, True)]
    assert categories == [(0, "Sky"), (1, "Building"), (2, "Pole")]
    assert notes == ("1 of the 3 classes named never occur: Pole",)


def test_background_and_void_can_be_any_value(tmp_path: Path) -> None:
    assert settled(tmp_path, blocks(3), background="none")[0] == [(0, "class 0", False), (3, "class 3", False)]
    assert settled(tmp_path, blocks(3, 5), background="3")[0] == [(0, "class 0", False), (5, "class 5", False)]
    assert settled(tmp_path, blocks(3, 255), void="none")[0] == [(3, "class 3", False), (255, "class 255", False)]
    assert settled(tmp_path, blocks(3, 4), void="4,255")[0] == [(3, "class 3", False), (None, None, True)]


@pytest.mark.parametrize("name", ["background", "Background", "__background__", "_background_", "BG", "back ground"])
def test_a_first_name_that_means_background_is_no_category(tmp_path: Path, name: str) -> None:
    found, categories, _ = settled(tmp_path, blocks(1, 2), classes=f"{name},cat,dog")
    assert found == [(1, "cat", False), (2, "dog", False)]
    assert categories == [(1, "cat"), (2, "dog")]


def test_values_without_a_name_and_names_without_a_value(tmp_path: Path) -> None:
    report, _ = take(tmp_path, masks_of(tmp_path, a=png(blocks(1, 7))), classes="cat,dog")
    assert [(problem.kind, problem.examples) for problem in report.problems] == [
        ("unknown-category", ("category '7', 1 times: expected one of cat, dog",))
    ]
    assert report.notes == ("1 of the 2 classes named never occur: dog",)


CSV = "id,name,color,ignore\n0,Sky,#808080,\n1,Road,128 64 128,\n11,Void,0 0 0,yes\n"


def test_a_label_map_names_colors_and_void(tmp_path: Path) -> None:
    source = put(tmp_path, {"map.csv": CSV.encode("utf-8-sig")}) + "/map.csv"
    found, categories, _ = settled(tmp_path, blocks(1, 11), label_map=source)
    assert found == [(0, "Sky", False), (1, "Road", False), (None, None, True)]
    assert categories == [(0, "Sky"), (1, "Road")]
    colors = np.array([[128, 128, 128], [128, 64, 128], [0, 0, 0]], np.uint8)[blocks(1, 2)]
    found, _, _ = settled(tmp_path, colors, label_map=source, name="colors")
    assert found == [(0, "Sky", False), (1, "Road", False), (None, None, True)]
    report, _ = take(
        tmp_path, masks_of(tmp_path / "odd", a=png(colors + 1), b=png(colors)), label_map=source, name="odd"
    )
    assert "3 colors are not in the label map, such as #" in report.problems[0].examples[0]


def test_label_maps_in_json_and_damaged_ones(tmp_path: Path) -> None:
    listed = [
        {"id": 0, "name": "background"},
        {"id": 1, "name": "cat", "color": [1, 2, 3]},
        {"id": 2, "name": "dog", "ignore": True},
    ]
    source = put(tmp_path, {"map.json": json.dumps(listed).encode()}) + "/map.json"
    assert scheme_of(MaskOptions(label_map=source)) == LabelScheme({1: "cat"}, 0, frozenset({2}), {(1, 2, 3): 1})
    for text, match in (
        ("id,name\n1,a\n1,b\n", "each with its own id; given twice: 1"),
        ("id,title\n1,a\n", "is no label map"),
        ("id,name\nx,a\n", "is no label map"),
        ("id,name,color\n1,a,300 0 0\n", "out of 0 to 255"),
        ("", "expected rows"),
    ):
        put(tmp_path, {"map.csv": text.encode()})
        with pytest.raises(ConfigError, match=match):
            scheme_of(MaskOptions(label_map=str(tmp_path / "map.csv")))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mask_threshold": 0}, "the mask threshold is 0: expected a gray value"),
        ({"mask_pattern": "mask.png"}, r"expected one \{stem\}"),
        ({"void": "x"}, "void is 'x': expected pixel values separated by commas, or none"),
        ({"background": "1,2"}, "background is '1,2': expected a pixel value, or none"),
        ({"classes": "a", "label_map": "b.csv"}, "--classes and --label-map both name the classes"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        MaskOptions(**options)
