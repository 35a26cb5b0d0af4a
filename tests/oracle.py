"""The oracle: rollouts of an MLP Hamiltonian and their gradients in plain torch autograd.

It shares no code with the library, is as direct as the formulas, and is run in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ACTIVATION = {
    "softplus": lambda a: torch.nn.functional.softplus(a),
    "tanh": torch.tanh,
    "silu": lambda a: a * torch.sigmoid(a),
    "gelu": lambda a: 0.5 * a * (1 + torch.erf(a / math.sqrt(2))),
    "sin": torch.sin,
}


def energy(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activation: str,
    z: Tensor,
    condition: Tensor | None = None,
) -> Tensor:
    """H(z, condition), shape (...)."""
    h = z if condition is None else torch.cat((z, condition), dim=-1)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if layer:
            h = ACTIVATION[activation](h)
        h = h @ weight.T
        if bias is not None:
            h = h + bias
    return h[..., 0]


def rollout(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activation: str,
    z0: Tensor,
    dt: Tensor,
    steps: int,
    method: str,
    condition: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Trajectory (..., steps + 1, 2d) and energies (..., steps + 1), differentiable in every tensor."""

    def value(q: Tensor, p: Tensor) -> Tensor:
        return energy(weights, biases, activation, torch.cat((q, p), dim=-1), condition)

    def by_q(q: Tensor, p: Tensor) -> Tensor:
        # The partial derivative: p was computed from q, so it is taken at an alias that p does not know.
        q = q.view_as(q)
        return torch.autograd.grad(value(q, p).sum(), q, create_graph=True)[0]

    def by_p(q: Tensor, p: Tensor) -> Tensor:
        p = p.view_as(p)
        return torch.autograd.grad(value(q, p).sum(), p, create_graph=True)[0]

    with torch.enable_grad():
        d = z0.shape[-1] // 2
        # Leaves of a zero keep every state attached to autograd, also where nothing else asks for a gradient.
        q = z0[..., :d] + torch.zeros_like(z0[..., :d], requires_grad=True)
        p = z0[..., d:] + torch.zeros_like(z0[..., d:], requires_grad=True)
        states = [(q, p)]
        for _ in range(steps):
            if method == "leapfrog":
                p_half = p - dt / 2 * by_q(q, p)
                q = q + dt * by_p(q, p_half)
                p = p_half - dt / 2 * by_q(q, p_half)
            elif method == "euler":
                q, p = q + dt * by_p(q, p), p - dt * by_q(q, p)
            else:
                raise ValueError(method)
            states.append((q, p))
        trajectory = torch.stack([torch.cat(state, dim=-1) for state in states], dim=-2)
        energies = torch.stack([value(*state) for state in states], dim=-1)
    return trajectory, energies
