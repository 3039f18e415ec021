"""Flows that bring their own server: called where no Prefect server is named, they start the embedded one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect import Flow

from shardlens.flows.run_locks import hold_run_lock
from shardlens.flows.run_names import Namer, named_by
from shardlens.flows.server import own_server

P = ParamSpec("P")
R = TypeVar("R")


class EmbeddedFlow(Flow[P, R]):
    """A flow whose calls report to a server; Prefect's own temporary one would let any user of the machine in."""

    if not TYPE_CHECKING:  # Prefect's signatures, with their overloads, stand

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Run the flow here and now."""
            with own_server():
                return super().__call__(*args, **kwargs)

        def serve(self, *args: Any, **kwargs: Any) -> None:
            """Serve the flow from this process, as Prefect has it."""
            with own_server():
                super().serve(*args, **kwargs)


def flow(name: str, run_name: Namer) -> Callable[[Callable[P, R]], EmbeddedFlow[P, R]]:
    """Make a function a flow whose results are not kept: they lie in the warehouse.

    Args:
        run_name: makes a run's name of its parameters; a name that the user gave is kept.
    """

    def make(function: Callable[P, R]) -> EmbeddedFlow[P, R]:
        return EmbeddedFlow(
            function, name=name, flow_run_name=named_by(run_name), persist_result=False, on_running=[hold_run_lock]
        )

    return make
