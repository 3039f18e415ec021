"""Telling a format from names."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardlens.pipeline.annotations.formats import READERS, detect
from shardlens.pipeline.errors import DatasetError
from tests.annotations.tiny import put


def test_the_format_is_told_from_names(tmp_path: Path) -> None:
    plain_root = put(tmp_path / "plain", {"a.jpg": b"", "deep/b.jpg": b""})
    voc_root = put(tmp_path / "voc", {"Annotations/a.xml": b"", "JPEGImages/a.jpg": b""})
    masks_root = put(tmp_path / "masks", {"train/images/a.jpg": b"", "train/masks/a.png": b""})
    assert detect("s3://b/images", "s3://b/Instances.JSON") == "coco"
    assert detect(plain_root, None) == detect("/x/images.tar", None) == "none"
    assert detect(voc_root, None) == detect("/x", voc_root) == detect("/x", f"{voc_root}/Annotations") == "voc"
    assert (
        detect(masks_root, None)
        == detect("/x", f"{masks_root}/train")
        == detect("/x", f"{masks_root}/train/masks")
        == "masks"
    )
    with pytest.raises(
        DatasetError, match=r"cannot be told \(it holds a\.jpg, deep/\).*--format, one of coco, voc, masks, none"
    ):
        detect("/x", plain_root)
    assert list(READERS) == ["coco", "voc", "masks", "none"]
