"""Where stages run: in this process, or on an elastic pool of Ray actors. Ray is imported only when it is asked for.

- `config`: which executor, how many workers, what each of them gets
- `local`: this process
- `leases`: which worker takes which item next, and who is blamed when a worker dies; knows nothing of Ray
- `ray_train`, `elastic`: training on Ray Train, its restarts and its number of workers
- `cluster`, `keeper`: the Ray cluster, joined or embedded, and what must not outlive it
- `ray`: the pool of actors
- `opening`: one of them, opened and closed
"""

from __future__ import annotations

import os

from pipeline.executors.config import ExecutorConfig
from pipeline.executors.opening import open_executor

__all__ = ["ExecutorConfig", "open_executor"]

# Read by Ray when it is imported, which only the modules beside this one do. RAY_LOG_TO_DRIVER=1 brings the workers'
# output here, for debugging; else nothing that Ray forwards is printed, for it prints on standard output, amid results.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if os.environ.setdefault("RAY_LOG_TO_DRIVER", "0") == "0":
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
