"""Flows that bring their own server: called where no Prefect server is named, they start the embedded one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect import Flow

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


def flow(name: str, run_name: str | Callable[[], str]) -> Callable[[Callable[P, R]], EmbeddedFlow[P, R]]:
    """Make a function a flow whose results are not kept: they lie in the warehouse."""

    def make(function: Callable[P, R]) -> EmbeddedFlow[P, R]:
        return EmbeddedFlow(function, name=name, flow_run_name=run_name, persist_result=False)

    return make
