"""What a command prints: progress on standard error, its result on standard output, for people or as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from shardlens.pipeline.cli.render import draw
from shardlens.pipeline.errors import safe
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
    """Show a bar for each stage on standard error; where that is not a terminal, lines from time to time."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield LogLines()
        return
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


class LogLines:
    """Prints progress for a log: a line when a stage begins and when it ends, at milestones, and every so often between."""

    def __init__(self, every_s: float = 15.0, now: Callable[[], float] = time.monotonic) -> None:
        self.every_s, self.now = every_s, now
        self.printed: dict[str, float] = {}
        """Time of the last line of each stage."""

    def __call__(self, progress: Progress) -> None:
        """Print a line if one is due."""
        ended = progress.done >= progress.total
        last = self.printed.get(progress.stage)
        if last is None or ended or progress.milestone or self.now() - last >= self.every_s:
            self.printed[progress.stage] = self.now()
            detail = f", {progress.detail}" if progress.detail else ""
            line = f"{progress.stage}: {progress.done} of {progress.total} {progress.unit}{detail}"
            print(line, file=sys.stderr, flush=True)


def print_result(result: Any, output: Output, lines: Sequence[str]) -> None:
    """Print `lines`, or the result itself where a program reads."""
    if output.json:
        print_json(result)
    else:
        print(safe("\n".join(lines)))


def plain(value: Any) -> Any:
    """Turn dataclasses into what JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    return value


def print_json(value: Any) -> None:
    """Print a value for a program to read."""
    print(json.dumps(plain(value), indent=2, default=str))


def print_table(rows: Sequence[Mapping[str, Any]], output: Output, title: str | None = None) -> None:
    """Print rows of equal keys as a table, numbers to the right, or as JSON where a program reads."""
    if output.json:
        print_json(list(rows))
        return
    if title:
        print(safe(title))
    names = list(rows[0]) if rows else []
    print(draw(names, [list(row.values()) for row in rows]).rstrip("\n"))
