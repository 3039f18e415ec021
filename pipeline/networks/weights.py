"""Weights from bytes into a network, without executing code; and our checkpoints, which say what they belong to."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from shardlens.models.darknet.zoo import SPECS as DARKNETS
from shardlens.models.errors import WeightsError
from shardlens.models.mismatch import explain
from shardlens.models.options import Value

_KEY = "shardlens"
_FORMAT = 1
_NESTED = ("model", "state_dict", "model_state_dict")
_STRANGERS = (
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
        if not self.model or not self.labels or not all(isinstance(label, str) for label in self.labels):
            raise WeightsError(f"a checkpoint needs a model and the names of its labels; got {self}")


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


def load(model: nn.Module, data: bytes, where: str) -> None:
    """Put the weights in `data` into `model`, all of them or an error.

    Takes safetensors, a state dict saved by torch (bare, or under "model" or "state_dict"), and Darknet's .weights for
    a model with `load_darknet`. Tensors land on the model's device in the model's dtype. After an error the model is
    not to be used. `where` names the file in messages.
    """
    state = read_state(model, data, where)
    if state is None:
        cast(Any, model).load_darknet(data, where)
        return
    problem = explain(model, state)
    if problem is not None:
        raise WeightsError(f"{where}: does not fit the model: {problem}")


def read_state(model: nn.Module, data: bytes, where: str) -> dict[str, Tensor] | None:
    """The tensors in `data` by name; None where they are Darknet's, which have no names and `model` reads by itself."""
    if not data:
        raise WeightsError(f"{where}: is empty (0 bytes), expected weights")
    if _is_safetensors(data):
        return _read_safetensors(data, where)
    if data.startswith((b"PK\x03\x04", b"\x80")):
        return _read_torch(data, where)
    if hasattr(model, "load_darknet") and _stranger(data) is None:
        return None
    raise WeightsError(
        f"{where}: is {_stranger(data) or _unknown(data)}; expected safetensors, a torch state dict"
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
        note = json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(_KEY)
        if note is None:
            return None
        found = json.loads(note)
        size = found.get("image_size") and (int(found["image_size"][0]), int(found["image_size"][1]))
        return Checkpoint(found["model"], dict(found["options"]), tuple(found["labels"]), size)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"the checkpoint's header is damaged: {error!r}; expected model, options, labels") from error


def _is_safetensors(data: bytes) -> bool:
    """Whether `data` begins as https://huggingface.co/docs/safetensors has it: u64 length, then a JSON object."""
    return len(data) > 8 and data[8:9] == b"{" and struct.unpack_from("<Q", data)[0] < 100_000_000


def _read_safetensors(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise WeightsError(
            f"{where}: is damaged or cut short ({len(data)} bytes): safetensors says {error}; fetch it again"
        ) from error


def _read_torch(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise WeightsError(
            f"{where}: holds more than tensors, or is no torch file ({reason}); "
            "only weights that load without executing code are read: save the model's state_dict()"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{where}: is damaged or cut short ({len(data)} bytes): {reason}; fetch it again") from error
    return _state_dict(loaded, where)


def _state_dict(loaded: Any, where: str) -> dict[str, Tensor]:
    """The tensors by name, out of the wrappings that training scripts put around them."""
    nested = next(
        (loaded[key] for key in _NESTED if isinstance(loaded, dict) and isinstance(loaded.get(key), dict)), loaded
    )
    if not isinstance(nested, dict) or not nested or not all(isinstance(v, Tensor) for v in nested.values()):
        held = (
            f"a dict with {', '.join(map(str, list(loaded)[:5]))}"
            if isinstance(loaded, dict)
            else type(loaded).__name__
        )
        raise WeightsError(
            f"{where}: holds {held}, expected a state dict of tensors (bare or under {', '.join(_NESTED)})"
        )
    if all(key.startswith("module.") for key in nested):  # saved from DistributedDataParallel
        return {key.removeprefix("module."): tensor for key, tensor in nested.items()}
    return dict(nested)


def _stranger(data: bytes) -> str | None:
    """What a file is that holds no weights; None where it may hold some."""
    head = data[:200].lstrip()
    return next((what for mark, what in _STRANGERS if head.startswith(mark)), None)


def _unknown(data: bytes) -> str:
    if len(data) >= 16 and struct.unpack_from("<2i", data) in {(0, 1), (0, 2)}:
        return f"a Darknet .weights file, which only these models take: {', '.join(spec.name for spec in DARKNETS)}"
    return f"of no known kind ({len(data)} bytes, beginning with {data[:8].hex(' ')})"
