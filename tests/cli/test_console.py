"""Progress in a log: lines at the beginning, at milestones, every so often, and at the end."""

from __future__ import annotations

import pytest

from shardlens.pipeline.cli.console import LogLines, progress_bars
from shardlens.pipeline.executors.base import Progress


def test_a_log_has_a_line_every_so_often_and_one_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(1000))
    lines = LogLines(every_s=10, now=lambda: 2.0 * next(clock))
    for step in range(1, 13):
        lines(Progress("train", step, 12, "steps", f"loss {step}", milestone=step == 3))
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == "train: 1 of 12 steps, loss 1"
    assert printed[1] == "train: 3 of 12 steps, loss 3"
    assert printed[-1] == "train: 12 of 12 steps, loss 12"
    assert 4 <= len(printed) <= 6


def test_each_stage_has_its_own_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = LogLines()
    for stage in ("ingest", "predict", "ingest", "predict"):
        lines(Progress(stage, 0, 5))
    assert capsys.readouterr().err.splitlines() == ["ingest: 0 of 5 images", "predict: 0 of 5 images"]


def test_without_a_terminal_progress_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress:
        progress(Progress("predict", 0, 5))
    assert capsys.readouterr().err == "predict: 0 of 5 images\n"
