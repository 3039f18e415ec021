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

from shardlens.models.spec import InputRule, ModelSpec, Published
from shardlens.pipeline.errors import WeightsError
from shardlens.pipeline.networks.resolve import NetworkConfig, load_network, resolve

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
