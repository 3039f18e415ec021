"""`shardlens models`."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from shardlens.models.outlines import Outline, outlines
from shardlens.pipeline.cli.console import Flat, Output, print_table


def models(*, output: Annotated[Output, Flat] = Output()) -> None:  # noqa: B008 - frozen
    """List the models of the zoo: task, parameters, what their input becomes, where the code comes from, paper."""
    print_table([row(each, for_programs=output.json) for each in outlines()], output)


def row(each: Outline, for_programs: bool) -> dict[str, Any]:
    """What the list says of a model, shorter where people read."""
    size = each.parameters
    return {
        "model": each.model,
        "task": each.task,
        "parameters": size if for_programs or size is None else f"{size / 1e6:.1f} M",
        "input": each.input,
        "source": each.source if for_programs or len(each.source) <= 11 else "smp",
        "weights": ", ".join(each.weights) if for_programs else "yes" if each.weights else None,
        "paper": each.paper if for_programs else short(each.paper),
    }


def short(paper: str) -> str:
    """A paper's address as people cite it: arXiv's number, or who published it."""
    parts = urlsplit(paper)
    return f"arXiv:{parts.path.rpartition('/')[2]}" if parts.netloc == "arxiv.org" else parts.netloc
