"""A network ready to predict: found by name or in a checkpoint, its weights fetched, checked and loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from shardlens import models
from shardlens.models.spec import BACKGROUND, InputRule, ModelSpec, Published
from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, LocationNotFoundError, ModelError, StorageError, WeightsError
from shardlens.pipeline.networks.checkpoints import RANDOM, of_run, weights_file
from shardlens.pipeline.networks.config import NetworkConfig
from shardlens.pipeline.networks.weights import Checkpoint, load, read_checkpoint, verify

__all__ = ["Network", "NetworkConfig", "load_network", "read_options", "resolve", "trusted"]


@dataclass(frozen=True)
class Network:
    """A network resolved: every byte that it needs is named by a digest. Small; it travels to the workers."""

    model: str
    options: tuple[tuple[str, str], ...]
    """Options as `models.build` takes them: files replaced by their text."""
    weights: str
    sha256: str
    labels: tuple[str, ...]
    score_threshold: float | None
    image_size: tuple[int, int] | None = None
    """Height and width that its checkpoint wants images stretched to; None = as the model's input rule has it."""
    notes: tuple[str, ...] = ()
    """What was taken off the names in the weights file to read it."""

    @property
    def spec(self) -> ModelSpec:
        """The zoo's row."""
        return models.find(self.model)

    def input_rule(self, model: nn.Module) -> InputRule:
        """What becomes of images before `model`, the loaded network."""
        return self.spec.input_rule(model).stretched(self.image_size)

    def identity(self) -> dict[str, Any]:
        """What of it can change a row, for the fingerprint."""
        texts = set(self.spec.text_options)
        stretched = {} if self.image_size is None else {"image_size": list(self.image_size)}
        return {
            "model": self.model,
            "task": self.spec.task,
            "options": {k: _digest(v.encode()) if k in texts else v for k, v in self.options},
            "weights_sha256": self.sha256,
            "labels": list(self.labels),
            "score_threshold": self.score_threshold,
            **stretched,
        }


def resolve(config: NetworkConfig, own_code: str | None = None, checkpoints: str | None = None) -> Network:
    """Read what `config` names (weights, labels, option files) and make sure that it fits together.

    Args:
        own_code: a name package.module:SPEC that the user gave elsewhere. A checkpoint may name this one; any other model
            that a checkpoint names must be in the zoo, for importing a module runs its code.
        checkpoints: folder of the warehouse's training runs, which `weights` may name.

    Raises:
        ModelError: an unknown model or option.
        ConfigError: something is missing: the model, the weights or the labels.
        WeightsError: the weights do not have the wanted digest, or do not fit the model.
    """
    uri = weights_file(_weights_uri(config, checkpoints))
    data = b"" if uri == RANDOM else _read_weights(uri)
    digest = RANDOM if uri == RANDOM else _digest(data)
    if config.sha256 is not None and config.sha256.lower() != digest:
        raise WeightsError(f"{uri} has SHA-256 {digest}, expected {config.sha256}: it is another file, or damaged")
    published = _published(config)
    if published and published.sha256:
        verify(data, published.sha256, uri)
    checkpoint = read_checkpoint(data) if data else None
    name = config.model or (trusted(checkpoint.model, uri, own_code) if checkpoint else None)
    if name is None:
        raise ConfigError(f"{uri} does not say which model it belongs to: name it with --model")
    if checkpoint and checkpoint.model != name:
        raise WeightsError(
            f"{uri} holds a {checkpoint.model}, not a {name}: leave --model out, or give its own weights"
        )
    spec = models.find(name)
    own = checkpoint.options if checkpoint else published.options if published else {}
    options = {**own, **read_options(spec, config.options)}
    labels = _labels(spec, config.labels, checkpoint)
    pairs = tuple(sorted((k, str(v)) for k, v in options.items()))
    size = checkpoint.image_size if checkpoint else None
    network = Network(name, pairs, uri, digest, labels, config.score_threshold, size)
    _, notes = _load(network, data)
    return replace(network, notes=tuple(f"{uri}: {note}" for note in notes))


