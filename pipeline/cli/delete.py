"""`shardlens delete`."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from shardlens.pipeline.cli.console import Flat, Output, print_result, progress_bars
from shardlens.pipeline.cli.removed import removed_lines
from shardlens.pipeline.delete import DeleteConfig, Plan, carry_out, planned
from shardlens.pipeline.errors import ConfigError, safe


def delete(
    config: Annotated[DeleteConfig, Flat],
    *,
    yes: Annotated[bool, Parameter(negative="", help="Do not ask before more than one thing is deleted.")] = False,
    output: Annotated[Output, Flat] = Output(),  # noqa: B008 - frozen
) -> None:
    """Delete runs, datasets or checkpoints: by name, the old ones, or all but the newest.

    What makes a thing visible goes first; if the command is killed, the same command or 'shardlens gc' finishes it.
    """
    plan = planned(config)
    report = plan.report
    if not config.dry_run:
        if len(plan.removals) > 1 and not yes:
            _ask(plan)
        with progress_bars() as progress:
            report = carry_out(plan, progress)
    print_result(report, output, [*removed_lines(report), *report.notes])


def _ask(plan: Plan) -> None:
    """Let the user confirm a plan.

    Raises:
        ConfigError: nobody is there who could, or the answer is not yes.
    """
    shown = "\n".join([*removed_lines(plan.report), *plan.report.notes])
    print(safe(shown), file=sys.stderr)
    if not sys.stdin.isatty():
        raise ConfigError(f"{len(plan.removals)} things would be deleted: confirm with --yes")
    print("delete them? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError("nothing was deleted")
