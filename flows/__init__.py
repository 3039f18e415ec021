"""Prefect flows over the pipeline's stages: one task per stage, schedules, artifacts.

- `settings`: Prefect's switches, set before Prefect is imported
- `forms`: the stages' configurations as forms on Prefect's page
- `tasks`, `patience`, `artifacts`: a stage as a task: when it is tried again, what it shows of itself
- `stages`, `inference`: the flows `ingest`, `predict`, `evaluate`, `train`, and `dataset_inference`, all of them in a row
- `train`: the flow `dataset_training`: look at the data, train, score the checkpoint
- `commands`: what flows add to the command line
- `server`, `serve`: an embedded Prefect server, and the schedule that it keeps
- `shapes`, `demo`: drawn data, and the main job on it
"""

from shardlens.flows.settings import apply_defaults

apply_defaults()  # Prefect reads its environment when it is imported
