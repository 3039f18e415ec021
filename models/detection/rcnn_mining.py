"""The examples that R-CNN's machines are fitted to, collected image by image, with hard negatives.

https://arxiv.org/abs/1311.2524, section 2.3 and appendices B and C
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from shardlens.models.boxes.coding import encode
from shardlens.models.boxes.matching import best_overlaps
from shardlens.models.detection.linear_machines import fit_ridge, fit_svm

NEGATIVE_IOU = 0.3
"""Regions that cover every object of a class less than this are negative examples of it."""
REGRESSED_IOU = 0.6
"""The box regressors are fitted to regions that cover an object more than this."""


@dataclass(frozen=True)
class MiningRule:
    """When machines are fitted anew, and how."""

    refit: int = 2000
    """New negatives of a class after which its machine is fitted again; more are not kept before its first object."""
    cost: float = 1e-3
    """The support vector machines' C."""
    ridge: float = 1000.0
    """The box regressors' lambda."""
    pairs: int = 5000
    """Regions of a class that its box regressor is fitted to, at most."""


@dataclass
class ClassExamples:
    """Examples of one class, and its machine as it stands; features are rows (N, D)."""

    rule: MiningRule
    positives: list[Tensor] = field(default_factory=list)
    negatives: list[Tensor] = field(default_factory=list)
    regions: list[Tensor] = field(default_factory=list)
    codes: list[Tensor] = field(default_factory=list)
    fresh: int = 0
    """Negatives since the machine was fitted."""
    machine: tuple[Tensor, float] | None = None

    def take(self, features: Tensor, regions: Tensor, own: Tensor, own_features: Tensor) -> None:
        """Take what an image holds: all negatives before there is a machine, then only those within its margin.

        Until the first object of the class there is nothing to fit, and only the latest `refit` negatives are kept.

        Args:
            features: (P, D) of the proposals, whose boxes are `regions` (P, 4).
            own: (M, 4) true boxes of this class, whose features are `own_features` (M, D).
        """
        overlaps, index = best_overlaps(regions, own)
        near = overlaps > REGRESSED_IOU
        if len(own):
            self.positives.append(own_features)
            room = self.rule.pairs - sum(map(len, self.regions))
            self.regions.append(features[near][:room])
            self.codes.append(encode(own[index[near]], regions[near])[:room])
        hard = features[overlaps < NEGATIVE_IOU]
        if self.machine is not None:
            weights, bias = self.machine
            hard = hard[hard @ weights + bias > -1]
        self.negatives.append(hard)
        self.fresh += len(hard)
        if not self.positives:
            self._forget_oldest()
        elif self.fresh >= self.rule.refit:
            self.refit()

    def _forget_oldest(self) -> None:
        surplus = sum(map(len, self.negatives)) - self.rule.refit
        while surplus > 0:
            oldest = self.negatives.pop(0)
            if len(oldest) > surplus:
                self.negatives.insert(0, oldest[surplus:].clone())  # a view would hold on to all rows
            surplus -= len(oldest)

    def refit(self) -> tuple[Tensor, float]:
        """Fit the machine to what there is, then forget the negatives that it is sure of."""
        negatives = torch.cat(self.negatives)
        features = torch.cat([*self.positives, negatives])
        positive = torch.arange(len(features)) < len(features) - len(negatives)
        weights, bias = self.machine = fit_svm(features, positive, cost=self.rule.cost)
        self.negatives = [negatives[negatives @ weights + bias > -1.2]]
        self.fresh = 0
        return weights, bias

    def regressor(self) -> tuple[Tensor, Tensor] | None:
        """Weights (4, D) and biases (4,) from a region's features to its codes; None without a region to fit."""
        if not sum(map(len, self.regions)):
            return None
        return fit_ridge(torch.cat(self.regions), torch.cat(self.codes), self.rule.ridge)

    def hinge(self) -> float:
        """Mean hinge of the examples that are kept; 0 without a machine."""
        if self.machine is None:
            return 0.0
        weights, bias = self.machine
        positive, negative = torch.cat(self.positives) @ weights + bias, torch.cat(self.negatives) @ weights + bias
        return float(torch.cat([1 - positive, 1 + negative]).clamp(min=0).mean())
