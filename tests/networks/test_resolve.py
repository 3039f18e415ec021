"""Published weights: fetched from their address, checked, built with the options that their figures need."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

from shardlens import models
from shardlens.models.spec import InputRule, ModelSpec, Published
from shardlens.pipeline.errors import ConfigError, WeightsError
from shardlens.pipeline.networks.checkpoints import of_run
from shardlens.pipeline.networks.resolve import NetworkConfig, load_network, resolve
from shardlens.pipeline.networks.weights import Checkpoint, save
from tests.models.samples import CLASSES, TINY_CFG

PUBLISHED: dict[str, Published] = {}
"""Filled by each test: the server's port is free at random."""


class Scaled(nn.Module):
    def __init__(self, num_classes: int, factor: float) -> None:
        super().__init__()
        self.head, self.factor = nn.Conv2d(3, num_classes, 1), factor

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.factor * self.head(images)}


def build(*, num_classes: int, factor: float = 1.0) -> nn.Module:
    return Scaled(num_classes, factor)


SPEC = ModelSpec(
    name="tests.networks.test_resolve:SPEC",
    task="semantic",
    build=build,
    input_rule=lambda model: InputRule(),
    paper="https://example.org",
    labels=("__background__", "thing"),
    published=PUBLISHED,
)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where a web server of this machine gives the weights."""
    torch.manual_seed(0)
    torch.save(build(num_classes=2).state_dict(), tmp_path / "weights.pth")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/weights.pth"
        server.shutdown()


def publish(address: str, sha256: str | None, options: Mapping[str, float]) -> NetworkConfig:
    PUBLISHED["DEFAULT"] = Published(address, sha256, options)
    return NetworkConfig(model=SPEC.name, weights="DEFAULT")


@pytest.mark.parametrize("digits", [8, 64])
def test_published_weights_come_with_their_options(address: str, tmp_path: Path, digits: int) -> None:
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    network = resolve(publish(address, digest[:digits], {"factor": 3.0}))
    assert (network.weights, network.sha256, network.options) == (address, digest, (("factor", "3.0"),))
    assert load_network(network).factor == 3.0


def test_ones_own_options_go_first(address: str) -> None:
    asked = publish(address, None, {"factor": 3.0})
    network = resolve(NetworkConfig(model=asked.model, weights=asked.weights, option=("factor=2",)))
    assert load_network(network).factor == 2.0


def test_a_download_that_is_not_what_was_published_is_refused(address: str) -> None:
    with pytest.raises(WeightsError, match=r"weights\.pth: SHA-256 is [0-9a-f]{64}, expected deadbeef"):
        resolve(publish(address, "deadbeef", {}))


def test_weights_of_ones_own_have_the_defaults(address: str, tmp_path: Path) -> None:
    publish(address, None, {"factor": 3.0})
    network = resolve(NetworkConfig(model=SPEC.name, weights=str(tmp_path / "weights.pth")))
    assert load_network(network).factor == 1.0


def test_nothing_at_the_address_is_explained(address: str) -> None:
    with pytest.raises(WeightsError, match=r"gone\.pth"):
        resolve(publish(address.replace("weights", "gone"), None, {}))


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfcat\ndog\n",
        b"cat\r\ndog\r\n",
        b"cat\rdog",
        b"\n\n  cat  \n\n\tdog\n\n",
        "cat\ndog\n".encode("utf-16"),
        "\ufeffcat\ndog\n".encode("utf-16-be"),
    ],
)
def test_labels_as_editors_save_them(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(data)
    options = ("depth=1", "width=4")
    network = resolve(NetworkConfig(model="unet", option=options, weights="random", labels=str(tmp_path / "names.txt")))
    assert network.labels == ("__background__", "cat", "dog")


def test_labels_in_another_encoding_are_explained(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("Käse\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"names\.txt is not a text file in UTF-8: byte 1 is 0xe4; save it as UTF-8"):
        resolve(NetworkConfig(model="unet", weights="random", labels=str(tmp_path / "names.txt")))


def test_a_cfg_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "y.cfg").write_bytes(b"\xef\xbb\xbf" + TINY_CFG.replace("\n", "\r\n").encode())
    (tmp_path / "y.names").write_text("\n".join(f"n{i}" for i in range(CLASSES)))
    network = resolve(
        NetworkConfig(
            model="darknet", option=(f"cfg={tmp_path / 'y.cfg'}",), weights="random", labels=str(tmp_path / "y.names")
        )
    )
    assert len(network.labels) == CLASSES


def test_weights_may_be_a_training_runs_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labels = ("__background__", "thing")
    options = {"depth": 1, "width": 4}
    folder = tmp_path / "warehouse" / "checkpoints" / "cells"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(
        save(models.build("unet", 2, options), Checkpoint("unet", options, labels))
    )
    checkpoints = str(tmp_path / "warehouse" / "checkpoints")
    network = resolve(NetworkConfig(weights="cells"), checkpoints=checkpoints)
    assert (network.model, network.weights) == ("unet", str(folder / "model.safetensors"))
    assert of_run("cells", checkpoints) == str(folder)
    for same in ("random", "other", "cells/model.safetensors", "s3://b/cells", "cells.pt", "../cells"):
        assert of_run(same, checkpoints) == same
    (tmp_path / "cells").mkdir()
    assert of_run("cells", checkpoints) == "cells"  # a folder of this name goes first
