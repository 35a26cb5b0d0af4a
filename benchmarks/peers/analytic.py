"""Hand-written torch: explicit half-gradients, no autograd inside the rollout.

The products of layer 1 with q and with p are kept apart, so each of the three gradients of a step recomputes half of
layer 1 and forms half of dH/dz. Training differentiates this forward pass with one ordinary backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from cases import Problem, loss
from torch import Tensor


def unavailable(device: str) -> str | None:
    return None


def leapfrog(
    weights: Sequence[Tensor], biases: Sequence[Tensor], z0: Tensor, dt: Tensor, steps: int, with_energy: bool
) -> tuple[Tensor, Tensor | None]:
    """Trajectory (batch, steps + 1, 2d) and, if asked for, energies (batch, steps + 1)."""
    d = z0.shape[1] // 2
    by_q, by_p = weights[0][:, :d].contiguous(), weights[0][:, d:].contiguous()
    half_dt = 0.5 * dt
    q, p = z0[:, :d], z0[:, d:]
    a_q, a_p = F.linear(q, by_q), F.linear(p, by_p, biases[0])
    states, energies = [z0], []
    for _ in range(steps):
        pre = _forward(a_q + a_p, weights, biases)
        if with_energy:
            energies.append(_energy(pre, weights, biases))
        p = p - half_dt * (_delta(pre, weights) @ by_q)
        a_p = F.linear(p, by_p, biases[0])
        q = q + dt * (_delta(_forward(a_q + a_p, weights, biases), weights) @ by_p)
        a_q = F.linear(q, by_q)
        p = p - half_dt * (_delta(_forward(a_q + a_p, weights, biases), weights) @ by_q)
        a_p = F.linear(p, by_p, biases[0])
        states.append(torch.cat((q, p), 1))
    trajectory = torch.stack(states, 1)
    if not with_energy:
        return trajectory, None
    energies.append(_energy(_forward(a_q + a_p, weights, biases), weights, biases))
    return trajectory, torch.cat(energies, 1)


def _forward(a: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """Pre-activations of every hidden layer, from that of the first."""
    pre = [a]
    for weight, bias in zip(weights[1:-1], biases[1:-1], strict=True):
        pre.append(F.linear(F.softplus(pre[-1]), weight, bias))
    return pre


def _energy(pre: list[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """H (batch, 1)."""
    return F.linear(F.softplus(pre[-1]), weights[-1], biases[-1])


def _delta(pre: list[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """dH/da_1 (batch, width_1)."""
    delta = weights[-1] * torch.sigmoid(pre[-1])
    for weight, a in zip(reversed(weights[1:-1]), reversed(pre[:-1]), strict=True):
        delta = (delta @ weight) * torch.sigmoid(a)
    return delta


Leapfrog = Callable[..., tuple[Tensor, Tensor | None]]


def rollout(problem: Problem, leapfrog: Leapfrog = leapfrog) -> Callable[[], dict[str, Tensor]]:
    def call() -> dict[str, Tensor]:
        with torch.no_grad():
            trajectory, _ = leapfrog(problem.weights, problem.biases, problem.z0, problem.dt, problem.case.steps, False)
        return {"trajectory": trajectory}

    return call


def training(problem: Problem, leapfrog: Leapfrog = leapfrog) -> Callable[[], dict[str, Tensor]]:
    weights = [w.clone().requires_grad_() for w in problem.weights]
    biases = [b.clone().requires_grad_() for b in problem.biases]
    dt = problem.dt.clone().requires_grad_()
    names = [f"layers.{i}.{kind}" for kind in ("weight", "bias") for i in range(len(weights))]

    def call() -> dict[str, Tensor]:
        trajectory, energies = leapfrog(weights, biases, problem.z0, dt, problem.case.steps, True)
        value = loss(trajectory, energies, problem.targets)
        grads = torch.autograd.grad(value, [*weights, *biases, dt])
        return {"loss": value, **dict(zip([*names, "dt"], grads, strict=True))}

    return call
