"""`shardlens models`."""

from __future__ import annotations

from typing import Annotated

import models as zoo
from pipeline.cli.console import Flat, Output, print_table


def models(*, output: Annotated[Output, Flat] = Output()) -> None:  # noqa: B008 - frozen
    """List the models of the zoo: task, where the code comes from, paper."""
    rows = [
        {
            "model": spec.name,
            "task": spec.task,
            "source": spec.source,
            "published weights": ", ".join(spec.published or ()) or None,
            "paper": spec.paper,
        }
        for spec in zoo.MODELS.values()
    ]
    print_table(rows, output)
