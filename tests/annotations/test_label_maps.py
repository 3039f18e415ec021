"""Mask images: classes and objects by pixel, void, layouts and what cannot be read."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline import masks
from shardlens.pipeline.annotations import label_maps, mask_pixels
from shardlens.pipeline.annotations.label_scheme import LabelScheme
from shardlens.pipeline.errors import ConfigError, DatasetError
from tests.annotations.tiny import HEIGHT, WIDTH, assembled, jpeg, png, put, rows, tar
from tests.drawn_images import encode, picture


def blocks(*values: int, dtype: type = np.uint8) -> Any:
    """(H, W) ids: 0, with a block of 10 x 8 pixels for each value, in a row."""
    ids_hw = np.zeros((HEIGHT, WIDTH), dtype)
    for i, value in enumerate(values):
        ids_hw[5:13, 12 * i : 12 * i + 10] = value
    return ids_hw


def named(*names: str) -> LabelScheme:
    return LabelScheme(dict(enumerate(names, 1)))


def folder(tmp_path: Path, **images: bytes) -> str:
    put(tmp_path / "set" / "images", {f"{name}.jpg": jpeg() for name in images})
    return put(tmp_path / "set", {f"masks/{name}.png": data for name, data in images.items()})


def decoded(row: dict[str, Any]) -> Any:
    return masks.decode(masks.Rle(*row["segmentation"]["size"], row["segmentation"]["counts"]))


def test_class_ids_become_one_region_a_class_and_255_is_void(tmp_path: Path) -> None:
    ids_hw = blocks(3, 1, 255, 3)
    content, problems, _ = assembled(label_maps.read, folder(tmp_path, a=png(ids_hw), b=png(blocks(0))))
    found = content.annotations.to_pylist()
    assert [(row["category_id"], row["category"], row["ignore"], row["area"]) for row in found] == [
        (1, "class 1", False, 80.0),
        (3, "class 3", False, 160.0),
        (None, None, True, 80.0),
    ]
    for row, value in zip(found, (1, 3, 255), strict=True):
        np.testing.assert_array_equal(decoded(row), ids_hw == value)
    assert {row["kind"] for row in found} == {"region"}
    assert rows(content.categories, "category_id", "name") == [(1, "class 1"), (3, "class 3")]
    assert problems == {}


def test_black_and_white_masks_have_one_class(tmp_path: Path) -> None:
    images = folder(tmp_path, a=png(blocks(255)), b=png(blocks(0)))
    content, problems, _ = assembled(label_maps.read, images)
    assert rows(content.annotations, "category_id", "category", "ignore") == [(1, "class 1", False)]
    cells, _, _ = assembled(label_maps.read, images, labels=named("cell"))
    assert rows(cells.annotations, "category_id", "category") == [(1, "cell")]
    void, _, _ = assembled(label_maps.read, images, labels=named("cell", "wall"))
    assert rows(void.annotations, "category_id", "ignore") == [(None, True)]
    assert problems == {}


def test_class_names_and_a_value_without_name(tmp_path: Path) -> None:
    content, problems, _ = assembled(label_maps.read, folder(tmp_path, a=png(blocks(1, 2))), labels=named("sky"))
    assert rows(content.annotations, "category_id", "category", "flags") == [
        (1, "sky", []),
        (None, "2", ["unknown-category"]),
    ]
    assert problems == {"unknown-category": 1}


def test_sixteen_bits_are_objects(tmp_path: Path) -> None:
    ids_hw = blocks(300, 7, 255, dtype=np.uint16)
    ids_hw[40, 60] = 7
    content, problems, _ = assembled(label_maps.read, folder(tmp_path, a=png(ids_hw)))
    found = content.annotations.to_pylist()
    assert [row["area"] for row in found] == [81.0, 80.0, 80.0]
    assert [list(row["bbox"].values()) for row in found] == [[12, 5, 49, 36], [24, 5, 10, 8], [0, 5, 10, 8]]
    assert {(row["category_id"], row["category"], row["kind"], row["ignore"]) for row in found} == {
        (1, "object", "instance", False)
    }
    np.testing.assert_array_equal(decoded(found[2]), ids_hw == 300)
    assert problems == {}


def test_the_kind_can_be_given(tmp_path: Path) -> None:
    eight = folder(tmp_path, a=png(blocks(1, 255)))
    content, _, _ = assembled(label_maps.read, eight, mask_kind="instance", labels=named("nucleus"))
    assert rows(content.annotations, "kind", "category") == [("instance", "nucleus")] * 2
    sixteen = folder(tmp_path, a=png(blocks(255, 256, dtype=np.uint16)))
    content, _, _ = assembled(label_maps.read, sixteen, mask_kind="semantic")
    assert rows(content.annotations, "kind", "category_id", "ignore") == [
        ("region", 255, False),
        ("region", 256, False),
    ]
    with pytest.raises(ConfigError, match="instance masks hold no classes, and 2 names were given"):
        assembled(label_maps.read, sixteen, labels=named("a", "b"))


def test_palettes_are_read_as_indices(tmp_path: Path) -> None:
    palette = Image.fromarray(blocks(1, 2, 255))
    palette.putpalette([channel for i in range(256) for channel in (255 - i, i, 7)])
    images = folder(tmp_path, a=encode(palette, "PNG"))
    content, _, _ = assembled(label_maps.read, images)
    assert rows(content.annotations, "category_id", "ignore") == [(1, False), (2, False), (None, True)]
    content, _, _ = assembled(label_maps.read, images, mask_kind="instance")
    assert rows(content.annotations, "kind", "category_id", "ignore") == [("instance", 1, False)] * 2 + [
        ("region", None, True)
    ]


def test_other_modes_of_one_number_a_pixel(tmp_path: Path) -> None:
    one_bit, gray = png(blocks(255), "1"), png(blocks(1), "RGBA")
    alpha = png(blocks(2), "LA")
    content, problems, _ = assembled(label_maps.read, folder(tmp_path, a=one_bit, b=gray, c=alpha))
    assert rows(content.annotations, "image_id", "category_id", "area") == [(1, 1, 80.0), (2, 1, 80.0), (3, 2, 80.0)]
    assert problems == {}


def test_masks_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    good = png(blocks(1))
    cut = encode(picture(HEIGHT, WIDTH)[..., 0], "PNG")[:-200]
    small = png(blocks(1)[:, :-1])
    images = folder(tmp_path, a=encode(picture(HEIGHT, WIDTH), "PNG"), b=cut, c=b"text", d=small, e=good)
    content, problems, source = assembled(label_maps.read, images, mask_kind="semantic")
    assert content.images["flags"].to_pylist() == [["unreadable-annotation"]] * 3 + [
        ["size-mismatch", "mask-of-another-size"],
        [],
    ]
    assert rows(content.annotations, "image_id", "flags") == [(4, ["mask-of-another-size"]), (5, [])]
    assert problems == {"size-mismatch": 1, "unreadable-annotation": 3, "mask-of-another-size": 1}
    examples = {problem.kind: problem.examples for problem in source.problems.found()}["unreadable-annotation"]
    assert examples[0].endswith("for colors give their classes with --label-map")
    assert "a mask that cannot be decoded" in examples[1]


def test_a_forged_header_costs_no_memory() -> None:
    data = bytearray(png(blocks(1)))
    data[16:24] = (60000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(DatasetError, match="a mask of 60000 x 60000 pixels, expected at most 100000000"):
        mask_pixels.pixels(bytes(data), "a.png")


LAYOUT = {f"{split}/{name}": (png(blocks(1)) if "masks" in name else jpeg()) for split, name in [
    ("train", "images/sub/a.jpg"), ("train", "masks/sub/a.png"), ("val", "images/a.jpg"), ("val", "masks/a.png")
]}  # fmt: skip
NAMES = [("train/images/sub/a.jpg", "train"), ("val/images/a.jpg", "val")]


def test_folders_of_splits(tmp_path: Path) -> None:
    root = put(tmp_path, {f"set/{name}": data for name, data in LAYOUT.items()} | {"set/README.md": b"x"}) + "/set"
    for beside in (None, root):
        content, problems, _ = assembled(label_maps.read, root, beside)
        assert rows(content.images, "file_name", "split") == NAMES
        assert content.annotations["image_id"].to_pylist() == [1, 2]
        assert problems == {}
    content, _, _ = assembled(label_maps.read, root, split="val")
    assert rows(content.images, "file_name", "split") == NAMES[1:]
    with pytest.raises(DatasetError, match=r"has no split 'test': expected one of its folders train, val"):
        assembled(label_maps.read, root, split="test")
    with pytest.raises(DatasetError, match=r"holds 1 images in folders named images and 0 in folders named masks"):
        assembled(label_maps.read, put(tmp_path / "bare", {"images/a.jpg": jpeg()}))


def test_tars_of_masks(tmp_path: Path) -> None:
    one = (
        put(
            tmp_path,
            {"one.tar": tar({f"set/{name.partition('/')[2]}": data for name, data in list(LAYOUT.items())[:2]})},
        )
        + "/one.tar"
    )
    content, _, _ = assembled(label_maps.read, one)
    assert rows(content.images, "file_name", "split") == [("set/images/sub/a.jpg", None)]
    split = put(tmp_path, {"split.tar": tar(LAYOUT)}) + "/split.tar"
    content, _, _ = assembled(label_maps.read, split)
    assert rows(content.images, "file_name", "split") == NAMES
    assert content.annotations["area"].to_pylist() == [80.0, 80.0]


def test_images_and_masks_in_any_two_folders(tmp_path: Path) -> None:
    images = put(tmp_path / "x", {"a.jpg": jpeg(), "b.jpg": jpeg()})
    found = put(tmp_path / "y", {"a.PNG": png(blocks(1)), "c.png": png(blocks(1))})
    content, problems, _ = assembled(label_maps.read, images, found, split="val")
    assert rows(content.images, "file_name", "split", "flags") == [
        ("a.jpg", "val", []),
        ("b.jpg", "val", ["image-without-annotation"]),
    ]
    assert problems == {"image-without-annotation": 1, "annotation-without-image": 1}


def test_a_mask_of_more_values_than_objects_is_no_mask() -> None:
    noise = np.random.default_rng(0).permutation(65536).astype(np.uint16).reshape(256, 256)
    with pytest.raises(
        DatasetError, match=r"a mask of 65535 different values, expected at most 10000 classes or objects"
    ):
        mask_pixels.MaskParser(LabelScheme())(png(noise), "a.png", "a.jpg")
    many = (noise // 8).astype(np.uint16)
    assert len(mask_pixels.MaskParser(LabelScheme())(png(many), "a.png", "a.jpg").rows) == 8191
