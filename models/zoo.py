"""The list of all networks, and building one by its name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import torch
from torch import nn

from shardlens.models import detection, discovery, segmentation, torchvision_zoo
from shardlens.models.darknet import zoo as darknet
from shardlens.models.errors import ModelError
from shardlens.models.options import Value, coerce, nearest
from shardlens.models.spec import InputRule, ModelSpec

VOC_LABELS = 21
"""Of Pascal VOC, the background's included."""
SPECS: tuple[ModelSpec, ...] = (
    *torchvision_zoo.SPECS,
    *darknet.SPECS,
    *discovery.specs(detection),
    *discovery.specs(segmentation),
)
MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in SPECS}


def find(name: str) -> ModelSpec:
    """The spec of the model called `name`.

    A name with a colon, `package.module:SPEC`, is a `ModelSpec` outside the zoo: its module is imported, which runs its
    code. Callers pass such a name only if the user gave it; one that a file gives is checked by `in_zoo` first.

    Raises:
        ModelError: there is none; the message lists the nearest names.
    """
    if not in_zoo(name):
        return _imported(name)
    if name in MODELS:
        return MODELS[name]
    close = nearest(name, MODELS)
    hint = f"nearest: {', '.join(close)}; " if close else ""
    raise ModelError(f"no model is called {name!r}; {hint}`shardlens models` lists all {len(MODELS)}")


def in_zoo(name: str) -> bool:
    """Whether `name` has the form of a zoo name: looking it up imports no module."""
    return ":" not in name


def _imported(name: str) -> ModelSpec:
    """The spec at `package.module:NAME`, of a package that the workers can import too."""
    module, _, attribute = name.partition(":")
    expected = "expected package.module:SPEC, importable on every worker"
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise ModelError(f"no model is called {name!r}: with a colon, {expected}")
    try:
        spec = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"no model at {name!r} ({error}); {expected}") from None
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"no model at {name!r}: importing {module} failed with {type(error).__name__}: {error}"
        ) from error
    if not isinstance(spec, ModelSpec):
        raise ModelError(f"{name!r} is a {type(spec).__name__}; expected a shardlens.models.spec.ModelSpec")
    return spec


def build(
    name: str, num_classes: int, options: Mapping[str, Value] | None = None, score_threshold: float | None = None
) -> nn.Module:
    """The network called `name` with random weights; nothing is downloaded.

    `num_classes` counts the background where the spec says so. Options may be given as text ("0.45", "true"), as a
    command line has them. `score_threshold` goes to the option that the spec names for it, before that option's own
    value; where the spec names none, the caller filters.
    """
    spec = find(name)
    least = 2 if spec.background else 1
    if num_classes < least:
        also = ", the background's included" if spec.background else ""
        raise ModelError(f"{name} needs at least {least} labels{also}; {num_classes} given")
    given = dict(options or {})
    if spec.score_option is not None and score_threshold is not None:
        given[spec.score_option] = score_threshold
    model = spec.build(num_classes=num_classes, **coerce(spec, given))
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name}: its builder returned {type(model).__name__}, expected a torch.nn.Module")
    cast(Any, model).num_classes = num_classes  # what `shardlens.models.mismatch` compares a file's head with
    return model


def outline(spec: ModelSpec) -> tuple[int, InputRule] | None:
    """Number of parameters and input rule with the default options and the labels of the published weights, else 21.

    Built without memory for its weights; None = the network needs options of one's own.
    """
    labels = len(spec.labels) if spec.labels else VOC_LABELS
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                model = build(spec.name, labels)
            return sum(parameter.numel() for parameter in model.parameters()), spec.input_rule(model)
        except NotImplementedError:  # it looks at its weights while it is built
            continue
        except ModelError:
            return None
    return None
