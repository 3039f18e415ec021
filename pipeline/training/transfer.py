"""Transfer learning: weights from elsewhere laid on a network by their names, and a backbone that is kept as it is."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from shardlens.models.matching import COUNTER, match
from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, LocationNotFoundError, WeightsError
from shardlens.pipeline.networks.checkpoints import weights_file
from shardlens.pipeline.networks.weights import read_state
from shardlens.pipeline.training.config import TrainConfig

BACKBONE = "backbone."
SHOWN = 4


@dataclass(frozen=True)
class Initialized:
    """What of a network came from a file."""

    where: str
    matched: frozenset[str]
    """Names in the network, of parameters and buffers."""
    left_out: Mapping[str, str]
    """Name in the file -> why it was not taken."""
    missing: tuple[str, ...]
    """Names in the network that keep their random start."""

    def __str__(self) -> str:
        """What matched, what was left out and why, in a line."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.left_out.items():
            reasons.setdefault(why if why == "not in the model" else "of another shape", []).append(
                name if why == "not in the model" else f"{name} ({why})"
            )
        parts = [f"{len(self.matched)} tensors of {self.where} fit"]
        parts += [f"left out {_some(names)}: {why}" for why, names in sorted(reasons.items())]
        return "; ".join([*parts, f"random at first: {_some(self.missing)}"] if self.missing else parts)


def read_init(uri: str) -> bytes:
    """Read the weights to start from: a file, or a checkpoint's folder, as `predict --weights` takes them.

    Raises:
        WeightsError: nothing is there, or its host cannot be reached.
    """
    _check_reachable(uri)
    try:
        return storage.read(weights_file(storage.normalize(uri)))
    except LocationNotFoundError as error:
        raise WeightsError(f"no weights to start from at {error}") from None


def _check_reachable(uri: str) -> None:
    """Refuse a download from a host without an address at once; the store would try for the better part of a minute."""
    host = urlsplit(uri).hostname if uri.startswith(("http://", "https://")) else None
    proxied = host is not None and urlsplit(uri).scheme in getproxies() and not proxy_bypass(host)
    if host is None or proxied:
        return
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise WeightsError(
            f"--init {uri} has to be downloaded, and {host} cannot be reached from here ({error}): download the file on "
            "another machine and name it with --init PATH, or train without it, with --transfer scratch"
        ) from None


def initialize(network: nn.Module, data: bytes, where: str) -> Initialized:
    """Put what fits of the weights in `data` into `network`: a backbone, or a whole model with any number of classes.

    Raises:
        WeightsError: nothing in it fits, or it holds no weights.
    """
    state = read_state(network, data, where)
    own = network.state_dict()
    if state is None:
        state = cast(Any, network).darknet_state(data, where)
    found = match(own, state)
    if not any(own[name].ndim > 1 for name in found.taken):
        raise WeightsError(
            f"{where}: none of its {len(state)} tensors fits the model by name and shape; it has {_some(sorted(state))}, "
            f"the model {_some(list(own))}: is it another network's?"
        )
    network.load_state_dict({place: state[name] for place, name in found.taken.items()}, strict=False)
    return Initialized(where, frozenset(found.taken), found.left_out, found.missing)


def backbone_of(network: nn.Module, matched: Set[str] | None = None) -> frozenset[str]:
    """Names of the backbone's parameters and buffers: those under `backbone.`, where there are weights those they fill.

    A network without a part of that name has what was `matched` for its backbone.
    """
    named = {name for name in network.state_dict() if name.startswith(BACKBONE)}
    if matched is None:
        return frozenset(named)
    return frozenset(named & matched if named else matched)


class Transfer:
    """Holds which part of a network is kept as it is, and lets it go when its time has come."""

    def __init__(self, network: nn.Module, config: TrainConfig, initialized: Initialized | None) -> None:
        self.backbone = backbone_of(network, initialized.matched if initialized else None)
        if not self.backbone and (
            config.backbone_factor != 1 or config.method in ("feature-extractor", "head-then-all")
        ):
            raise ConfigError(
                f"{config.model} has no part called backbone that the weights fill: leave --backbone-factor out, and use "
                "--transfer fine-tune"
            )
        self.network = network
        self.frozen_epochs = {"feature-extractor": config.epochs, "head-then-all": config.head_epochs}.get(
            config.method, 0
        )
        self._handle: RemovableHandle | None = None

    def begin(self, epoch: int) -> bool:
        """Freeze or thaw the backbone as `epoch` (0, 1, ...) wants it; whether that changes what is learned."""
        freeze_now, frozen = epoch < self.frozen_epochs, self._handle is not None
        if freeze_now == frozen:
            return False
        if self._handle is None:
            self._handle = freeze(self.network, self.backbone)
        else:
            thaw(self.network, self.backbone, self._handle)
            self._handle = None
        return True


def freeze(network: nn.Module, names: Set[str]) -> RemovableHandle:
    """Keep the parameters and buffers called `names` to the bit: no gradients, their modules in evaluation mode.

    Modules of which nothing else is learned (norms with their statistics, dropout) are put into evaluation mode at every
    forward pass, whatever `train()` set. Removing the handle ends that.
    """
    kept = list(_wholly(network, "", names))
    if len(kept) and any(module is network for module in kept):
        raise ConfigError("nothing would be learned: the weights fill the whole model; use --transfer fine-tune")
    for name, parameter in network.named_parameters():
        if name in names:
            parameter.requires_grad_(False)

    def evaluate(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for part in kept:
            part.eval()

    return network.register_forward_pre_hook(evaluate)


def thaw(network: nn.Module, names: Set[str], handle: RemovableHandle) -> None:
    """Let what was frozen learn again."""
    handle.remove()
    for name, parameter in network.named_parameters():
        if name in names:
            parameter.requires_grad_(True)
    network.train(network.training)


def _wholly(module: nn.Module, prefix: str, names: Set[str]) -> Iterator[nn.Module]:
    """The largest modules that hold tensors, all of them called in `names`."""
    held = [name for name in module.state_dict() if not name.endswith(COUNTER)]
    if held and all(prefix + name in names for name in held):
        yield module
        return
    for name, child in module.named_children():
        yield from _wholly(child, f"{prefix}{name}.", names)


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
