from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline import masks, storage
from shardlens.pipeline.errors import ConfigError, DatasetError
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.images.drawing import GAP, PALETTE, draw, sheet
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict
from shardlens.pipeline.show import ShowConfig, show

SIDE = 80
BOX = (10, 20, 30, 15)
"""x, y, width, height in the stored image, which is 80 wide and 60 high."""


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(storage.read(uri))).convert("RGB"))


def has_color(image: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((image == np.array(color)).all(axis=-1).any())


@pytest.fixture
def warehouse(tmp_path: Path) -> str:
    """A plain image, one that is stored turned, and a damaged one."""
    folder = tmp_path / "images"
    folder.mkdir()
    image, exif = Image.new("RGB", (SIDE, 60), "white"), Image.Exif()
    image.save(folder / "a.png")
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif, quality=95)
    image.save(folder / "z.png")
    rle = masks.encode(np.pad(np.ones((15, 30), np.uint8), ((20, 25), (10, 40))))
    mask = {"size": [60, SIDE], "counts": rle.counts}
    document = {
        "images": [
            {"id": i, "file_name": name, "width": SIDE, "height": 60}
            for i, name in enumerate(("a.png", "turned.jpg", "z.png"))
        ],
        "categories": [{"id": 7, "name": "cell"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 7, "bbox": BOX, "area": 450, "iscrowd": 0, "segmentation": mask}
            for i in range(3)
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(document))
    root = str(tmp_path / "warehouse")
    truth = str(tmp_path / "truth.json")
    ingest(IngestConfig("cells", images=str(folder), annotations=truth, warehouse=root), LocalExecutor())
    (folder / "z.png").write_bytes(b"no image")
    return root


def test_a_dataset_is_drawn_with_its_annotations(warehouse: str, tmp_path: Path) -> None:
    report = show(ShowConfig("cells", output=str(tmp_path / "sheet.png"), warehouse=warehouse, width=SIDE))
    assert report.images == ("a.png", "turned.jpg")
    assert len(report.unreadable) == 1
    drawn = pixels(report.uri)
    assert has_color(drawn, PALETTE[0])
    inside = drawn[6 + 27, 6 + 25].astype(int)  # of the first image: white under the mask of the category's color
    assert np.abs(inside - (0.55 * 255 + 0.45 * np.array(PALETTE[0]))).max() <= 3


def test_an_image_stored_turned_is_drawn_upright(warehouse: str, tmp_path: Path) -> None:
    where = ShowConfig("cells", ("turned.jpg",), output=str(tmp_path / "one.png"), warehouse=warehouse, width=60)
    drawn = pixels(show(where).uri)[6 : 6 + SIDE, 6:66]
    blue = np.argwhere((np.abs(drawn.astype(int) - PALETTE[0]) <= 2).all(axis=-1))
    x, y, width, height = BOX
    assert blue[:, 1].min() in range(60 - y - height - 1, 60 - y - height + 2)  # tag 6: a quarter turn clockwise
    assert blue[:, 0].max() in range(x + width - 2, x + width + 2)


def test_a_run_is_drawn_with_its_predictions(warehouse: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cell\n")
    network = NetworkConfig(
        model="unet", option=("width=2", "depth=2"), weights="random", labels=str(tmp_path / "labels.txt")
    )
    config = PredictConfig("cells", network=network, run="regions", max_quarantined=1, warehouse=warehouse)
    predict(config, LocalExecutor())
    report = show(ShowConfig("regions", output=str(tmp_path / "run.png"), min_score=0.0, warehouse=warehouse))
    assert report.images == ("a.png", "turned.jpg")
    assert "damaged" in report.unreadable[0] or "not an image" in report.unreadable[0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "cell"}, "'cell' is no dataset and no run of .* which holds cells"),
        ({"name": "cells", "image": ("b.png",)}, "cells has no image 'b.png': expected a file name, as 'a.png'"),
        ({"name": "cells", "image": ("z.png",)}, "none of the 1 images can be read: z.png"),
    ],
)
def test_what_is_not_there_is_explained(warehouse: str, config: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        show(ShowConfig(**config, warehouse=warehouse))  # type: ignore[arg-type]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="columns is 0"):
        ShowConfig("cells", columns=0)
    with pytest.raises(ConfigError, match="min_score is nan"):
        ShowConfig("cells", min_score=float("nan"))


def test_a_picture_that_no_memory_holds_is_refused(warehouse: str) -> None:
    with pytest.raises(ConfigError, match=r"3 images 100000 pixels wide make .* million pixels, expected at most 200"):
        show(ShowConfig("cells", width=100_000, warehouse=warehouse))


def test_a_tall_image_is_drawn_narrow() -> None:
    assert draw(np.zeros((3000, 1, 3), np.uint8), (), 320).size == (1, 1280)
    assert draw(np.zeros((1, 3000, 3), np.uint8), (), 320).size == (320, 1)
    pictures = [draw(np.zeros((height, 40, 3), np.uint8), (), 80) for height in (400, 20)]
    assert sheet(pictures, ["a", "b"], 2).size[0] == 2 * (80 + GAP) + GAP
