"""What a command prints: progress on standard error, its result on standard output, for people or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from typing import Annotated, Any

import pyarrow as pa
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from shardlens.pipeline.cli.render import render
from shardlens.pipeline.executors.base import Progress, ProgressListener


@dataclass(frozen=True)
class Output:
    """How a command prints its result."""

    json: Annotated[bool, Parameter(negative="")] = False
    """Print the result as JSON, for a program to read."""


Flat = Parameter(name="*")
"""Lays a dataclass's fields out as options of their own."""


@contextmanager
def progress_bars() -> Iterator[ProgressListener]:
    """Show a bar for each stage on standard error; where that is no terminal, a line when a stage ends."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    bars: dict[str, TaskID] = {}
    with Bar(*columns, console=console) as bar:

        def show(progress: Progress) -> None:
            if progress.stage not in bars:
                bars[progress.stage] = bar.add_task(progress.stage, unit=progress.unit, detail="")
            task = bars[progress.stage]
            bar.update(task, completed=progress.done, total=progress.total, detail=progress.detail, unit=progress.unit)

        yield show


def print_result(result: Any, output: Output, lines: Sequence[str]) -> None:
    """Print `lines`, or the result itself where a program reads."""
    print(json.dumps(plain(result), indent=2) if output.json else "\n".join(lines))


def plain(value: Any) -> Any:
    """Turn dataclasses into what JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    return value


def print_table(rows: Sequence[Mapping[str, Any]], output: Output, title: str | None = None) -> None:
    """Print rows of equal keys as a table, numbers to the right, or as JSON where a program reads."""
    if output.json:
        print(json.dumps(plain(list(rows)), indent=2))
        return
    if title:
        print(title)
    print(str(render(pa.Table.from_pylist(list(rows)), "table")).rstrip("\n"))
