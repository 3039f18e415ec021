"""Prefect flows over the pipeline's stages: one task per stage, schedules, artifacts.

- `settings`: Prefect's settings, set before Prefect is imported
- `parameter_forms`: the stages' configurations as forms on Prefect's page
- `tasks`, `retries`, `artifacts`, `log_filters`: a stage as a task: when it is retried, what it publishes and logs
- `stages`, `inference`: the flows `ingest`, `predict`, `evaluate`, `train`, and `dataset_inference`, which chains them
- `train`: the flow `dataset_training`: check the data, train, score the checkpoint
- `commands`: the commands that flows add to the command line
- `server`, `credentials`, `embedded`: the embedded Prefect server, its password, and flows that start it
- `serve`: the schedule of `shardlens serve`
- `last_run`, `alert_events`: what of a run is worth an alert; `automations`, `alerts`: who is alerted
- `synthetic_shapes`, `demo`: a drawn dataset, and the main job on it
"""

from shardlens.flows.settings import apply_defaults

apply_defaults()  # Prefect reads its environment when it is imported
