"""Rollouts by implicit methods as exact as the precision of their inputs allows: what peers are held against.

No peer's code: autograd for dH/dz, and plain iteration of each solve's equations until nothing changes any more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from cases import Problem
from torch import Tensor

MOST = 300  # iterations: any that contracts by a tenth each time ends before
ROUNDINGS = 4  # of the largest entry: a smaller change is none


def solution(problem: Problem, push: float = 0.0) -> dict[str, Tensor]:
    """The trajectory (batch, steps + 1, 2d).

    ``push`` leaves every solve with a residual of so many times one plus the sample's largest entry, of random signs
    that stay the same from step to step: displacements of all steps add up.
    """
    generator = torch.Generator().manual_seed(1)
    signs = torch.where(torch.rand(problem.z0.shape, generator=generator) < 0.5, -1.0, 1.0).to(problem.z0)
    step = {
        "stormer_verlet": _stormer_verlet,
        "implicit_midpoint": _implicit_midpoint,
        "discrete_gradient": _discrete_gradient,
    }[problem.case.kind]
    path = [problem.z0]
    for _ in range(problem.case.steps):
        path.append(step(problem, path[-1], push * signs))
    return {"trajectory": torch.stack(path, dim=1)}


def _stormer_verlet(problem: Problem, z: Tensor, push: Tensor) -> Tensor:
    """p' = p - dt/2 H_q(q, p'), q' = q + dt/2 (H_p(q, p') + H_p(q', p')), p'' = p' - dt/2 H_q(q', p')."""
    (q, p), (push_q, push_p), half = z.chunk(2, -1), push.chunk(2, -1), 0.5 * problem.dt
    p = _fixed_point(problem, lambda x: p - half * _halves(problem, q, x)[0], p, push_p)
    q = q + half * _halves(problem, q, p)[1]
    q = _fixed_point(problem, lambda x: q + half * _halves(problem, x, p)[1], q, push_q)
    return torch.cat((q, p - half * _halves(problem, q, p)[0]), -1)


def _implicit_midpoint(problem: Problem, z: Tensor, push: Tensor) -> Tensor:
    """z' = z + dt J dH/dz(w), w = (z + z')/2; a residual of w's equations is one of z' twice as large."""

    def image(w: Tensor) -> Tensor:
        by_q, by_p = _halves(problem, *w.chunk(2, -1))
        return z + 0.5 * problem.dt * torch.cat((by_p, -by_q), -1)

    return 2 * _fixed_point(problem, image, z, push) - z


def _discrete_gradient(problem: Problem, z: Tensor, push: Tensor) -> Tensor:
    """z' = z + dt J D, D = g + [H(z') - H(z) - g . (z' - z)] (z' - z) / |z' - z|^2 with g the gradient halfway."""
    before = _energy(problem, z)

    def image(y: Tensor) -> Tensor:
        change, g = y - z, torch.cat(_halves(problem, *((z + y) / 2).chunk(2, -1)), -1)
        excess = _energy(problem, y) - before - (g * change).sum(-1, keepdim=True)
        square = change.square().sum(-1, keepdim=True)
        by_q, by_p = (g + excess / torch.where(square > 0, square, 1) * change).chunk(2, -1)
        return z + problem.dt * torch.cat((by_p, -by_q), -1)

    return _fixed_point(problem, image, z, push)


def _fixed_point(problem: Problem, image: Callable[[Tensor], Tensor], x: Tensor, push: Tensor) -> Tensor:
    for _ in range(MOST):
        new = image(x) + push * (1 + x.abs().amax(-1, keepdim=True))
        change, x = (new - x).abs().max(), new
        if change <= ROUNDINGS * torch.finfo(x.dtype).eps * x.abs().max():
            return x
    raise RuntimeError(f"{problem.case.name}: the oracle has found no solution")


def _halves(problem: Problem, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """dH/dq and dH/dp, each (batch, d)."""
    with torch.enable_grad():
        z = torch.cat((q, p), -1).requires_grad_()
        energy = _energy(problem, z).sum()
    by_q, by_p = torch.autograd.grad(energy, z)[0].chunk(2, -1)
    return by_q, by_p


def _energy(problem: Problem, z: Tensor) -> Tensor:
    """H (batch, 1)."""
    h = z
    for weight, bias in zip(problem.weights[:-1], problem.biases[:-1], strict=True):
        h = F.softplus(F.linear(h, weight, bias))
    return F.linear(h, problem.weights[-1], problem.biases[-1])
