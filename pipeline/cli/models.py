"""`shardlens models`."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from shardlens.models.spec import InputRule, ModelSpec
from shardlens.pipeline.cli.console import Flat, Output, print_table


def models(*, output: Annotated[Output, Flat] = Output()) -> None:  # noqa: B008 - frozen
    """List the models of the zoo: task, parameters, what their input becomes, where the code comes from, paper."""
    from shardlens.models.zoo import MODELS, outline  # torch takes seconds to import

    rows = [row(spec, outline(spec), whole=output.json) for spec in MODELS.values()]
    print_table(rows, output)


def row(spec: ModelSpec, known: tuple[int, InputRule] | None, whole: bool) -> dict[str, Any]:
    """What the list says of a model, shorter where people read."""
    size, rule = known or (None, None)
    published = list(spec.published or ())
    return {
        "model": spec.name,
        "task": spec.task,
        "parameters": size if whole or size is None else f"{size / 1e6:.1f} M",
        "input": str(rule) if rule else None,
        "source": spec.source if whole or len(spec.source) <= 11 else "smp",
        "weights": ", ".join(published) if whole else "yes" if published else None,
        "paper": spec.paper if whole else short(spec.paper),
    }


def short(paper: str) -> str:
    """A paper's address as people cite it: arXiv's number, or who published it."""
    parts = urlsplit(paper)
    return f"arXiv:{parts.path.rpartition('/')[2]}" if parts.netloc == "arxiv.org" else parts.netloc