def trusted(name: str, source: str, own_code: str | None) -> str:
    """A model's name out of a file, `source`, where looking it up runs no code but what the user named, `own_code`.

    Raises:
        ConfigError: it has the form package.module:SPEC, and the user did not name the same.
    """
    if models.in_zoo(name) or name == own_code:
        return name
    raise ConfigError(
        f"{source} names the model {name!r}, a Python module outside the zoo; a module that only a file names is never "
        f"imported: if it is your own, name it with --model {name}"
    )


def load_network(network: Network) -> nn.Module:
    """Build the network in a worker and load its weights, evaluation mode.

    Raises:
        WeightsError: the file is not the one that was resolved.
    """
    if network.weights == RANDOM:
        return _load(network, b"")[0]
    data = _read_weights(network.weights)
    if _digest(data) != network.sha256:
        raise WeightsError(f"{network.weights} changed since the run began: expected SHA-256 {network.sha256}")
    return _load(network, data)[0]


def _load(network: Network, data: bytes) -> tuple[nn.Module, tuple[str, ...]]:
    """The network with its weights; and what was taken off their names."""
    options = dict(network.options)
    with torch.random.fork_rng([]):  # the caller's random numbers stay as they are
        torch.default_generator.manual_seed(0)  # what 'random' means
        try:
            model = models.build(network.model, len(network.labels), options, network.score_threshold)
        except SystemExit as error:
            raise ModelError(
                f"the code of model {network.model} called sys.exit({error.code!r}): remove that call"
            ) from None
    notes = load(model, data, network.weights) if data else ()
    return model.eval().requires_grad_(False), notes


def _weights_uri(config: NetworkConfig, checkpoints: str | None) -> str:
    if config.weights is None:
        raise ConfigError(
            f"no weights given for {config.model or 'the model'}: name them with --weights URI (a file, a checkpoint's folder, "
            "DEFAULT for the published ones, or 'random' to try things out)"
        )
    if config.weights == RANDOM:
        return RANDOM
    published = _published(config)
    if published:
        return published.url
    return storage.normalize(config.weights if checkpoints is None else of_run(config.weights, checkpoints))


def _published(config: NetworkConfig) -> Published | None:
    """The published weights that `config` names."""
    known = models.find(config.model).published if config.model else None
    return (known or {}).get(str(config.weights))


def _read_weights(uri: str) -> bytes:
    try:
        return storage.read(uri)
    except LocationNotFoundError as error:
        raise WeightsError(f"no weights at {error}") from None
    except StorageError as error:
        raise WeightsError(f"the weights cannot be read: {error}") from None


def read_options(spec: ModelSpec, given: Mapping[str, str]) -> dict[str, str]:
    """The options, with the URIs of files replaced by their text."""
    return {key: _text(value) if key in spec.text_options else value for key, value in given.items()}


def _text(uri: str) -> str:
    data = storage.read(storage.normalize(uri))
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"  # with or without a byte order mark
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{uri} is not a text file in UTF-8: byte {error.start} is {data[error.start]:#04x}; save it as UTF-8"
        ) from None


def _labels(spec: ModelSpec, uri: str | None, checkpoint: Checkpoint | None) -> tuple[str, ...]:
    if uri is not None:
        text = _text(uri).replace("\r\n", "\n").replace("\r", "\n")
        names = tuple(line.strip() for line in text.split("\n") if line.strip())
        if not names:
            raise ConfigError(f"{uri} holds no labels: expected a name a line")
        return (BACKGROUND, *names) if spec.background and names[0] != BACKGROUND else names
    labels = checkpoint.labels if checkpoint else spec.labels
    if labels is None:
        raise ConfigError(
            f"model {spec.name} does not know its labels' names: give them with --labels URI, a name a line"
        )
    return tuple(labels)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
