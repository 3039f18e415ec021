"""A training run's network as Darknet's own files, for the programs that read those: .weights, .cfg and .names.

That of a YOLO9000 has its .tree, and its .map if there is one, next to them, under the names that its .cfg has.
"""

from __future__ import annotations

from dataclasses import dataclass

from shardlens.models.darknet.cfg import exchange
from shardlens.models.darknet.network import DarknetDetector
from shardlens.models.darknet.tree import write_tree
from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.networks.resolve import NetworkConfig, load_network, resolve
from shardlens.pipeline.warehouse.layout import Warehouse

SUFFIX = ".weights"


@dataclass(frozen=True)
class DarknetFiles:
    """URIs of what was written."""

    weights: str
    cfg: str
    names: str


def export_darknet(warehouse: Warehouse, run: str, output: str) -> DarknetFiles:
    """Write the network that a training run ended with to `output`, a .weights file, its .cfg and .names next to it.

    Raises:
        ConfigError: the network is none of Darknet's, or `output` no .weights file.
        WeightsError: there is no such training run, or it has no checkpoint yet.
    """
    if not output.endswith(SUFFIX):
        raise ConfigError(f"--output {output}: expected the URI of a {SUFFIX} file; .cfg and .names go next to it")
    resolved = resolve(NetworkConfig(weights=warehouse.checkpoints(run)))
    network = load_network(resolved)
    if not isinstance(network, DarknetDetector):
        raise ConfigError(
            f"run {run} trained a {resolved.model}, which Darknet has no layers for: export a YOLO v2 to v4"
        )
    stem = output.removesuffix(SUFFIX)
    trees = _tree_files(network)
    files = DarknetFiles(output, f"{stem}.cfg", f"{stem}.names")
    storage.publish(files.weights, network.save_darknet())
    companions = {kind: f"{stem.rpartition('/')[2]}.{kind}" for kind in trees}
    storage.publish(files.cfg, exchange(network.cfg, companions).encode())
    for kind, text in trees.items():
        storage.publish(f"{stem}.{kind}", text.encode())
    storage.publish(files.names, "".join(f"{label}\n" for label in resolved.labels).encode())
    return files


def _tree_files(network: DarknetDetector) -> dict[str, str]:
    """The texts of the files that a [region] section names with `tree=` and `map=`, by these keys."""
    if network.tree is None:
        return {}
    nodes = "".join(f"{node}\n" for node in network.tree.labels)
    return {"tree": write_tree(network.tree.tree), **({"map": nodes} if nodes else {})}
