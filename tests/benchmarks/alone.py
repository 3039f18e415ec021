"""A measurement in a process of its own: its threads and its Ray are its own, and nothing but imports came before it."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

Figures = TypeVar("Figures")
PRELOADED = [
    "torch",
    "torchvision",
    "shardlens.pipeline.ingest",
    "shardlens.pipeline.evaluate",
    "shardlens.pipeline.predict",
    "shardlens.pipeline.train",
]
"""Imported once, in the process that the others are forks of; Ray is not, whose import belongs to a start."""


def alone(measure: Callable[..., Figures], *arguments: Any, forked: bool = True) -> Figures:
    """What `measure(*arguments)` gives there; both have to be pickled, and what it prints is shown only if it fails.

    A fork starts sooner, but the libraries' pages that it shares are none of its memory: what measures that is not forked.
    """
    context = multiprocessing.get_context("forkserver" if forked else "spawn")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "said")
        said.touch()
        try:
            with ProcessPoolExecutor(1, mp_context=context) as process:
                return process.submit(_quietly, said, measure, *arguments).result()
        except Exception as error:
            error.add_note(said.read_text()[-2000:])
            raise


def peak(pid: int | str = "self") -> float:
    """Largest memory of a living process so far, in GB; 0 of one that is ending. `getrusage` would add its parent's."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e6 if "VmHWM:" in status else 0.0


def _quietly(said: Path, measure: Callable[..., Figures], *arguments: Any) -> Figures:
    with said.open("a") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    multiprocessing.set_start_method(None, force=True)  # as a program has it that is started by itself
    return measure(*arguments)
