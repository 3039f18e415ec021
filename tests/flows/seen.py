"""What Prefect's server knows of a run, as its page would show it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State, TaskRun


def flow_run(client: SyncPrefectClient, state: State[Any]) -> FlowRun:
    assert state.state_details.flow_run_id is not None
    return client.read_flow_run(state.state_details.flow_run_id)


def artifacts(client: SyncPrefectClient, flow_run: UUID) -> dict[str, Any]:
    """A flow run's artifacts by their keys."""
    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
    return {str(artifact.key): artifact for artifact in client.read_artifacts(artifact_filter=only)}


def task_runs(client: SyncPrefectClient, flow_run: UUID) -> dict[str, TaskRun]:
    """A flow run's task runs by their names."""
    found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])))
    return {run.name: run for run in found}
