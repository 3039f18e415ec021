"""`shardlens train`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from shardlens.pipeline.cli.console import Flat, Output, print_result, progress_bars
from shardlens.pipeline.training.config import TrainConfig

if TYPE_CHECKING:
    from shardlens.pipeline.train import TrainReport


def train(
    config: Annotated[TrainConfig, Flat],
    *,
    recipe: str | None = None,
    preview: int = 0,
    output: Annotated[Output, Flat] = Output(),  # noqa: B008
) -> None:
    """Fit a model to a dataset and write a checkpoint that 'predict --weights' takes.

    Args:
        recipe: Complete settings by name; other options override its fields.
        preview: Only draw so many images as the run would change them, with boxes and masks, on a sheet to look at.
    """
    if preview:
        from shardlens.pipeline.training.preview import preview as draw  # loads torch: not before the options are read

        place = draw(config, preview)
        print_result({"preview": place}, output, [place])
        return
    from shardlens.pipeline.train import train as run_train  # loads torch: not before the options are read

    with progress_bars() as progress:
        report = run_train(config, progress, note)
    print_result(report, output, lines(report))


def note(text: str) -> None:
    """Tell what to know of the data before the first step."""
    print(f"note: {text}", file=sys.stderr)


def lines(report: TrainReport) -> list[str]:
    """Say what came of a training run."""
    from shardlens.pipeline.training.curves import SHOWN

    losses = ", ".join(f"{name} {value:.4f}" for name, value in report.losses.items() if name != "loss")
    lines = [
        f"run {report.run}: {report.epochs} epochs of {report.images} images of {report.dataset}@{report.dataset_version}",
        f"  loss {report.first_loss:.4f} -> {report.losses['loss']:.4f} ({losses})",
        f"  {report.seconds:.1f} s in all; {report.images_per_second:.1f} images/s in the training steps, which waited "
        f"{report.data_wait:.0%} for images",
        f"  {report.checkpoint}",
        f"  {report.curves}",
    ]
    if report.best:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in report.best.items() if name in SHOWN)
        lines.insert(2, f"  validated on {report.val_split}, best after epoch {report.best['epoch']:.0f}: {figures}")
    if report.initialized:
        lines.append(f"  {report.initialized}")
    if report.left_out:
        lines.append("  left out: " + ", ".join(f"{count} {reason}" for reason, count in report.left_out.items()))
    return lines
