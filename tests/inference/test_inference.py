"""Tiles, views, ensembles and post-processing, through `predict`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from shardlens import models
from shardlens.flows.synthetic_shapes import draw_dataset
from shardlens.models.spec import InputRule, Task
from shardlens.pipeline import masks, storage
from shardlens.pipeline.errors import ConfigError, RunError
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.base import Executor, ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.images.decode import Decoded
from shardlens.pipeline.inference.forward import Forward
from shardlens.pipeline.inference.options import InferenceConfig, InferencePlan, View, views
from shardlens.pipeline.inference.semantic import Segmenter
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.masks.rle import Rle
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.networks.weights import Checkpoint, save
from shardlens.pipeline.predict import PredictConfig, predict
from shardlens.pipeline.retry import retry_quarantined
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.drawn_images import picture, rotated_jpeg
from tests.plain_segmenters import LABELS, rule

SIZES = [(70, 100), (40, 60), (130, 90)]
MODEL = "tests.plain_segmenters:SPEC"


@pytest.fixture
def local() -> Iterator[Executor]:
    with open_executor(ExecutorConfig()) as executor:
        yield executor


@pytest.fixture
def warehouse(tmp_path: Path, local: Executor) -> str:
    """Three smooth images, and a class map of each."""
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for i, (height, width) in enumerate(SIZES):
        pixels = picture(height, width, i)
        Image.fromarray(pixels).save(tmp_path / "set" / "images" / f"{i}.png")
        classes = np.digitize(pixels[:, :, 0], [100, 160]).astype(np.uint8)
        Image.fromarray(classes).save(tmp_path / "set" / "masks" / f"{i}.png")
    root = str(tmp_path / "warehouse")
    asked = IngestConfig(
        "pictures", images=str(tmp_path / "set"), format="masks", classes="disc,square", warehouse=root
    )
    ingest(asked, local)
    return root


def forward_of(
    model: nn.Module, rule: InputRule, plan: InferencePlan | None = None, task: Task = "semantic"
) -> Forward:
    """A network on the CPU."""
    device = torch.device("cpu")
    return Forward(model=model, task=task, rule=rule, device=device, precision="fp32", plan=plan or InferencePlan())


def config(warehouse: str, run: str = "r", model: str = MODEL, option: tuple[str, ...] = (), **given: object):
    settings = {name: given.pop(name) for name in ("max_quarantined", "batch_size") if name in given}
    return PredictConfig(
        "pictures",
        network=NetworkConfig(model=model, option=option, weights="random"),
        inference=InferenceConfig(**given),  # type: ignore[arg-type]
        run=run,
        precision="fp32",
        warehouse=warehouse,
        **settings,  # type: ignore[arg-type]
    )


def rows(warehouse: str, run: str = "r") -> pa.Table:
    parts = runs.open_committed(Warehouse(warehouse), run).prediction_parts()
    return pa.concat_tables([tables.from_bytes(storage.read(uri)).replace_schema_metadata(None) for uri in parts])


def maps(warehouse: str, run: str = "r") -> dict[int, np.ndarray]:
    """Class maps that the rows paint, by image."""
    found: dict[int, np.ndarray] = {}
    for row in rows(warehouse, run).to_pylist():
        height, width = row["segmentation"]["size"]
        mask = masks.decode(Rle(height, width, row["segmentation"]["counts"])).astype(bool)
        classes = found.setdefault(row["image_id"], np.zeros((height, width), int))
        assert not classes[mask].any()
        classes[mask] = LABELS.index(row["category"])
    return found


def test_tiles_give_what_the_whole_gives_to_a_network_that_sees_single_pixels(warehouse: str, local: Executor) -> None:
    predict(config(warehouse, "whole"), local)
    predict(config(warehouse, "tiled", tile=48, overlap=16), local)
    whole, tiled = rows(warehouse, "whole"), rows(warehouse, "tiled")
    assert len(maps(warehouse, "tiled")) == 3
    assert tiled.drop_columns(["score"]) == whole.drop_columns(["score"])
    assert tiled["score"].to_pylist() == pytest.approx(whole["score"].to_pylist(), abs=1e-6)


def test_tiles_differ_at_seams_alone_where_a_network_sees_neighbors(warehouse: str, local: Executor) -> None:
    predict(config(warehouse, "whole", option=("kernel=9",)), local)
    predict(config(warehouse, "tiled", option=("kernel=9",), tile=48, overlap=16), local)
    whole, tiled = maps(warehouse, "whole"), maps(warehouse, "tiled")
    differs = 0
    for image_id, classes in whole.items():
        near = np.zeros(classes.shape, bool)
        for axis, length in enumerate(classes.shape):
            ends = [end for begin in range(32, length, 32) for end in (begin, begin + 16) if end < length]
            for end in ends:
                near[(slice(end - 4, end + 4), slice(None))[:: 1 if axis == 0 else -1]] = True
        assert (classes == tiled[image_id])[~near].all()
        differs += int((classes != tiled[image_id]).sum())
    assert differs > 0


@pytest.mark.parametrize("orientation", [1, 6])
def test_tiles_of_a_turned_image_lie_in_its_stored_frame(orientation: int) -> None:
    from shardlens.pipeline.images.decode import postponed
    from shardlens.pipeline.images.policy import DecodePolicy

    decoded = postponed(rotated_jpeg(picture(70, 100), orientation), DecodePolicy())
    torch.manual_seed(0)
    model = models.build(MODEL, 3).eval()
    plain = forward_of(model, rule(model))
    tiled = forward_of(model, rule(model), InferencePlan(tile=32, overlap=8))
    with torch.inference_mode():
        (expected,), (found,) = plain([decoded]), tiled([decoded])
    assert found.rles == expected.rles
    assert (found.rles[0].height, found.rles[0].width) == (70, 100)


def test_detectors_see_tiles_too(warehouse: str, local: Executor) -> None:
    """The odd detector finds two boxes in every image, so in every tile; those that a seam cut are joined across it."""
    predict(config(warehouse, model="tests.odd_models:SPEC", tile=64, overlap=0), local)
    boxes: dict[int, list[tuple[float, ...]]] = {}
    for row in rows(warehouse).to_pylist():
        boxes.setdefault(row["image_id"], []).append(tuple(row["bbox"].values()))
    assert {(0.0, 0.0, 100.0, 70.0), (65.0, 2.0, 17.0, 30.0), (65.0, 34.0, 17.0, 17.0)} <= set(boxes[1])
    assert sorted(boxes[2]) == [(0.0, 0.0, 60.0, 40.0), (1.0, 2.0, 29.0, 18.0)]


def test_settings_are_part_of_the_run(warehouse: str, local: Executor) -> None:
    predict(config(warehouse, tile=48, overlap=16), local)
    assert predict(config(warehouse, tile=48, overlap=16), local).resumed_shards == 1
    with pytest.raises(RunError, match=r"tiles.overlap: 16 there, 8 here"):
        predict(config(warehouse, tile=48, overlap=8), local)
    assert InferencePlan().identity() == {}


def test_views_of_a_list() -> None:
    assert views("") == (View(),)
    assert views("flip") == (View(), View(flipped=True))
    assert len(views("flip, vflip,0.75,1.25")) == 12
    assert views("2")[1] == View(2.0)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.from_numpy(picture(40, 56).copy()).permute(2, 0, 1) / 255


@torch.inference_mode()
def probabilities(image: torch.Tensor, *seeds: int, tta: str = "") -> torch.Tensor:
    networks = [models.build(MODEL, 3, {"kernel": 5, "seed": seed}) for seed in seeds]
    segmenter = Segmenter(tuple((lambda x, n=n: n(x)["out"], rule(n)) for n in networks), views(tta))
    return segmenter([image])[0]


def test_flips_are_averaged(image: torch.Tensor) -> None:
    plain, mirrored = probabilities(image, 0), probabilities(image.flip(-1), 0).flip(-1)
    assert (plain - mirrored).abs().max() > 0.1
    assert torch.allclose(probabilities(image, 0, tta="flip"), (plain + mirrored) / 2, atol=1e-6)
    turned = probabilities(image.flip(-2), 0).flip(-2)
    assert torch.allclose(probabilities(image, 0, tta="vflip"), (plain + turned) / 2, atol=1e-6)


def test_scales_are_averaged(image: torch.Tensor) -> None:
    plain = probabilities(image, 0)
    half = torch.nn.functional.interpolate(image[None], (20, 28), mode="bilinear", antialias=True)[0]
    network = models.build(MODEL, 3, {"kernel": 5})
    padded = torch.nn.functional.pad((half - 0.5) / 0.25, (0, 4, 0, 4))
    logits = network(padded[None])["out"][:, :, :20, :28]
    small = torch.nn.functional.interpolate(logits, (40, 56), mode="bilinear").softmax(1)[0]
    assert torch.allclose(probabilities(image, 0, tta="0.5"), (plain + small) / 2, atol=1e-5)


def test_networks_are_averaged(image: torch.Tensor) -> None:
    alone = [probabilities(image, seed) for seed in range(3)]
    assert torch.allclose(probabilities(image, 0, 1, 2), sum(alone) / 3, atol=1e-6)


def test_images_of_several_sizes_go_through_together(image: torch.Tensor) -> None:
    network = models.build(MODEL, 3, {"kernel": 5}).requires_grad_(False)
    segmenter = Segmenter(((lambda x: network(x)["out"], rule(network)),), views("flip,0.5"))
    images = [image, image[:, :20], image[:, :39]]
    for one, found in zip(images, segmenter(images), strict=True):
        assert torch.allclose(found, segmenter([one])[0], atol=1e-6)


def checkpoint(folder: Path, seed: int, labels: tuple[str, ...] = LABELS) -> str:
    options = {"kernel": 3, "seed": seed}
    data = save(models.build(MODEL, len(labels), options), Checkpoint(MODEL, options, labels))
    (folder / f"{seed}.safetensors").write_bytes(data)
    return str(folder / f"{seed}.safetensors")


def test_an_ensemble_of_checkpoints(warehouse: str, local: Executor, tmp_path: Path) -> None:
    first, second = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    for run, uri, more in (
        ("one", first, ()),
        ("two", second, ()),
        ("both", first, (second,)),
        ("self", first, (first,)),
    ):
        asked = PredictConfig(
            "pictures",
            network=NetworkConfig(model=MODEL, weights=uri),
            inference=InferenceConfig(ensemble=more),
            run=run,
            precision="fp32",
            warehouse=warehouse,
        )
        predict(asked, local)
    assert rows(warehouse, "self").drop_columns("score") == rows(warehouse, "one").drop_columns("score")
    assert rows(warehouse, "both") not in (rows(warehouse, "one"), rows(warehouse, "two"))
    settings = runs.open_committed(Warehouse(warehouse), "both").settings
    assert settings["ensemble"][0]["weights_sha256"] != settings["weights_sha256"]


def test_post_processing_through_predict(warehouse: str, local: Executor) -> None:
    predict(config(warehouse, "plain"), local)
    predict(config(warehouse, "best", fill_holes=True, largest_component=True, min_area=5), local)
    for image_id, classes in maps(warehouse, "best").items():
        for label in np.unique(classes[classes > 0]):
            assert ndimage.label(classes == label, np.ones((3, 3)))[1] == 1
        assert (classes != maps(warehouse, "plain")[image_id]).any()


def test_a_threshold_moves_the_border(warehouse: str, local: Executor) -> None:
    areas = []
    for run, least in (("low", 0.1), ("high", 0.95)):
        predict(config(warehouse, run, threshold=(f"disc={least}",)), local)
        areas.append(sum((classes == 1).sum() for classes in maps(warehouse, run).values()))
    assert areas[0] > areas[1]


def test_components_are_objects_that_are_scored_as_such(warehouse: str, local: Executor) -> None:
    predict(config(warehouse, components=True, min_area=3), local)
    found = rows(warehouse)
    assert set(found["kind"].to_pylist()) == {"instance"}
    assert found.num_rows > 6
    assert evaluate(EvaluateConfig("r", warehouse=warehouse), local).tasks == ("semantic",)


def test_components_are_scored_against_objects_where_the_truth_has_them(local: Executor, tmp_path: Path) -> None:
    draw_dataset(tmp_path / "shapes", {"val": 3}, size=48)
    images, truth = str(tmp_path / "shapes/val/images"), str(tmp_path / "shapes/instances_val.json")
    root = str(tmp_path / "warehouse")
    ingest(IngestConfig("pictures", images=images, annotations=truth, warehouse=root), local)
    for run, components in (("plain", False), ("objects", True)):
        predict(config(root, run, components=components), local)
    assert evaluate(EvaluateConfig("plain", warehouse=root), local).tasks == ("semantic",)
    score = evaluate(EvaluateConfig("objects", warehouse=root), local)
    assert score.tasks == ("semantic", "segm")
    assert ("segm", "AP50") in {(task, metric) for task, metric, _ in score.summary()}


def test_a_retry_keeps_the_settings(warehouse: str, local: Executor, tmp_path: Path) -> None:
    bad = tmp_path / "set" / "images" / "1.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:200])
    ensemble = (checkpoint(tmp_path, 5),)
    asked = config(warehouse, tile=48, overlap=16, threshold=("disc=0.4",), ensemble=ensemble, max_quarantined=0.5)
    predict(asked, local)
    bad.write_bytes(good)
    assert retry_quarantined(warehouse, "r", local, model=MODEL).quarantined == 0
    assert len(maps(warehouse)) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tile": -1}, "tile is -1: expected 0 or more"),
        ({"tile": 64, "overlap": 64}, "overlap 64 of tiles of 64 pixels: expected less than a tile's side"),
        ({"tta": "flop"}, "--tta 'flop': expected flip, vflip, or a scale between 0.1 and 10"),
        ({"tta": "0.01"}, "--tta '0.01'"),
        ({"threshold": ("dics=0.5",)}, "dics=0.5: the model has no such label; expected disc"),
        ({"threshold": ("disc=2",)}, "disc=2.0: expected a probability"),
        ({"threshold": ("disc",)}, "--threshold 'disc': expected NAME=NUMBER"),
        (
            {"threshold": tuple(f"{label}=0.9" for label in LABELS)},
            "--threshold: every label has one; expected a label without",
        ),
        ({"model": "tests.odd_models:SPEC", "tta": "flip"}, r"--tta is for semantic models.*shardlens fuse"),
        ({"model": "tests.odd_models:SPEC", "ensemble": ("x",)}, r"--ensemble is for semantic models.*shardlens fuse"),
        (
            {"model": "tests.odd_models:SPEC", "min_area": 3},
            "--min-area is for semantic models, .* of the task detection$",
        ),
        ({"model": "tests.plain_segmenters:FIXED", "tta": "0.5"}, "takes images of 32 x 32 pixels alone: leave it out"),
    ],
)
def test_what_does_not_fit_is_reported(warehouse: str, local: Executor, given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        predict(config(warehouse, **given), local)  # type: ignore[arg-type]


def test_a_checkpoint_with_other_labels_is_no_member(warehouse: str, local: Executor, tmp_path: Path) -> None:
    other = checkpoint(tmp_path, 3, ("__background__", "square", "disc"))
    with pytest.raises(ConfigError, match=r"with the labels __background__, square, disc; expected a semantic model"):
        predict(config(warehouse, ensemble=(other,)), local)


def test_probabilities_that_are_none_cost_the_image_alone(warehouse: str, local: Executor) -> None:
    report = predict(config(warehouse, option=("nan=true",), max_quarantined=1, tile=64, overlap=8), local)
    assert report.quarantined == 3


def test_large_images_are_decoded_when_their_turn_comes(
    warehouse: str, local: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shardlens.pipeline.images.fetch.PIXELS_IN_FLIGHT", 5000)
    predict(config(warehouse, "before", tile=48, overlap=16, batch_size=1), local)
    data = (tmp_path / "set" / "images" / "2.png").read_bytes()
    (tmp_path / "set" / "images" / "2.png").write_bytes(data[:1000])
    predict(config(warehouse, "after", tile=48, overlap=16, batch_size=1, max_quarantined=0.5), local)
    outcomes = runs.open_committed(Warehouse(warehouse), "after").outcome_parts()
    (bad,) = [row for row in tables.from_bytes(storage.read(outcomes[0])).to_pylist() if row["status"] != "ok"]
    assert (bad["stage"], bad["error"]) == ("decode", "ImageError")
    before, after = maps(warehouse, "before"), maps(warehouse, "after")
    assert all((before[i] == after[i]).all() for i in after)


def test_decoded_and_postponed_agree_on_the_shape() -> None:
    from shardlens.pipeline.images.decode import ensure_decoded, postponed
    from shardlens.pipeline.images.policy import DecodePolicy

    for orientation in range(1, 9):
        waiting = postponed(rotated_jpeg(picture(20, 30), orientation), DecodePolicy())
        decoded = ensure_decoded(waiting)
        assert isinstance(decoded, Decoded)
        assert waiting.shape == decoded.shape == decoded.pixels.shape[:2]
        assert waiting.upright == decoded.upright == waiting.shape
        assert (waiting.height, waiting.width, waiting.held, decoded.held) == (20, 30, 0, 600)


def test_a_large_image_within_a_tile_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from shardlens.pipeline.images import decode
    from shardlens.pipeline.images.policy import DecodePolicy

    policy, whole, decodings = DecodePolicy(), decode.decode, []
    monkeypatch.setattr(decode, "decode", lambda *asked: decodings.append(asked) or whole(*asked))
    model = models.build(MODEL, 3).eval()
    forward = forward_of(model, rule(model), InferencePlan(tile=512, overlap=8))
    with torch.inference_mode():
        forward([decode.postponed(rotated_jpeg(picture(70, 100), 1), policy)])
    assert len(decodings) == 1


class Blobs(torch.nn.Module):
    """Finds whatever is bright and connected; the larger, the surer."""

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        return [self.found(image) for image in images]

    def found(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        numbered, count = ndimage.label((image.mean(0) > 0.5).numpy())
        places = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(numbered)]
        boxes = torch.tensor(places, dtype=torch.float32).reshape(-1, 4)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return {"boxes": boxes, "labels": torch.ones(count, dtype=torch.int64), "scores": 1 - 1 / (2 + areas)}


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("overlap", [48, 64])
def test_a_detector_finds_in_tiles_what_it_finds_in_the_whole(orientation: int, overlap: int) -> None:
    """Objects of up to 40 pixels on 400 x 300, each once, wherever the seams run."""
    from shardlens.pipeline.images.decode import postponed
    from shardlens.pipeline.images.policy import DecodePolicy

    draw = np.random.default_rng(overlap)
    pixels = np.zeros((300, 400, 3), np.uint8)
    for top, left in itertools.product(range(2, 250, 50), range(2, 350, 50)):
        high, wide = draw.integers(8, 40, 2)
        pixels[top : top + high, left : left + wide] = 255
    image = postponed(rotated_jpeg(pixels, orientation), DecodePolicy())
    plain = forward_of(Blobs(), InputRule(), task="detection")
    tiled = dataclasses.replace(plain, plan=InferencePlan(tile=128, overlap=overlap))
    (expected,), (found,) = plain([image]), tiled([image])
    assert len(expected.labels) == 35
    assert sorted(found.boxes_xywh.tolist()) == sorted(expected.boxes_xywh.tolist())
    assert np.allclose(np.sort(found.scores), np.sort(expected.scores))
