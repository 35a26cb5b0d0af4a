"""Discrete Euler-Lagrange rollouts as exact as the precision of their inputs allows: what peers are held against.

No peer's code: D1 and D2 of L_d are written out by hand, and every step is iterated with one matrix until nothing
changes any more, so that an error of the matrix could only slow it down.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from cases import LEAST_MASS, Problem, named_leaves, weighted_sum
from torch import Tensor

MOST = 50  # iterations: each leaves a hundredth of the error or less
ROUNDINGS = 4  # of the largest entry: a smaller change is none


def solution(problem: Problem, push: float = 0.0) -> dict[str, Tensor]:
    """The trajectory, and of a gradient's case the gradients by what a peer differentiates by.

    ``push`` leaves every equation with a residual of so many times one plus the sample's largest momentum, of random
    signs that stay the same from step to step: displacements of all steps add up.
    """
    case = problem.case
    leaves = named_leaves(problem)
    q0, q1 = leaves["q0"], leaves["q1"]
    generator = torch.Generator().manual_seed(1)
    signs = torch.where(torch.rand(q0.shape, generator=generator) < 0.5, -1.0, 1.0).to(q0)
    path = [q0, q1]
    with torch.set_grad_enabled(case.gradient):
        for _ in range(case.steps):
            path.append(_next(problem, leaves, path[-2], path[-1], push * signs))
        trajectory = torch.stack(path, dim=1)
    results = {"trajectory": trajectory.detach()}
    if case.gradient:
        loss = weighted_sum(trajectory, problem.targets)
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        results |= dict(zip(leaves, grads, strict=True))
    return results


def _next(problem: Problem, leaves: dict[str, Tensor], before: Tensor, q: Tensor, push: Tensor) -> Tensor:
    _, carried = _slots(problem, leaves, before, q)
    impulse = (push * (1 + carried.abs().amax(-1, keepdim=True))).detach()

    def residual(y: Tensor) -> Tensor:
        return carried + _slots(problem, leaves, q, y)[0] + impulse

    with torch.no_grad():
        y = 2 * q - before
        factors = torch.linalg.lu_factor(_matrix(problem, leaves, q, y))
        for _ in range(MOST):
            change = torch.linalg.lu_solve(*factors, residual(y).unsqueeze(-1)).squeeze(-1)
            y = y - change
            if change.abs().max() <= ROUNDINGS * torch.finfo(y.dtype).eps * y.abs().max():
                break
        else:
            raise RuntimeError(f"{problem.case.name}: the oracle has found no solution")
        if not problem.case.gradient:
            return y
        factors = torch.linalg.lu_factor(_matrix(problem, leaves, q, y))
    # One more iteration with its matrix held fixed has the solution's own derivative.
    return y - torch.linalg.lu_solve(*factors, residual(y).unsqueeze(-1)).squeeze(-1)


def _matrix(problem: Problem, leaves: dict[str, Tensor], q: Tensor, y: Tensor) -> Tensor:
    fixed = {name: leaf.detach() for name, leaf in leaves.items()}

    def first(q: Tensor, y: Tensor) -> Tensor:
        return _slots(problem, fixed, q.unsqueeze(0), y.unsqueeze(0))[0].squeeze(0)

    matrix: Tensor = torch.func.vmap(torch.func.jacrev(first, argnums=1))(q.detach(), y)
    return matrix


def _slots(problem: Problem, leaves: dict[str, Tensor], q0: Tensor, q1: Tensor) -> tuple[Tensor, Tensor]:
    """D1 and D2 of L_d at (q0, q1), each (batch, d)."""
    layers = len(problem.weights)
    weights = [leaves[f"network.layers.{i}.weight"] for i in range(layers)]
    h, slopes = torch.cat((q0, q1), dim=-1), []
    for i in range(layers - 1):
        a = F.linear(h, weights[i], leaves[f"network.layers.{i}.bias"])
        s = torch.sigmoid(a)
        h = a * s
        slopes.append(s * (1 + a * (1 - s)))
    delta = weights[-1]
    for weight, slope in zip(reversed(weights[:-1]), reversed(slopes), strict=True):
        delta = (delta * slope) @ weight
    learned1, learned2 = (problem.dt * delta).chunk(2, dim=-1)
    momentum = (F.softplus(leaves["raw_mass"]) + LEAST_MASS) * (q1 - q0) / problem.dt
    return learned1 - momentum, learned2 + momentum
