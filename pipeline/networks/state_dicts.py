"""Torch files as people save them, read without running code: the tensors by name out of what is around them."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shardlens.models.errors import WeightsError

NESTED = (
    "model",
    "state_dict",
    "model_state_dict",
    "net",
    "network",
    "weights",
    "params",
    "model_ema",
    "ema",
    "ema_state_dict",
)
"""Keys under which training scripts keep the weights, in the order in which they are looked for."""
PREFIXES = ("_orig_mod.", "module.", "model.", "net.", "network.", "ema_model.")
"""What torch.compile, DistributedDataParallel, Lightning and others put before every name."""
_COUNTERS = ("n_averaged",)
"""Tensors that averaging adds, which are no weights."""
_DEPTH = 3


class _Inert:
    """Stands for an object of a harmless type that is not wanted: it keeps nothing and runs nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __hash__(self) -> int:
        return id(self)


_DTYPES = (
    "Bool",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
    "Float16",
    "Float32",
    "Float64",
    "Str",
)
HARMLESS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "datetime.datetime",
    "datetime.timedelta",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "_codecs.encode",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.dtypes.{name}DType" for name in _DTYPES),
    "torch.torch_version.TorchVersion",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
)
"""Types in checkpoints that are no weights. Nothing of them is made: an inert object takes the place of each."""


@dataclass(frozen=True)
class State:
    """The tensors of a file by name."""

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()
    """What was taken off or left out to get at them, a phrase each."""


def read_torch(data: bytes, where: str) -> State:
    """The state dict in a file that torch saved.

    Raises:
        WeightsError: it holds more than tensors and harmless settings, is damaged, or has no state dict.
    """
    try:
        # a harmless type that torch itself knows better stays torch's
        with torch.serialization.safe_globals([(_Inert, name) for name in HARMLESS]):
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{where}: holds more than tensors, or is no torch file ({_reason(error)}); "
            "only weights that load without executing code are read: save the model's state_dict()"
        ) from error
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{where}: is damaged or cut short ({len(data)} bytes): {reason}; fetch it again") from error
    return _state_dict(loaded, where)


def _reason(error: pickle.UnpicklingError) -> str:
    """The type that was refused, where the error names one, else the error's first sentence."""
    unsupported = re.search(r"(?:GLOBAL|global|class|function) [`']?([\w.]+)", str(error))
    first = str(error).partition("\n")[0]
    if "Weights only load failed" in first and unsupported:
        return f"it would need {unsupported[1]}"
    return first.partition(". ")[0]


def _state_dict(loaded: Any, where: str) -> State:
    """The tensors by name, out of the keys that training scripts put them under."""
    inner, path = loaded, []
    for _ in range(_DEPTH):
        key = next((key for key in NESTED if isinstance(inner, dict) and isinstance(inner.get(key), dict)), None)
        if key is None:
            break
        inner = inner[key]
        path.append(key)
    tensors = isinstance(inner, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in inner.items())
    if not tensors or not inner:
        raise WeightsError(
            f"{where}: holds {_held(loaded)}, expected a state dict of tensors (bare or under {', '.join(NESTED)})"
        )
    others = [key for key in NESTED if isinstance(loaded, dict) and key in loaded and key not in path[:1]]
    notes = (f"weights taken from {path[0]!r}, not from {', '.join(map(repr, others))}",) if path and others else ()
    return State(dict(inner), notes)


def _held(loaded: Any) -> str:
    return f"a dict with {', '.join(map(str, list(loaded)[:5]))}" if isinstance(loaded, dict) else type(loaded).__name__


def without_prefixes(state: State, own: Iterable[str]) -> State:
    """`state` with the prefixes taken off that keep its names from being those of a network's `own`."""
    names, tensors, notes = set(own), dict(state.tensors), list(state.notes)
    for counter in _COUNTERS:
        if counter in tensors and counter not in names:
            del tensors[counter]
            notes.append(f"{counter} left out")
    while True:
        prefix = next((prefix for prefix in PREFIXES if _is_before_all(prefix, tensors, names)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        notes.append(f"prefix {prefix!r} taken off")
    inside = "._orig_mod."
    if any(inside in name for name in tensors) and not any(inside in name for name in names):
        tensors = {name.replace(inside, "."): tensor for name, tensor in tensors.items()}
        notes.append("'_orig_mod.' taken out of names")
    return State(tensors, tuple(notes))


def _is_before_all(prefix: str, tensors: Mapping[str, Tensor], own: set[str]) -> bool:
    return (
        bool(tensors)
        and all(name.startswith(prefix) for name in tensors)
        and not all(n.startswith(prefix) for n in own)
    )


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        WeightsError: the first tensors that do are named.
    """
    bad = {name: count for name, tensor in tensors.items() if (count := _not_finite(tensor))}
    if bad:
        some = ", ".join(f"{name} ({count} of {tensors[name].numel()} values)" for name, count in list(bad.items())[:3])
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise WeightsError(
            f"{where}: {len(bad)} of its {len(tensors)} tensors hold NaN or infinity: {some}{more}; a training that "
            "diverged leaves such weights: take an earlier checkpoint"
        )


def _not_finite(tensor: Tensor) -> int:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta or tensor.layout != torch.strided:
        return 0
    try:
        return int((~torch.isfinite(tensor)).sum())
    except (RuntimeError, NotImplementedError):  # a kind of float that torch cannot compute with, such as float8
        return int((~torch.isfinite(tensor.float())).sum())
