"""A training run's network as Darknet's own files, for the programs that read those: .weights, .cfg and .names."""

from __future__ import annotations

from dataclasses import dataclass

from models.darknet import DarknetDetector
from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.networks import NetworkConfig, load_network, resolve
from pipeline.warehouse import Warehouse

SUFFIX = ".weights"


@dataclass(frozen=True)
class DarknetFiles:
    """URIs of what was written."""

    weights: str
    cfg: str
    names: str


def export_darknet(warehouse: Warehouse, run: str, output: str) -> DarknetFiles:
    """Write the network that a training run ended with to `output`, a .weights file, its .cfg and .names beside it.

    Raises:
        ConfigError: the network is none of Darknet's, or `output` no .weights file.
        WeightsError: there is no such training run, or it has no checkpoint yet.
    """
    if not output.endswith(SUFFIX):
        raise ConfigError(f"--output {output}: expected the URI of a {SUFFIX} file; .cfg and .names go beside it")
    resolved = resolve(NetworkConfig(weights=warehouse.checkpoints(run)))
    network = load_network(resolved)
    if not isinstance(network, DarknetDetector):
        raise ConfigError(
            f"run {run} trained a {resolved.model}, which Darknet has no layers for: export a YOLO v2 to v4"
        )
    stem = output.removesuffix(SUFFIX)
    files = DarknetFiles(output, f"{stem}.cfg", f"{stem}.names")
    storage.publish(files.weights, network.save_darknet())
    storage.publish(files.cfg, network.cfg.encode())
    storage.publish(files.names, "".join(f"{label}\n" for label in resolved.labels).encode())
    return files
