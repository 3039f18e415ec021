"""What the workers of a run exchange in addition to gradients; every function is a collective: all of them call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from shardlens.pipeline.training.records import Step


def sum_over_workers(steps: Sequence[Step], workers: int, device: torch.device) -> list[Step]:
    """Steps with the losses of all workers: each worker noted its own share."""
    if workers == 1 or not steps:
        return list(steps)
    names = list(steps[0].parts)
    rows = [[step.parts[name] for name in names] for step in steps]
    sums: Tensor = torch.tensor(rows, dtype=torch.float64).to(device)
    dist.all_reduce(sums)
    found = sums.tolist()
    return [replace(step, parts=dict(zip(names, row, strict=True))) for step, row in zip(steps, found, strict=True)]


def merge_over_workers(found: Mapping[str, str], workers: int) -> dict[str, str]:
    """The entries of all workers, by key."""
    if workers == 1:
        return dict(found)
    parts: list[dict[str, str]] = [{} for _ in range(workers)]
    dist.all_gather_object(parts, dict(found))
    return {key: text for part in parts for key, text in part.items()}


def ids_of_workers(found: Sequence[int], workers: int) -> tuple[int, ...]:
    """The image ids of all workers, one worker's after the other's."""
    if workers == 1:
        return tuple(found)
    parts: list[list[int]] = [[] for _ in range(workers)]
    dist.all_gather_object(parts, list(found))
    return tuple(i for part in parts for i in part)


def broadcast_from_rank0(number: int | None, workers: int) -> int | None:
    """The number of the worker of rank 0."""
    values = [number]
    if workers > 1:
        dist.broadcast_object_list(values)
    return values[0]
