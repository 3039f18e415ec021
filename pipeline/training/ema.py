"""An exponential moving average of a network's weights, which often scores better than the last ones.

Polyak & Juditsky, https://doi.org/10.1137/0330046.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """Holds the average of every tensor of a network's state.

    After k updates the decay is min(decay, (1 + k) / (10 + k)), so that the random start is soon forgotten. Floating
    tensors, statistics of norms included, are averaged in their own type; counters are copied. What does not change
    stays as it is to the bit.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the weights after a step in."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        state = network.state_dict()
        floats = [name for name, average in self.average.items() if average.is_floating_point()]
        lists: list[Any] = [[tensors[name] for name in floats] for tensors in (self.average, state)]
        get_ema_multi_avg_fn(decay)(*lists, 0)  # type: ignore[no-untyped-call]  # a few kernels for all of them
        for name in state.keys() - floats:
            self.average[name].copy_(state[name])

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Let `network` hold the average inside of the block, and its own weights again after it."""
        own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(self.average)
        try:
            yield
        finally:
            network.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from: the number of updates and the averages by name."""
        return {"updates": self.updates, "average": dict(self.average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.updates = int(state["updates"])
        averages: Mapping[str, Tensor] = state["average"]
        for name, tensor in self.average.items():
            tensor.copy_(averages[name])
