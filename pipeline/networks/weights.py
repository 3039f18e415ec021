"""Weights from bytes into a network, without executing code; and our checkpoints, which say what they belong to."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import safetensors.torch
from torch import Tensor, nn

from shardlens.models.darknet.zoo import SPECS as DARKNETS
from shardlens.models.errors import WeightsError
from shardlens.models.mismatch import explain
from shardlens.models.options import Value
from shardlens.pipeline.networks.state_dicts import State, check_finite, read_torch, without_prefixes

_KEY = "shardlens"
_FORMAT = 1
_KNOWN_NON_WEIGHTS = (
    (b"<", "an HTML or XML page, perhaps a server's error message"),
    (b"{", "JSON"),
    (b"[", "text, perhaps a Darknet .cfg, which belongs in the option cfg"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for"),
    (b"\x1f\x8b", "a gzip archive"),
)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint of ours says of itself; enough to build its network again."""

    model: str
    """Name in the zoo."""
    options: Mapping[str, Value]
    """Options that the network was built with."""
    labels: tuple[str, ...]
    """labels[i] names the network's label i."""
    image_size: tuple[int, int] | None = None
    """Height and width that images are stretched to; None = as the model's input rule has it."""

    def __post_init__(self) -> None:
        texts = self.model, *self.labels
        if not (self.model and self.labels) or not all(isinstance(text, str) for text in texts):
            raise WeightsError(f"a checkpoint needs a model and the names of its labels; got {self}")
        if not all(isinstance(key, str) and _is_value(value) for key, value in self.options.items()):
            raise WeightsError(f"a checkpoint's options must be text, numbers, true or false; got {dict(self.options)}")
        if self.image_size is not None and not all(0 < side < 1 << 20 for side in self.image_size):
            raise WeightsError(f"a checkpoint's image size must be height and width in pixels; got {self.image_size}")


def _is_value(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def verify(data: bytes, sha256: str, where: str) -> None:
    """Refuse `data` whose SHA-256 is not `sha256` (hexadecimal; its first eight digits or more suffice)."""
    expected = sha256.strip().lower()
    if not 8 <= len(expected) <= 64 or set(expected) - set("0123456789abcdef"):
        raise WeightsError(f"{sha256!r} is no SHA-256: expected 8 to 64 hexadecimal digits")
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(expected):
        raise WeightsError(
            f"{where}: SHA-256 is {found}, expected {expected}; the file ({len(data)} bytes) was changed or cut short"
        )


def load(model: nn.Module, data: bytes, where: str) -> tuple[str, ...]:
    """Put the weights in `data` into `model`, all of them or an error; say what was taken off their names.

    Takes safetensors, a state dict saved by torch (bare, or under one of `state_dicts.NESTED`, its names with or without
    `state_dicts.PREFIXES`), and Darknet's .weights for a model with `load_darknet`. Tensors land on the model's device in
    the model's dtype. After an error the model is not to be used. `where` names the file in messages.

    Raises:
        WeightsError: the file is damaged, does not fit the model, or holds NaN or infinity.
    """
    state = read_named(model, data, where)
    if state is None:
        cast(Any, model).load_darknet(data, where)
        check_finite(model.state_dict(), where)
        return ()
    check_finite(state.tensors, where)
    try:
        problem = explain(model, state.tensors)
    except (RuntimeError, TypeError, NotImplementedError) as error:  # tensors of a kind that cannot be copied
        problem = str(error).partition("\n")[0]
    if problem is not None:
        raise WeightsError(f"{where}: does not fit the model: {problem}")
    return state.notes


def read_state(model: nn.Module, data: bytes, where: str) -> dict[str, Tensor] | None:
    """The tensors in `data` by name; None where they are Darknet's, which have no names and `model` reads by itself.

    Raises:
        WeightsError: the file is damaged, holds no weights, or holds NaN or infinity.
    """
    state = read_named(model, data, where)
    if state is None:
        return None
    check_finite(state.tensors, where)
    return dict(state.tensors)


def read_named(model: nn.Module, data: bytes, where: str) -> State | None:
    """The tensors in `data` by the names that `model` has for them; None where they are Darknet's."""
    if not data:
        raise WeightsError(f"{where}: is empty (0 bytes), expected weights")
    if _is_safetensors(data):
        return without_prefixes(State(_read_safetensors(data, where)), model.state_dict())
    if data.startswith((b"PK\x03\x04", b"\x80")):
        return without_prefixes(read_torch(data, where), model.state_dict())
    if hasattr(model, "load_darknet") and _foreign_file(data) is None:
        return None
    raise WeightsError(
        f"{where}: is {_foreign_file(data) or _unknown(data)}; expected safetensors, a torch state dict"
        + (" or Darknet .weights" if hasattr(model, "load_darknet") else "")
    )


def save(model: nn.Module, checkpoint: Checkpoint) -> bytes:
    """The model's weights and what they belong to, as safetensors; equal weights give equal bytes."""
    return to_bytes(model.state_dict(), checkpoint)


def to_bytes(weights: Mapping[str, Tensor], checkpoint: Checkpoint) -> bytes:
    """Weights by name and what they belong to, as safetensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    note = json.dumps({"format": _FORMAT, **asdict(checkpoint)}, sort_keys=True)
    return safetensors.torch.save(state, metadata={_KEY: note})


def read_checkpoint(data: bytes) -> Checkpoint | None:
    """What `data` says of itself; None where it is no checkpoint of ours."""
    if not _is_safetensors(data):
        return None
    (length,) = struct.unpack_from("<Q", data)
    try:
        note = (json.loads(data[8 : 8 + length]).get("__metadata__") or {}).get(_KEY)
        if note is None:
            return None
        found = json.loads(note)
        size = found.get("image_size") and (int(found["image_size"][0]), int(found["image_size"][1]))
        return Checkpoint(found["model"], dict(found["options"]), tuple(found["labels"]), size or None)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WeightsError(f"the checkpoint's header is damaged: {error!r}; expected model, options, labels") from error


def _is_safetensors(data: bytes) -> bool:
    """Whether `data` begins as https://huggingface.co/docs/safetensors has it: u64 length, then a JSON object."""
    return len(data) > 8 and data[8:9] == b"{" and struct.unpack_from("<Q", data)[0] < 100_000_000


def _read_safetensors(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except KeyError as error:
        raise WeightsError(f"{where}: holds numbers of the type {error}, which torch cannot read here") from error
    except Exception as error:
        raise WeightsError(
            f"{where}: is damaged or cut short ({len(data)} bytes): safetensors says {error}; fetch it again"
        ) from error


def _foreign_file(data: bytes) -> str | None:
    """What a file is that holds no weights; None where it may hold some."""
    head = data[:200].lstrip()
    return next((what for mark, what in _KNOWN_NON_WEIGHTS if head.startswith(mark)), None)


def _unknown(data: bytes) -> str:
    if len(data) >= 16 and struct.unpack_from("<2i", data) in {(0, 1), (0, 2)}:
        return f"a Darknet .weights file, which only these models take: {', '.join(spec.name for spec in DARKNETS)}"
    return f"of no known kind ({len(data)} bytes, beginning with {data[:8].hex(' ')})"
