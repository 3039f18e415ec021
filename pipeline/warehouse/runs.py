"""Runs: their record and fingerprint, the atomic parts of their shards, and the commit that makes them visible.

Object storage is all that is needed. `run.json` is created exclusively and holds every setting that can change a row;
when the parts of every shard are there, `commit.json` names them. Readers see committed runs only, and in them only the
parts named there. This module hands on what stands in:

- `documents`: the JSON documents as records
- `records`: beginning, resuming, finding and listing runs
- `parts`: publishing, checking and committing parts
"""

from shardlens.pipeline.warehouse.documents import Commit, Part, ShardParts, Totals
from shardlens.pipeline.warehouse.parts import (
    FOOTER,
    commit,
    finished,
    generation_of,
    present,
    publish,
    recommit,
    same_rows,
    sweep,
    to_retry,
    unneeded,
)
from shardlens.pipeline.warehouse.records import (
    RunRecord,
    begin,
    committed,
    difference,
    differing,
    every,
    find,
    names,
    open_committed,
    setting,
)

__all__ = [
    "FOOTER",
    "Commit",
    "Part",
    "RunRecord",
    "ShardParts",
    "Totals",
    "begin",
    "commit",
    "committed",
    "difference",
    "differing",
    "every",
    "find",
    "finished",
    "generation_of",
    "names",
    "open_committed",
    "present",
    "publish",
    "recommit",
    "same_rows",
    "setting",
    "sweep",
    "to_retry",
    "unneeded",
]
