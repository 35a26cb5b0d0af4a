"""Hand-written torch: implicit methods by fixed-point iteration of explicit gradients.

H sees its input through layer 1 alone, so every solve here is one for w = base + h delta(rest + W w) V, delta being
dH/da_1. Of generalised Stoermer-Verlet w is p or q alone, and the product of layer 1 with the other half stays in
``rest``; of the midpoint rule w is the whole midpoint. Solves start from the last two steps' increments, extrapolated,
and end when every sample is solved. Of the discrete gradient the unknown is the change, whose product with layer 1
serves the gradient halfway, the energy at the end and the gradient's product with the change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from cases import MOST_STAGE_ITERATIONS, TOLERANCE, Problem
from torch import Tensor

from .analytic import _delta, _energy, _forward

Transform = Callable[[Callable[..., Any]], Callable[..., Any]]


def _as_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


class Solver:
    """A problem's solves; ``transform`` is applied to what is done between two looks at whether one has finished."""

    def __init__(self, problem: Problem, transform: Transform) -> None:
        self.weights, self.biases = problem.weights, problem.biases
        self.iterate = transform(self._iterate)

    def __call__(
        self, added: list[Tensor], base: Tensor, rest: Tensor, W: Tensor, V: Tensor, h: float
    ) -> tuple[Tensor, Tensor]:
        """The solution w and delta there; ``added`` is what the same stage added to its base, last step's last."""
        w = base + (2 * added[-1] - added[-2] if len(added) > 1 else added[-1] if added else 0)
        for _ in range(MOST_STAGE_ITERATIONS):
            w, delta, solved = self.iterate(w, base, rest, W, V, h)
            if solved:
                break
        added.append(w - base)
        return w, delta

    def _iterate(
        self, w: Tensor, base: Tensor, rest: Tensor, W: Tensor, V: Tensor, h: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """w's image, delta at w, and whether w solves every sample's equations."""
        delta = _delta(_forward(torch.addmm(rest, w, W.T), self.weights, self.biases), self.weights)
        # addmm would round each term of the sum as coarsely as base; torch.compile (2.13) loses the alpha of add.
        image = base + h * (delta @ V)
        solved = (image - w).abs().amax(-1) <= TOLERANCE * (1 + w.abs().amax(-1))
        return image, delta, solved.all()


def stormer_verlet(problem: Problem, transform: Transform = _as_is) -> Callable[[], dict[str, Tensor]]:
    solve, h, d = Solver(problem, transform), 0.5 * float(problem.dt), problem.z0.shape[1] // 2
    W_q, W_p = problem.weights[0][:, :d].contiguous(), problem.weights[0][:, d:].contiguous()
    bias = problem.biases[0]

    @torch.no_grad()
    def call() -> dict[str, Tensor]:
        q, p = problem.z0[:, :d], problem.z0[:, d:]
        added_p: list[Tensor] = []
        added_q: list[Tensor] = []
        states = [problem.z0]
        for _ in range(problem.case.steps):
            p, delta = solve(added_p, p, F.linear(q, W_q, bias), W_p, W_q, -h)
            q = q + h * (delta @ W_p)
            q, delta = solve(added_q, q, F.linear(p, W_p, bias), W_q, W_p, h)
            p = p - h * (delta @ W_q)
            states.append(torch.cat((q, p), 1))
        return {"trajectory": torch.stack(states, 1)}

    return call


def implicit_midpoint(problem: Problem, transform: Transform = _as_is) -> Callable[[], dict[str, Tensor]]:
    solve, h, d = Solver(problem, transform), 0.5 * float(problem.dt), problem.z0.shape[1] // 2
    W, bias = problem.weights[0], problem.biases[0]
    turned = torch.cat((W[:, d:], -W[:, :d]), 1)  # J dH/dz = delta turned

    @torch.no_grad()
    def call() -> dict[str, Tensor]:
        z = problem.z0
        added: list[Tensor] = []
        states = [z]
        for _ in range(problem.case.steps):
            middle, _ = solve(added, z, bias, W, turned, h)
            z = 2 * middle - z
            states.append(z)
        return {"trajectory": torch.stack(states, 1)}

    return call


def discrete_gradient(problem: Problem, transform: Transform = _as_is) -> Callable[[], dict[str, Tensor]]:
    weights, biases, dt, d = problem.weights, problem.biases, float(problem.dt), problem.z0.shape[1] // 2
    W = weights[0]
    turned = torch.cat((W[:, d:], -W[:, :d]), 1)  # J dH/dz = delta turned

    def values(a: Tensor) -> Tensor:
        return _energy(_forward(a, weights, biases), weights, biases)

    def iterate(change: Tensor, z: Tensor, a: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """change's image, and whether change solves every sample's equations."""
        moved = F.linear(change, W)
        delta = _delta(_forward(a + moved / 2, weights, biases), weights)
        square = change.square().sum(-1, keepdim=True)
        excess = values(a + moved) - before - (delta * moved).sum(-1, keepdim=True)
        factor = excess / torch.where(square > 0, square, 1)
        q, p = change.chunk(2, -1)
        image = dt * (delta @ turned + factor * torch.cat((p, -q), -1))
        solved = (image - change).abs().amax(-1) <= TOLERANCE * (1 + (z + change).abs().amax(-1))
        return image, solved.all()

    iterated = transform(iterate)

    @torch.no_grad()
    def call() -> dict[str, Tensor]:
        z, changes = problem.z0, [torch.zeros_like(problem.z0)]
        states = [z]
        for _ in range(problem.case.steps):
            change = 2 * changes[-1] - changes[-2] if len(changes) > 2 else changes[-1]
            a = F.linear(z, W, biases[0])
            before = values(a)
            for _ in range(MOST_STAGE_ITERATIONS):
                change, solved = iterated(change, z, a, before)
                if solved:
                    break
            changes.append(change)
            z = z + change
            states.append(z)
        return {"trajectory": torch.stack(states, 1)}

    return call
