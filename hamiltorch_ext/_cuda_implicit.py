"""Rollouts by implicit stages on a GPU: the calls of the CUDA kernels, and the products around them.

The kernels take the samples through all steps and, for the adjoint, back to the directions of every stage
(``csrc/include/hamiltorch/implicit.h``). The parameters' gradients along those are few and large products, and torch's
own: stages of all samples and steps at once.

``native`` is ``hamiltorch_ext._C``, or the emulator of the tests: nothing here depends on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import cuda_plans
from ._cuda_block import BlockCall, network_arguments
from .activations import ACTIVATIONS
from .integrators import integrator

__all__ = ["Equations", "add_gradients", "rollout", "rollout_backward"]

GRADIENT_BYTES = 1 << 30  # beyond which the gradients' stages go in parts


class Equations(NamedTuple):
    """What the equations depend on beside the state: condition (batch, condition_dim), weights and biases of an MLP."""

    dt: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    condition: Tensor | None
    activation: str
    method: str


def rollout(
    native: Any, equations: Equations, z0: Tensor, tol: float, max_iterations: int, results: tuple[Tensor, ...]
) -> None:
    """Writes trajectory, points (empty: they are not wanted), converged, iterations and residual."""
    if len(z0):
        call = _call(native, equations, z0, results[0].shape[1] - 1, tol, max_iterations)
        call(native.cuda_implicit_forward, z0.contiguous(), *results)


def rollout_backward(
    native: Any,
    equations: Equations,
    grad_trajectory: Tensor,
    points: Tensor,
    converged: Tensor,
    grads: tuple[Tensor, Tensor, list[Tensor], list[Tensor], Tensor],
) -> None:
    """Writes the gradients by z0, dt, weights, biases and condition. All but those by z0 are zero before."""
    grad_z0, grad_dt, grad_weights, grad_biases, grad_condition = grads
    if not len(grad_z0):
        return
    grad_trajectory, points, converged = (x.contiguous() for x in (grad_trajectory, points, converged))
    directions = torch.empty_like(points)
    call = _call(native, equations, grad_z0, grad_trajectory.shape[1] - 1, 0.0, 0)
    call(native.cuda_implicit_adjoint, points, converged, grad_trajectory, directions, grad_z0)
    add_gradients(equations, points, converged, directions, grad_dt, grad_weights, grad_biases, grad_condition)


def _call(native: Any, equations: Equations, z0: Tensor, steps: int, tol: float, max_iterations: int) -> BlockCall:
    batch, dim = z0.shape
    dt, weights, biases, condition, activation, method = equations
    hidden = tuple(weight.shape[0] for weight in weights[:-1])
    plan = cuda_plans.implicit_plan(
        native, dim // 2, hidden, batch, method, z0.dtype == torch.float64, z0.device.index or 0
    )
    arguments, kept = network_arguments(weights, biases, activation, condition, dim // 2)
    stages = [(stage.coefficient, stage.at_q, stage.at_p) for stage in integrator(method).stages]
    description = native.CudaImplicitRollout(*arguments, stages, dt.data_ptr(), steps, batch, tol, max_iterations)
    return BlockCall(plan, description, [*kept, dt])


def add_gradients(
    equations: Equations,
    points: Tensor,
    converged: Tensor,
    directions: Tensor,
    grad_dt: Tensor,
    grad_weights: list[Tensor],
    grad_biases: list[Tensor],
    grad_condition: Tensor,
) -> None:
    """Adds those of S = dt sum u . H_z(w) over all stages, the points w and directions u held fixed.

    dt u . H_z(w) is the change of dt H in the direction u: each layer passes on its value and that value's change, and
    on the way back the derivatives of H and their changes.
    """
    weights, condition = equations.weights, equations.condition
    act = ACTIVATIONS[equations.activation]
    batch, steps, stages, dim = points.shape
    # Where a step has failed, its points may be anything, and the condition as well; so may dt.
    used = converged.view(batch, steps, 1, 1).expand(-1, -1, stages, 1)
    w, u = torch.where(used, points, 0).view(-1, dim), directions.view(-1, dim)
    factor = torch.where(used, equations.dt, 0).view(-1, 1)
    c = None
    if condition is not None:
        c = torch.where(used, condition[:, None, None], 0).view(-1, condition.shape[1])
        by_row = torch.empty_like(c)
    by_state, by_condition = weights[0].split((dim, weights[0].shape[1] - dim), dim=1)
    numbers = 8 * (dim + sum(weight.shape[0] for weight in weights[:-1]))  # of a row
    most = max(1, GRADIENT_BYTES // (numbers * points.element_size()))
    for first in range(0, len(w), most):
        part = slice(first, first + most)
        h, dh = w[part], u[part]
        a, da = torch.addmm(equations.biases[0], h, by_state.T), dh @ by_state.T
        if c is not None:
            a.addmm_(c[part], by_condition.T)
        passed, slopes = [(h, dh)], []  # what enters each layer; s'(a), and its change
        for weight, bias in zip(weights[1:-1], equations.biases[1:-1], strict=True):
            slopes.append((act.derivative(a), act.second(a) * da))
            h, dh = act.value(a), slopes[-1][0] * da
            passed.append((h, dh))
            a, da = torch.addmm(bias, h, weight.T), dh @ weight.T
        slopes.append((act.derivative(a), act.second(a) * da))
        dh = slopes[-1][0] * da
        grad_dt += (dh @ weights[-1].T).sum()
        grad_weights[-1] += (dh * factor[part]).sum(0)
        back, dback = factor[part] * weights[-1], torch.zeros((), dtype=w.dtype, device=w.device)
        for layer in reversed(range(len(slopes))):
            slope, dslope = slopes[layer]
            delta, ddelta = back * slope, back * dslope + dback * slope
            h, dh = passed[layer]
            grad = grad_weights[layer][:, : h.shape[1]]
            grad.addmm_(ddelta.T, h).addmm_(delta.T, dh)
            grad_biases[layer] += ddelta.sum(0)
            if layer:
                back, dback = delta @ weights[layer], ddelta @ weights[layer]
        if c is not None:
            grad_weights[0][:, dim:].addmm_(ddelta.T, c[part])
            torch.mm(ddelta, by_condition, out=by_row[part])
    if c is not None:
        torch.sum(by_row.view(batch, steps * stages, c.shape[1]), 1, out=grad_condition)
