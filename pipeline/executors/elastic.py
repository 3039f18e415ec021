"""When Ray Train restarts the workers of a training, and how many it starts.

Ray's own elastic policy counts what its coordinator has reserved: that view is up to 20 s old, so that a lost node is
waited for until the start times out; it counts what others use as free; and it resizes a healthy group at once, which
costs the steps since the last checkpoint. So here the nodes are counted themselves, and a group grows when a
checkpoint has just been written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller.state import ReschedulingState, RestartingState, TrainControllerState
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, ScalingDecision
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from shardlens.pipeline.errors import ShardlensError
from shardlens.pipeline.executors import cluster

LOOK_EVERY_S = 1.0
ATTEMPT_S = 30.0
"""How long a group of many workers is waited for before fewer are tried."""


@dataclass(frozen=True)
class Wanted:
    """What the policies have to know of the training."""

    newest: Callable[[], int | None]
    """Step of its newest complete checkpoint."""
    cpus: float
    gpus: float
    """Of each worker."""
    patience: float
    """Seconds to wait for the fewest workers."""


class RestartPolicy(DefaultFailurePolicy):
    """Restarts the workers after a death, but not after an error that was explained: it would only come again."""

    def __init__(self, config: FailureConfig, wanted: Wanted, elastic: bool) -> None:
        super().__init__(config)
        self._wanted, self._elastic = wanted, elastic
        self._newest = 0
        self._waits_since: float | None = None

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Whether to restart; failures count in a row, without a checkpoint in between."""
        if isinstance(training_failed_error, WorkerGroupError):
            if any(isinstance(failure, ShardlensError) for failure in training_failed_error.worker_failures.values()):
                return FailureDecision.RAISE
            newest = self._wanted.newest() or 0
            if newest > self._newest:
                self._newest, self._worker_group_failures = newest, 0
            self._waits_since = None
        if isinstance(training_failed_error, ControllerError) and isinstance(
            training_failed_error.controller_failure, WorkerGroupStartupTimeoutError
        ):
            return self._after_timeout()
        return super().make_decision(training_failed_error)

    def _after_timeout(self) -> FailureDecision:
        """Fewer workers are tried, as long as the patience lasts; a fixed number was waited for long enough."""
        now = time.monotonic()
        self._waits_since = self._waits_since or now
        over = now - self._waits_since > self._wanted.patience
        return FailureDecision.RAISE if over or not self._elastic else FailureDecision.RETRY


class RoomPolicy(ElasticScalingPolicy):
    """Starts as many workers as the nodes have room for, and grows when a checkpoint has just been written."""

    def __init__(self, config: ScalingConfig, wanted: Wanted) -> None:
        super().__init__(config)
        self._wanted = wanted
        self._crowded = False
        self._waits_since: float | None = None
        self._looked = 0.0
        self._written: int | None = None

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start with what the nodes hold; after a start that timed out with what others leave free.

        Raises:
            WorkerGroupStartupTimeoutError: there was no room for the fewest workers in time.
        """
        self._maybe_send_resource_request()  # type: ignore[no-untyped-call]
        count = cluster.free if self._crowded else cluster.holds
        room = min(self.scaling_config.max_workers, count(self._wanted.cpus, self._wanted.gpus))
        if room >= self.scaling_config.min_workers:
            self._waits_since = None
            return self._get_resize_decision(room)
        now = time.monotonic()
        self._waits_since = self._waits_since or now
        if now - self._waits_since > self._wanted.patience:
            raise WorkerGroupStartupTimeoutError(self.scaling_config.min_workers)
        time.sleep(LOOK_EVERY_S)  # the controller would ask again at once
        return NoopDecision()

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Grow if there is room for more, as soon as a checkpoint has been written since that was seen."""
        self._maybe_send_resource_request()  # type: ignore[no-untyped-call]
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S or worker_group_state.num_workers == self.scaling_config.max_workers:
            return NoopDecision()
        self._looked = now
        free = cluster.free(self._wanted.cpus, self._wanted.gpus)
        if not free:
            self._written = None
            return NoopDecision()
        newest = self._wanted.newest() or 0
        if self._written is None or newest == self._written:
            self._written = newest
            return NoopDecision()
        self._written = None
        return self._get_resize_decision(min(self.scaling_config.max_workers, worker_group_state.num_workers + free))

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """Note whether the last start timed out: others then hold what the nodes have."""
        if isinstance(current_state, ReschedulingState | RestartingState):
            self._crowded = isinstance(current_state, ReschedulingState)
