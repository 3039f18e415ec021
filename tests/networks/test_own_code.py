"""A model outside the zoo is code: only the user's own words import it, never a file's metadata."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from shardlens import models
from shardlens.pipeline.errors import ConfigError, ModelError
from shardlens.pipeline.executors.base import Executor, ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig, resolve
from shardlens.pipeline.networks.weights import Checkpoint, save
from shardlens.pipeline.predict import PredictConfig, predict
from shardlens.pipeline.retry import retry_quarantined
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.training.stepper import build_network
from shardlens.pipeline.warehouse.layout import Warehouse

LABELS = ("__background__", "disc", "square")
NAMED = r"names the model 'payload:SPEC', a Python module outside the zoo.*--model payload:SPEC"
PAYLOAD = """
from pathlib import Path
Path(__file__).with_suffix(".ran").touch()
from tests.plain_segmenters import SPEC
"""


@pytest.fixture
def payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module in the current folder, and on the path; the file that it writes when it is imported."""
    (tmp_path / "payload.py").write_text(PAYLOAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "payload.ran"
    sys.modules.pop("payload", None)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A checkpoint whose metadata names the module."""
    network = models.build("tests.plain_segmenters:SPEC", 3)
    (tmp_path / "w.safetensors").write_bytes(save(network, Checkpoint("payload:SPEC", {}, LABELS)))
    return str(tmp_path / "w.safetensors")


@pytest.fixture
def local() -> Iterator[Executor]:
    with open_executor(ExecutorConfig()) as executor:
        yield executor


@pytest.fixture
def warehouse(tmp_path: Path, local: Executor) -> str:
    """Two images with a class map each, and one that cannot be read."""
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", (32, 24), (99 * i, 50, 70)).save(tmp_path / "set" / "images" / f"{i}.png")
        Image.new("L", (32, 24), 1 + i).save(tmp_path / "set" / "masks" / f"{i}.png")
    root = str(tmp_path / "warehouse")
    asked = IngestConfig("d", images=str(tmp_path / "set"), format="masks", classes="disc,square", warehouse=root)
    ingest(asked, local)
    return root


def test_a_checkpoint_that_names_a_module_is_refused(payload: Path, checkpoint: str) -> None:
    with pytest.raises(ConfigError, match=rf"w\.safetensors {NAMED}"):
        resolve(NetworkConfig(weights=checkpoint))
    assert not payload.exists()


def test_a_checkpoint_that_names_another_module_than_the_user_is_refused(payload: Path, checkpoint: str) -> None:
    with pytest.raises(ModelError, match=r"holds a payload:SPEC, not a tests.plain_segmenters:SPEC"):
        resolve(NetworkConfig(model="tests.plain_segmenters:SPEC", weights=checkpoint))
    assert not payload.exists()


def test_the_users_own_words_import_it(payload: Path, checkpoint: str) -> None:
    assert resolve(NetworkConfig(model="payload:SPEC", weights=checkpoint)).model == "payload:SPEC"
    assert payload.exists()


def test_predict_and_its_ensemble_refuse_it(
    payload: Path, checkpoint: str, warehouse: str, local: Executor, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=NAMED):
        predict(PredictConfig("d", network=NetworkConfig(weights=checkpoint), warehouse=warehouse), local)
    options = {"depth": 1, "width": 4}
    zoo = tmp_path / "unet.safetensors"
    zoo.write_bytes(save(models.build("unet", 3, options), Checkpoint("unet", options, LABELS)))
    from shardlens.pipeline.inference.options import InferenceConfig

    network, more = NetworkConfig(weights=str(zoo)), InferenceConfig(ensemble=(checkpoint,))
    with pytest.raises(ConfigError, match=NAMED):
        predict(PredictConfig("d", network=network, inference=more, warehouse=warehouse), local)
    assert not payload.exists()


def test_a_forged_record_of_a_run_imports_nothing(payload: Path, warehouse: str, local: Executor) -> None:
    network = NetworkConfig(model="tests.plain_segmenters:SPEC", weights="random")
    predict(PredictConfig("d", network=network, run="r", precision="fp32", warehouse=warehouse), local)
    place = Path(Warehouse(warehouse).run("r")) / "run.json"
    record = json.loads(place.read_text())
    record["origin"]["config"]["network"]["model"] = "payload:SPEC"
    place.write_text(json.dumps(record))
    for model in (None, "tests.plain_segmenters:SPEC"):
        with pytest.raises(ConfigError, match=rf"record of run 'r' {NAMED}"):
            retry_quarantined(warehouse, "r", local, model=model)
    assert not payload.exists()


def test_a_retry_takes_the_users_word_for_the_model(warehouse: str, local: Executor) -> None:
    network = NetworkConfig(model="tests.plain_segmenters:SPEC", weights="random")
    predict(PredictConfig("d", network=network, run="r", precision="fp32", warehouse=warehouse), local)
    with pytest.raises(ConfigError, match=r"names the model 'tests\.plain_segmenters:SPEC'.*--model"):
        retry_quarantined(warehouse, "r", local)
    assert retry_quarantined(warehouse, "r", local, model="tests.plain_segmenters:SPEC").quarantined == 0


def test_a_retry_with_another_model_is_refused(warehouse: str, local: Executor) -> None:
    network = NetworkConfig(model="unet", option=("depth=1", "width=4"), weights="random", labels=_labels(warehouse))
    predict(PredictConfig("d", network=network, run="r", precision="fp32", warehouse=warehouse), local)
    with pytest.raises(ConfigError, match=r"run 'r' was predicted by unet, not fcn: leave --model out"):
        retry_quarantined(warehouse, "r", local, model="fcn")


def _labels(warehouse: str) -> str:
    place = Path(warehouse).parent / "labels.txt"
    place.write_text("disc\nsquare\n")
    return str(place)


def test_training_from_such_weights_takes_tensors_alone(payload: Path, checkpoint: str, warehouse: str) -> None:
    config = TrainConfig("d", model="tests.plain_segmenters:SPEC", init=checkpoint, warehouse=warehouse)
    network, initialized = build_network(prepare(config))
    assert initialized is not None
    assert torch.equal(network.state_dict()["head.bias"], safetensors.torch.load_file(checkpoint)["head.bias"])
    assert not payload.exists()


@pytest.mark.parametrize("name", [":x", ".a:b", "a:", ":", "a..b:SPEC", "a b:SPEC", "a:b.c", "os:path:x", "../x:SPEC"])
def test_a_name_with_a_colon_that_names_no_module_is_explained(name: str) -> None:
    with pytest.raises(ModelError, match=r"no model is called '.*': with a colon, expected package\.module:SPEC"):
        models.find(name)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_of_that_name", "no model at 'broken:SPEC' .*nothing_of_that_name"),
        ("SPEC = 3", "'broken:SPEC' is a int; expected a shardlens.models.spec.ModelSpec"),
        ("x = = 1", "importing broken failed with SyntaxError"),
        ("raise SystemExit(3)", "importing broken failed with SystemExit: 3"),
        ("1 / 0", "importing broken failed with ZeroDivisionError"),
        ("y = 1", "no model at 'broken:SPEC' .*has no attribute 'SPEC'"),
    ],
)
def test_a_module_of_ones_own_that_does_not_work_is_explained(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        with pytest.raises(ModelError, match=said):
            models.find("broken:SPEC")
    finally:
        sys.modules.pop("broken", None)
