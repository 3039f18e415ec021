"""Filling a network from a state dict, and explaining where the two differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

_SHOWN = 3


def explain(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """Copy `state` into `model`; None if every key was there with its shape, else what differs.

    Keys that a module fills in by itself (a BatchNorm's counter, RetinaNet's older names) are no difference.
    """
    own = model.state_dict()
    shapes = {key: (state[key], own[key]) for key in own if key in state and state[key].shape != own[key].shape}
    fitting = {key: tensor for key, tensor in state.items() if key not in shapes}
    result = model.load_state_dict(fitting, strict=False)
    missing = [key for key in result.missing_keys if key not in shapes]
    if not (shapes or missing or result.unexpected_keys):
        return None
    differing = [
        f"{key} {tuple(theirs.shape)} in the file, {tuple(ours.shape)} in the model"
        for key, (theirs, ours) in shapes.items()
    ]
    parts = [
        _some("of another shape", differing, "; "),
        _some("missing in the file", missing),
        _some("unknown to the model", sorted(result.unexpected_keys)),
    ]
    problem = "; ".join(part for part in parts if part)
    fits = f"{sum(key in own for key in fitting)} of the model's {len(own)} tensors fit"
    if not missing and not result.unexpected_keys:
        problem = _classes(model, shapes) + problem
    return f"{problem} ({fits}; is it another model, or are options or labels different?)"


def _some(what: str, items: Iterable[str], separator: str = ", ") -> str:
    """The first few of `items` and how many there are; empty where there are none."""
    listed = list(items)
    if not listed:
        return ""
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"{len(listed)} {what}: {separator.join(listed[:_SHOWN])}{more}"


def _classes(model: nn.Module, shapes: Mapping[str, tuple[Tensor, Tensor]]) -> str:
    """ "the file tells 91 classes apart, the model 4: ", where just that explains every differing shape; else empty."""
    ours = getattr(model, "num_classes", None)
    if not isinstance(ours, int) or any(a.shape[1:] != b.shape[1:] for a, b in shapes.values()):
        return ""
    lengths = [(a.shape[0], b.shape[0]) for a, b in shapes.values() if a.ndim and b.ndim]
    ratios = {divmod(theirs * ours, mine) for theirs, mine in lengths}
    if len(ratios) != 1:
        return ""
    ((theirs, rest),) = ratios
    return (
        ""
        if rest
        else f"its head tells {theirs} classes apart, the model's {ours}; give the labels it was trained with: "
    )
