"""What R-CNN fits without gradients through a network: a linear SVM for each class, and ridge regressors of boxes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import solve
from scipy.optimize import minimize
from torch import Tensor

Doubles = npt.NDArray[np.float64]
_BIAS_FEATURE = 10.0
"""The bias is the weight of a feature of this constant, so that it is hardly held back."""


def fit_svm(
    features: Tensor, positive: Tensor, *, cost: float = 1e-3, positive_weight: float = 2.0
) -> tuple[Tensor, float]:
    """Weights (D,) and bias of a linear support vector machine; its margins are `features @ weights + bias`.

    It minimizes |w|^2 / 2 + cost * sum of max(0, 1 - y margin)^2, the squared hinge, which is smooth; examples of the
    class count `positive_weight` times.

    Args:
        features: (N, D).
        positive: (N,) bool.
    """
    x = np.hstack([features.double().cpu().numpy(), np.full((len(features), 1), _BIAS_FEATURE)])
    y = np.where(positive.cpu().numpy(), 1.0, -1.0)
    costs = cost * np.where(y > 0, positive_weight, 1.0)

    def objective(w: Doubles) -> tuple[float, Doubles]:
        slack = np.maximum(0.0, 1 - y * (x @ w))
        gradient: Doubles = w - x.T @ (2 * costs * y * slack)
        return float(0.5 * w @ w + costs @ slack**2), gradient

    found: Doubles = minimize(
        objective,
        np.zeros(x.shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 500, "ftol": 1e-10, "gtol": 1e-6},
    ).x
    weights = torch.from_numpy(found[:-1].copy()).to(features)
    return weights, float(found[-1] * _BIAS_FEATURE)


def fit_ridge(features: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights (T, D) and biases (T,) of linear regressors: `features @ weights.T + biases` near `targets`.

    They minimize the squared error plus `penalty` times |w|^2; the biases are free.

    Args:
        features: (N, D), N at least 1.
        targets: (N, T).
    """
    x, y = features.double().cpu().numpy(), targets.double().cpu().numpy()
    middle, offset = x.mean(0), y.mean(0)
    x, y = x - middle, y - offset
    count, width = x.shape
    if count < width:
        weights = x.T @ solve(x @ x.T + penalty * np.eye(count), y, assume_a="pos")
    else:
        weights = solve(x.T @ x + penalty * np.eye(width), x.T @ y, assume_a="pos")
    biases = offset - middle @ weights
    return torch.from_numpy(weights.T.copy()).to(features), torch.from_numpy(biases).to(features)
