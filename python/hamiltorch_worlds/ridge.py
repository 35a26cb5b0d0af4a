"""Ridge regression whose strength is cheap to vary: one eigendecomposition serves every strength."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["STRENGTHS", "Ridge"]

STRENGTHS = tuple(10.0**exponent for exponent in range(-6, 4))
"""Strengths to choose from, relative to the mean variance of the inputs."""


class Ridge:
    """Least squares of y (n, m) on x (n, d) with intercept and a penalty on the weight's size, in float64."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        x, y = x.double(), y.double()
        self._x_mean, self._y_mean = x.mean(0), y.mean(0)
        x, y = x - self._x_mean, y - self._y_mean
        self._variances, self._axes = torch.linalg.eigh(x.T @ x / len(x))
        self._projected = self._axes.T @ (x.T @ y) / len(x)

    def solve(self, strength: float) -> tuple[Tensor, Tensor]:
        """Weight (d, m) and bias (m,) of y = x @ weight + bias, float64."""
        # The smallest number keeps inputs that never vary at weight zero.
        penalty = strength * self._variances.mean() + torch.finfo(torch.float64).tiny
        weight = self._axes @ (self._projected / (self._variances.clamp(min=0) + penalty)[:, None])
        return weight, self._y_mean - self._x_mean @ weight
