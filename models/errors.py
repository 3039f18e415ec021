"""The root of Shardlens' errors, and those a network or its weights can raise."""

from __future__ import annotations


class ShardlensError(Exception):
    """An error that is explained: what was found, what was expected, where, and what to do.

    The command line prints its message without a traceback. It carries one string, so that it crosses process
    borders unchanged.
    """


class ModelError(ShardlensError):
    """A model that does not exist, or options it does not take."""


class WeightsError(ModelError):
    """Weights that do not fit the model, are damaged, or are not what their digest says."""
