"""A flow that takes as long as it is told, and a process that serves it: `python -m tests.flows.sleeper CRON`."""

from __future__ import annotations

import asyncio
import sys
import time

from prefect.deployments.runner import RunnerDeployment
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from shardlens.flows import cron
from shardlens.flows.embedded import flow
from shardlens.flows.keeper import ONE_AT_A_TIME
from shardlens.flows.serve import ServeConfig, keep


@flow("sleeper", lambda given: "sleeper")
def sleeper(seconds: float = 0.0) -> None:
    """Sleep in small pieces."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.1)


def main(line: str) -> None:
    """Serve it as `shardlens serve` serves its flow."""
    from tests.flows.sleeper import sleeper  # by its module's name, as runs import it

    schedule = ServeConfig(cron=line)
    deployment = RunnerDeployment.from_flow(
        sleeper,
        "nightly",
        schedule=cron.schedule(schedule.cron, schedule.timezone),
        concurrency_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    paused = asyncio.run(keep(deployment, schedule, str(PREFECT_API_URL.value())))
    print("paused" if paused else "still served", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
