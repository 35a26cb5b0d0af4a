"""H-JEPA's baseline for context: an unconstrained MLP z -> f(z) with ReLU, torch eager. Not the same computation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from cases import Problem, loss
from torch import Tensor


def unavailable(device: str) -> str | None:
    return None


def _trajectory(weights: Sequence[Tensor], biases: Sequence[Tensor], z: Tensor, steps: int) -> Tensor:
    states = [z]
    for _ in range(steps):
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            z = torch.relu(F.linear(z, weight, bias))
        z = F.linear(z, weights[-1], biases[-1])
        states.append(z)
    return torch.stack(states, 1)


def rollout(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    def call() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"trajectory": _trajectory(problem.weights, problem.biases, problem.z0, problem.case.steps)}

    return call


def training(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    weights = [w.clone().requires_grad_() for w in problem.weights]
    biases = [b.clone().requires_grad_() for b in problem.biases]
    names = [f"layers.{i}.{kind}" for kind in ("weight", "bias") for i in range(len(weights))]

    def call() -> dict[str, Tensor]:
        value = loss(_trajectory(weights, biases, problem.z0, problem.case.steps), None, problem.targets)
        return {"loss": value, **dict(zip(names, torch.autograd.grad(value, [*weights, *biases]), strict=True))}

    return call
