"""`shardlens gc`."""

from __future__ import annotations

from typing import Annotated

from shardlens.pipeline.cli.console import Flat, Output, print_result, progress_bars
from shardlens.pipeline.cli.removed import removed_lines
from shardlens.pipeline.gc import GcConfig


def gc(
    config: Annotated[GcConfig, Flat] = GcConfig(),  # noqa: B008 - frozen
    *,
    output: Annotated[Output, Flat] = Output(),  # noqa: B008 - frozen
) -> None:
    """Remove what no committed run names: leftovers of killed runs and deletions, replaced parts, old dataset versions.

    What a command under way may need stays, and the latest version of each dataset, and what runs refer to.
    """
    from shardlens.pipeline.gc import gc as run_gc

    with progress_bars() as progress:
        report = run_gc(config, progress)
    print_result(report, output, removed_lines(report))
