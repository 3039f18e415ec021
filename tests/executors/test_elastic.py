from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from shardlens.pipeline.errors import TrainingError
from shardlens.pipeline.executors.elastic import RestartPolicy, Wanted
from shardlens.pipeline.networks.checkpoints import MANIFEST, newest_step

RETRY, RAISE = FailureDecision.RETRY, FailureDecision.RAISE
DEATH = WorkerGroupError("died", {1: RuntimeError("connection closed by peer")})


def policy(folder: Path, elastic: bool = False, patience: float = 60.0) -> RestartPolicy:
    return RestartPolicy(
        FailureConfig(max_failures=2), Wanted(partial(newest_step, str(folder)), 1, 0, patience), elastic
    )


def written(folder: Path, step: int) -> Path:
    """A checkpoint; the file that makes it whole."""
    place = folder / f"step-{step:06d}"
    place.mkdir()
    (place / MANIFEST).touch()
    return place / MANIFEST


def test_deaths_are_followed_by_a_restart_a_few_times(tmp_path: Path) -> None:
    made = policy(tmp_path)
    assert [made.make_decision(DEATH) for _ in range(3)] == [RETRY, RETRY, RAISE]


def test_deaths_count_from_the_last_checkpoint_on(tmp_path: Path) -> None:
    made = policy(tmp_path)
    for step in range(1, 9):
        written(tmp_path, step)
        assert made.make_decision(DEATH) is RETRY
    assert [made.make_decision(DEATH) for _ in range(2)] == [RETRY, RAISE]


def test_a_checkpoint_that_is_never_whole_is_no_progress(tmp_path: Path) -> None:
    made = policy(tmp_path)
    for step, decision in enumerate((RETRY, RETRY, RAISE), start=1):
        written(tmp_path, step).unlink()
        assert made.make_decision(DEATH) is decision


def test_an_error_that_was_explained_is_final(tmp_path: Path) -> None:
    both = WorkerGroupError("both", {0: RuntimeError("closed"), 1: TrainingError("not finite")})
    assert policy(tmp_path).make_decision(both) is RAISE


@pytest.mark.parametrize(
    ("elastic", "patience", "decision"), [(False, 60, RAISE), (True, 60, RETRY), (True, -1, RAISE)]
)
def test_a_slow_start_is_tried_again_with_fewer_while_the_patience_lasts(
    tmp_path: Path, elastic: bool, patience: float, decision: FailureDecision
) -> None:
    slow = ControllerError(WorkerGroupStartupTimeoutError(2))
    assert policy(tmp_path, elastic, patience).make_decision(slow) is decision
