"""How `--help` sorts a command's options: what, where, how, output, and what is rarely used last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclopts.help import DefaultFormatter

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

HOW = "How"
ORDER = ("What", "Where", HOW, "Output", "Rarely used")
FEW = 6
"""A command of so few options shows them together."""
_GROUPS = {
    "What": "dataset deployment name images annotations split model option weights labels recipe run runs sql predictions "
    "task val-split init transfer cron timezone refresh evaluate retry-quarantined engine",
    "Where": "warehouse executor address workers cpus-per-worker gpus-per-worker threads",
    "Output": "json output preview alert-block alert-webhook",
    "Rarely used": "sha256 start-timeout max-pixels max-quarantined max-unreadable shard-size image-timeout item-timeout "
    "decode-scale compile channels-last cache-mb max-failures gamma power momentum border-weight border-sigma "
    "focal-weight focal-gamma class-weight elastic elastic-grid min-visible plain-epochs copy-paste multi-scale milestones "
    "backbone-factor head-epochs unannotated strict mask-kind frame ensemble tta components largest-component min-area "
    "fill-holes threshold retries retry-delay-seconds timeout-hours port timeout memory-limit seed accumulate best-metric "
    "patience alert-quarantined alert-drop",
}
GROUP_OF = {option: group for group, options in _GROUPS.items() for option in options.split()}
"""Options that are not listed say how something is done. An option stands in the same group in every command."""


EMPTY = ("()", '""')
"""Defaults of options that are off unless they are given."""


class Grouped(DefaultFormatter):
    """Prints `--help` as cyclopts does, but a panel of many options as a panel for each group."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a panel; an empty default is none to speak of."""
        panel = panel.copy(entries=[e.copy(default=None) if e.default in EMPTY else e for e in panel.entries])
        if panel.format != "parameter" or len(panel.entries) <= FEW:
            super().__call__(console, options, panel)
            return
        for group in ORDER:
            entries = [entry for entry in panel.entries if _group(entry) == group]
            if entries:
                super().__call__(console, options, panel.copy(title=group, entries=entries))


def _group(entry: HelpEntry) -> str:
    names = [name.lstrip("-").removeprefix("no-") for name in entry.names]
    if entry.required or entry.positional_label:
        return "What"
    return next((GROUP_OF[name] for name in names if name in GROUP_OF), HOW)
