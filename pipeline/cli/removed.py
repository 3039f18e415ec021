"""What was removed, in lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from shardlens.pipeline.warehouse.ages import size
from shardlens.pipeline.warehouse.removal import Removed

LISTED = 20
MANY = {"run": "runs", "dataset": "datasets", "checkpoint": "checkpoints", "version": "dataset versions"}


class Report(Protocol):
    """What `delete` and `gc` report."""

    @property
    def removed(self) -> tuple[Removed, ...]:
        """What was removed."""
        ...

    @property
    def objects(self) -> int:
        """How many objects."""
        ...

    @property
    def bytes(self) -> int:
        """Their size."""
        ...

    @property
    def dry_run(self) -> bool:
        """Whether it only would be."""
        ...


def removed_lines(report: Report) -> list[str]:
    """A line for all, then one for each of the first things."""
    would = "would remove" if report.dry_run else "removed"
    kinds = f" ({_kinds(report.removed)})" if report.removed else ""
    lines = [f"{would} {counted(report.objects, 'object')}, {size(report.bytes)}{kinds}"]
    for each in report.removed[:LISTED]:
        why = "" if each.why == "as asked" else f": {each.why}"
        lines.append(f"  {each.kind} {each.name}, {counted(each.objects, 'object')}, {size(each.bytes)}{why}")
    more = len(report.removed) - LISTED
    return [*lines, f"  and {more} more (--json lists all)"] if more > 0 else lines


def counted(count: int, what: str) -> str:
    """A number and what it counts."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _kinds(removed: Sequence[Removed]) -> str:
    counts = Counter(each.kind for each in removed)
    return ", ".join(f"{count} {kind if count == 1 else MANY.get(kind, kind)}" for kind, count in counts.items())
