"""What keeps a schedule: it starts the runs that are due, frees the slots of dead ones, and pauses when the last one ends."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
    FlowRun,
    State,
    StateType,
)
from prefect.exceptions import ObjectAlreadyExists, PrefectException
from prefect.runner import Runner
from prefect.states import Cancelled, Crashed

from shardlens.flows import run_locks

ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
"""A run that is started by hand while one is under way waits for it; the schedule's own are left out, see `Upkeep`."""

STARTING_S = 0.05
"""Between looks at a runner that is still starting."""
UPKEEP_S = 10.0
"""Between rounds of upkeep."""
LEASE_S = 60.0
"""A process that serves counts as gone when it was not heard of for this long."""
MANY = 1000
"""More processes than ever serve one schedule."""
UNDER_WAY = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


class Keeper(Runner):
    """Starts what is due. Its end is orderly: runs under way are canceled, so that they give back the schedule's slot."""

    def listen(self) -> None:
        """From now on SIGINT and SIGTERM ask for the end; a second SIGINT does not wait for it."""
        self.ending = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):  # Prefect sets its own for SIGTERM, later
            asyncio.get_running_loop().add_signal_handler(number, self.handle_sigterm)

    async def keep(self, deployment: UUID, ready: Callable[[], Awaitable[None]]) -> bool:
        """Start what is due, until SIGINT or SIGTERM.

        Args:
            ready: called when this process counts among those that serve the deployment, so that another one may end.

        Returns whether the schedule was paused at the end: not while another process serves it.
        """
        async with get_client() as client:
            upkeep = Upkeep(client, deployment)
            await upkeep.enter()
            await ready()
            rounds = asyncio.create_task(upkeep.run())
            try:
                await self._until_ended()
            finally:
                rounds.cancel()
                paused = await upkeep.leave()
        return paused

    async def _until_ended(self) -> None:
        work, end = asyncio.create_task(self.start()), asyncio.create_task(self.ending.wait())
        await asyncio.wait({work, end}, return_when=asyncio.FIRST_COMPLETED)
        while not (self.started or work.done()):  # one that is still starting could not be stopped
            await asyncio.sleep(STARTING_S)
        if self.started:
            await self.astop()
        end.cancel()
        await work

    def handle_sigterm(self, *_: object) -> None:
        """Called by Prefect too; its own handler forgets to await the end of the runs."""
        loop = asyncio.get_running_loop()
        loop.remove_signal_handler(signal.SIGINT)
        loop.call_soon_threadsafe(self.ending.set)


class Upkeep:
    """Keeps a deployment in order while a process serves it.

    Each process that serves a deployment holds one slot of a concurrency limit on the server, with a lease that it
    renews. So the one that ends last is known, also across machines, and it alone pauses the schedule.
    """

    def __init__(self, client: PrefectClient, deployment: UUID) -> None:
        self.client = client
        self.deployment = deployment
        self.name = f"shardlens-serve-{deployment}"
        self.lease: UUID | None = None
        self.paused = False

    async def enter(self) -> None:
        """Count this process among those that serve the deployment, and free what dead runs hold."""
        with suppress(ObjectAlreadyExists):  # two began at once
            await self.client.upsert_global_concurrency_limit_by_name(self.name, MANY)
        await self.renew()
        await self.client.resume_deployment(self.deployment)  # the last one may have paused it just now
        await self.free_dead_runs()

    async def run(self) -> None:
        """Do the rounds until canceled. A server that cannot be reached is asked again in the next one."""
        rounds: Sequence[Callable[[], Awaitable[None]]] = (
            self.renew,
            self.free_dead_runs,
            self.leave_out,
            self.report_pause,
        )
        while True:
            await asyncio.sleep(UPKEEP_S)
            for step in rounds:
                try:
                    await step()
                except (httpx.HTTPError, PrefectException) as error:
                    print(f"the Prefect server does not answer: {error}", file=sys.stderr, flush=True)
                    break

    async def leave(self) -> bool:
        """Give up this process's slot; the last one pauses the schedule. Returns whether it did."""
        if self.lease is not None:
            await self.client.release_concurrency_slots_with_lease(self.lease)
        if await self._others_serve():
            return False
        await self.client.pause_deployment(self.deployment)
        if await self._others_serve():  # one that began in between
            await self.client.resume_deployment(self.deployment)
            return False
        return True

    async def _others_serve(self) -> bool:
        """Whether a process that has not given up its slot serves the deployment."""
        return (await self.client.read_global_concurrency_limit_by_name(self.name)).active_slots > 0

    async def renew(self) -> None:
        """Say that this process lives; a server that was started anew may have forgotten it."""
        if self.lease is not None:
            try:
                await self.client.renew_concurrency_lease(self.lease, LEASE_S)
                return
            except httpx.HTTPStatusError:
                self.lease = None
        answer = await self.client.increment_concurrency_slots_with_lease([self.name], 1, "concurrency", LEASE_S)
        self.lease = UUID(answer.json()["lease_id"])

    async def free_dead_runs(self) -> None:
        """Crash runs whose process is gone, so that the next one can begin; their leases would last for minutes."""
        for run in await self._runs(UNDER_WAY):
            if run_locks.is_dead(run.id):
                canceling = run.state is not None and run.state.is_cancelling()
                state: State[object] = Cancelled() if canceling else Crashed(message="The process of this run is gone.")
                await self.client.set_flow_run_state(run.id, state, force=True)
        run_locks.forget_ended()

    async def leave_out(self) -> None:
        """Cancel the schedule's runs that wait for another one: the next one finds what they would have found."""
        for run in await self._runs((StateType.SCHEDULED,)):
            if run.auto_scheduled and run.state_name == "AwaitingConcurrencySlot":
                message = "Left out: a run of this schedule is under way."
                await self.client.set_flow_run_state(run.id, Cancelled(message=message), force=True)

    async def report_pause(self) -> None:
        """Say it once when somebody pauses the schedule, and once when it goes on."""
        paused = (await self.client.read_deployment(self.deployment)).paused
        if paused != self.paused:
            self.paused = paused
            state = "paused on Prefect's page: nothing is started until it is resumed there" if paused else "resumed"
            print(f"the schedule was {state}", file=sys.stderr, flush=True)

    async def _runs(self, types: Sequence[StateType]) -> list[FlowRun]:
        """The deployment's flow runs in a state of these types."""
        return await self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                deployment_id=FlowRunFilterDeploymentId(any_=[self.deployment]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))),
            )
        )
