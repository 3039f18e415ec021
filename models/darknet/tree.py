"""WordTree: classes as the nodes of a tree, with a softmax over the children of each node instead of one over all.

https://arxiv.org/abs/1612.08242, section 4. The files are Darknet's: `tree=` has a node a line, its name and its
parent's number (-1 = it has none), `map=` a number a line, the node of each label.
https://github.com/pjreddie/darknet/blob/master/src/tree.c
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.errors import ModelError
from shardlens.models.options import require

ROOT = -1


@dataclass(frozen=True)
class Tree:
    """Nodes numbered from 0, every parent before its children, and the children of each one after another."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    """Number of each node's parent; `ROOT` = it has none."""


def flat_tree(nodes: int) -> Tree:
    """Nodes without parents: one softmax over all, as YOLOv2 has it."""
    return Tree(tuple(str(i) for i in range(nodes)), (ROOT,) * nodes)


def read_tree(text: str) -> Tree:
    """The tree in a file's text.

    Raises:
        ModelError: a line is no node, or stands where Darknet would read another tree.
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        name, _, parent = line.strip().partition(" ")
        try:
            found.append((name, int(parent)))
        except ValueError:
            raise ModelError(
                f"tree line {number}: found {line[:60]!r}, expected a name and its parent's number (-1 = none)"
            ) from None
    if not found:
        raise ModelError("the tree is empty: expected on each line a name and its parent's number (-1 = none)")
    names, parents = zip(*found, strict=True)
    _check_parents(parents)
    return Tree(names, parents)


def _check_parents(parents: Sequence[int]) -> None:
    complete: set[int] = set()
    for i, parent in enumerate(parents):
        if not ROOT <= parent < i:
            raise ModelError(f"tree line {i + 1}: parent {parent} of node {i}, expected -1 (none) or a node before it")
        if i and parent != parents[i - 1]:
            complete.add(parents[i - 1])
        if parent in complete:
            whose = "the nodes without parent" if parent == ROOT else f"the children of node {parent}"
            raise ModelError(f"tree line {i + 1}: {whose} stand apart, expected one after another")


def write_tree(tree: Tree) -> str:
    """The text that `read_tree` reads back."""
    return "".join(f"{name} {parent}\n" for name, parent in zip(tree.names, tree.parents, strict=True))


def read_map(text: str, nodes: int) -> tuple[int, ...]:
    """The node of each label, in a file's text.

    Raises:
        ModelError: a line is no number of one of the `nodes`.
    """
    lines = text.split()
    for number, line in enumerate(lines, start=1):
        if not (line.isdecimal() and int(line) < nodes):
            raise ModelError(f"map line {number}: found {line[:60]!r}, expected the number of a node, 0 to {nodes - 1}")
    return tuple(int(line) for line in lines)


class WordTree(nn.Module):
    """What raw classes (..., n) say of n nodes, and of the labels.

    With a map each label is a node, and an object may be given several with their probabilities. Without one the labels
    are the nodes, and an object is given the one that the way down ends at: from the roots always on to the likeliest
    child, as long as its probability is above `threshold`.
    """

    group: Tensor  # (n,) number of the softmax that a node belongs to
    above: Tensor  # (k, n + 1) the node 1, 2, 4, ... steps above each; n = above the roots
    node: Tensor  # (labels,)

    def __init__(self, tree: Tree, labels: Sequence[int] = (), threshold: float = 0.5) -> None:
        super().__init__()
        require("hier_threshold", threshold, 0, 1)
        self.tree, self.labels, self.threshold = tree, tuple(labels), threshold
        group = list(accumulate((a != b for a, b in pairwise(tree.parents)), initial=0))
        self.groups = group[-1] + 1
        self.register_buffer("group", torch.tensor(group), persistent=False)
        self.register_buffer("above", torch.tensor(_ancestors(tree.parents)), persistent=False)
        self.register_buffer("node", torch.tensor(self.labels or range(len(group))), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Probability (R, labels) of each label for each row of raw classes (R, n); without a map 1 for one and 0 else."""
        logs = self.log_probability(values)
        if self.labels:
            return logs[..., self.node].exp()
        return F.one_hot(self.descend(values), values.shape[-1]).to(values)

    def log_probability(self, values: Tensor) -> Tensor:
        """Logarithm (..., n) of a node's probability: the product of its own given its parent, its parent's, and so on."""
        return self._down(self.log_conditional(values))

    def log_conditional(self, values: Tensor) -> Tensor:
        """Logarithm (..., n) of a node's probability given its parent: a softmax over the parent's children."""
        group = self.group.expand_as(values)
        shifted = values - self._over_groups(values.detach(), group, "amax").gather(-1, group)
        return shifted - self._over_groups(shifted.exp(), group, "sum").log().gather(-1, group)

    def descend(self, values: Tensor) -> Tensor:
        """The node (R,) where the way down from the likeliest root ends, for rows of raw classes (R, n)."""
        own, group = self.log_conditional(values), self.group.expand_as(values)
        number = torch.arange(values.shape[-1], device=values.device).expand_as(values)
        tied = own < self._over_groups(own, group, "amax").gather(-1, group)
        first = self._over_groups(number.masked_fill(tied, len(self.group)), group, "amin")
        astray = self._down((number != first.gather(-1, group)).float()) > 0
        sure = (self._down(own).exp() > self.threshold) | (self.group == 0)
        return number.masked_fill(astray | ~sure, 0).amax(-1)  # the last, for children have higher numbers

    def loss(self, values: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of each softmax on the way to each object's label (P,), summed, of raw classes (P, n)."""
        chosen: Tensor = self.log_probability(values).gather(1, self.node[labels][:, None])
        return -chosen.sum()

    def _over_groups(self, values: Tensor, group: Tensor, reduction: str) -> Tensor:
        """(..., groups) of values (..., n)."""
        start = values.new_zeros(*values.shape[:-1], self.groups)
        return start.scatter_reduce(-1, group, values, reduction, include_self=reduction == "sum")

    def _down(self, values: Tensor) -> Tensor:
        """Sums (..., n) of values (..., n) over each node and all above it."""
        total = F.pad(values, (0, 1))
        for above in self.above:
            total = total + total[..., above]
        return total[..., :-1]


def _ancestors(parents: Sequence[int]) -> list[list[int]]:
    """The node 1, 2, 4, ... steps above each of n, and above n, which stands for what is above the roots."""
    nodes = len(parents)
    steps = [[*(nodes if parent == ROOT else parent for parent in parents), nodes]]
    while min(steps[-1]) < nodes:
        steps.append([steps[-1][node] for node in steps[-1]])
    return steps
