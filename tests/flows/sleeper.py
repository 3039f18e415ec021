"""A flow that ends when a file is removed, and a process that serves it: `python -m tests.flows.sleeper SECONDS`."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import timedelta
from pathlib import Path

from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Interval
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from shardlens.flows.embedded import flow

LIMIT_S = 600.0


@flow("sleeper", lambda given: "sleeper")
def sleeper(while_there: str = "") -> None:
    """Sleep while the file is there; without one, end at once."""
    until = time.monotonic() + LIMIT_S
    while while_there and Path(while_there).exists() and time.monotonic() < until:
        time.sleep(0.1)


def main(seconds: float) -> None:
    """Serve it as `shardlens serve` serves its flow, but each so many seconds, and with a round of upkeep each second."""
    from shardlens.flows import keeper  # with torch: seconds, which a run of the flow itself does not need
    from shardlens.flows.automations import AlertTarget
    from shardlens.flows.keeper import ONE_AT_A_TIME
    from shardlens.flows.serve import ServeConfig, keep
    from tests.flows.sleeper import sleeper  # by its module's name, as runs import it

    keeper.UPKEEP_S = 1.0
    deployment = RunnerDeployment.from_flow(
        sleeper,
        "nightly",
        schedule=Interval(timedelta(seconds=seconds)),
        concurrency_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    paused = asyncio.run(keep(deployment, ServeConfig(), AlertTarget(), str(PREFECT_API_URL.value())))
    print("paused" if paused else "still served", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
