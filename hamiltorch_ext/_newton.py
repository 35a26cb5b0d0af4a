"""Damped Newton iterations for many small systems at once, and the solution's derivative.

Every sample is a system of its own: it stops on its own, and what becomes of it leaves the others alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .lagrangians import jacobian

__all__ = ["Solution", "differentiable", "solve"]

HALVINGS = 12  # of a step, before it is given up
DECREASE = 1e-4  # of the residual that a step has to bring, as a part of what its length promises

ROUNDINGS = 4  # of y's largest entry: a smaller step is none

# residual(y, rows) of the samples `rows` at y, (rows, n) -> (rows, n).
Residual = Callable[[Tensor, Tensor], Tensor]


class Solution(NamedTuple):
    """Where the iteration ended: y (batch, n), and of each sample, all (batch,), what became of it.

    ``residual`` is its largest entry over the sample's scale; ``smallest_pivot`` that of the last factorisation over
    the matrix's largest entry, and infinite where there was none.
    """

    y: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    smallest_pivot: Tensor


def solve(residual: Residual, start: Tensor, scale: Tensor, tol: float, max_iterations: int) -> Solution:
    """Solve residual(y) = 0 from ``start`` (batch, n).

    A sample is solved when its largest entry is at most ``tol * scale`` (batch,), or when a step would change y by no
    more than rounding does: with less the equations cannot be met in this precision.
    """
    batch = start.shape[0]
    with torch.no_grad():
        y = start.detach().clone()
        every = torch.arange(batch, device=y.device)
        r = residual(y, every)
        error = _error(r, scale)
        iterations = torch.zeros(batch, dtype=torch.int64, device=y.device)
        smallest_pivot = torch.full_like(scale, torch.inf)
        settled = torch.zeros_like(error, dtype=torch.bool)
        rows = every[error > tol]  # still to be improved; not where it is NaN
        for _ in range(max_iterations):
            if len(rows) == 0:
                break
            step, smallest_pivot[rows] = _newton_step(residual, y[rows], r[rows], rows)
            iterations[rows] += 1
            settled[rows] = step.abs().amax(-1) <= ROUNDINGS * torch.finfo(y.dtype).eps * y[rows].abs().amax(-1)
            improved = _line_search(residual, y, r, step, rows)
            error[rows] = _error(r[rows], scale[rows])
            rows = rows[improved & ~settled[rows] & (error[rows] > tol)]
    return Solution(y, (error <= tol) | settled, iterations, error, smallest_pivot)


def differentiable(residual: Callable[..., Tensor], solution: Solution, inputs: tuple[Tensor, ...]) -> Tensor:
    """``solution.y`` as a function of the inputs and of all that ``residual`` closes over.

    By the implicit function theorem: one Newton step more with its matrix held fixed has the solution's own
    derivative. Where a sample has not converged, or its matrix is singular at the solution, it is constant.

    Args:
        residual: residual(y, rows, *inputs), each input's rows taken already.
        solution: what ``solve`` found.
        inputs: each (batch, ...). They enter by their Jacobians, so that no autograd pass of a later step walks back
            through the steps before it.
    """
    rows = solution.converged.nonzero().squeeze(-1)
    y = solution.y[rows].requires_grad_()
    leaves = [given.detach()[rows].requires_grad_() for given in inputs]
    r = residual(y, rows, *leaves)
    matrix = jacobian(r, y, create_graph=False)
    change = r
    for given, leaf in zip(inputs, leaves, strict=True):
        if given.requires_grad:
            difference = (given[rows] - leaf.detach()).unsqueeze(-1)
            change = change + (jacobian(r, leaf, create_graph=False) @ difference).squeeze(-1)
    regular = (torch.linalg.lu_factor_ex(matrix).info == 0).nonzero().squeeze(-1)
    correction = torch.linalg.solve_ex(matrix[regular], change[regular].unsqueeze(-1))[0].squeeze(-1)
    return solution.y.index_add(0, rows[regular], correction, alpha=-1)


def _error(r: Tensor, scale: Tensor) -> Tensor:
    return r.abs().amax(-1) / scale


def _matrix(residual: Residual, y: Tensor, rows: Tensor) -> Tensor:
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        return jacobian(residual(y, rows), y, create_graph=False)


def _newton_step(residual: Residual, y: Tensor, r: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Newton steps (rows, n), not finite where the matrix is singular, and the smallest pivots (rows,)."""
    matrix = _matrix(residual, y, rows)
    factors, permutation, _ = torch.linalg.lu_factor_ex(matrix)
    smallest, largest = factors.diagonal(dim1=-2, dim2=-1).abs().amin(-1), matrix.abs().amax((-2, -1))
    pivots = torch.where(largest > 0, smallest / largest, 0)
    return -torch.linalg.lu_solve(factors, permutation, r.unsqueeze(-1)).squeeze(-1), pivots


def _line_search(residual: Residual, y: Tensor, r: Tensor, step: Tensor, rows: Tensor) -> Tensor:
    """Halve each sample's step until the residual's norm falls, and take it in ``y`` and ``r``; whether it did."""
    improved = torch.isfinite(step).all(-1)
    open_ = improved.nonzero().squeeze(-1)
    length = 1.0
    for _ in range(HALVINGS):
        if len(open_) == 0:
            break
        samples = rows[open_]
        candidate = y[samples] + length * step[open_]
        found = residual(candidate, samples)
        falls = found.norm(dim=-1) <= (1 - DECREASE * length) * r[samples].norm(dim=-1)  # false for NaN
        y[samples[falls]], r[samples[falls]] = candidate[falls], found[falls]
        open_ = open_[~falls]
        length /= 2
    improved[open_] = False
    return improved
