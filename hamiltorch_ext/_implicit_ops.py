"""Torch operators over the native kernels of implicit stages: schemas, fakes, CPU and CUDA implementations, autograd.

As in ``_ops``, both operators are functional, and the backward is an operator of its own, so that ``torch.compile``
traces them without looking inside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _C, _cuda_implicit
from ._addresses import address
from ._cuda_block import apart
from ._ops import (
    NativeCall,
    check_call,
    check_cotangents,
    check_kept,
    empty_gradients,
    library,
    no_second_derivative,
    wants_gradient,
    zeros_for_none,
)
from .integrators import integrator
from .mlp import MLP
from .reference import RolloutInfo

__all__ = ["Gradients", "check_limit", "gradients_along", "implicit_rollout"]

library.define(
    "implicit_rollout(Tensor z0, Tensor dt, Tensor[] weights, Tensor[] biases, Tensor? condition, str activation, "
    "str method, SymInt steps, float tol, int max_iterations, bool recorded) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
library.define(
    "implicit_rollout_backward(Tensor grad_trajectory, Tensor points, Tensor converged, Tensor dt, Tensor[] weights, "
    "Tensor[] biases, Tensor? condition, str activation, str method) -> (Tensor, Tensor, Tensor[], Tensor[], Tensor)"
)
_rollout = torch.ops.hamiltorch.implicit_rollout.default
_rollout_backward = torch.ops.hamiltorch.implicit_rollout_backward.default

Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, list[Tensor], list[Tensor], Tensor]


def implicit_rollout(
    mlp: MLP,
    z0: Tensor,
    dt: Tensor,
    steps: int,
    method: str,
    condition: Tensor | None,
    tol: float,
    max_iterations: int,
) -> tuple[Tensor, RolloutInfo]:
    """Trajectory of z0 (batch, dim), differentiable once, and what became of its steps."""
    biases = zeros_for_none(mlp)
    recorded = wants_gradient(z0, dt, condition, *mlp.weights, *biases)
    trajectory, _, converged, iterations, residual = _rollout(
        z0, dt, list(mlp.weights), biases, condition, mlp.activation, method, steps, tol, max_iterations, recorded
    )
    return trajectory, RolloutInfo(converged, iterations, residual)


@torch.library.impl(library, "implicit_rollout", "CPU")
def _rollout_cpu(
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    method: str,
    steps: int,
    tol: float,
    max_iterations: int,
    recorded: bool,
) -> Results:
    check_limit(max_iterations)
    results = trajectory, points, converged, iterations, residual = _empty(z0, method, steps, recorded)
    z0 = z0.contiguous()
    call = NativeCall(z0, dt, weights, biases, condition, activation, method, steps, "float32")
    _C.implicit_forward(
        call.rollout,
        tol,
        max_iterations,
        z0.data_ptr(),
        trajectory.data_ptr(),
        points.data_ptr() if recorded else 0,
        converged.data_ptr(),
        iterations.data_ptr(),
        residual.data_ptr(),
        torch.get_num_threads(),
    )
    return results


@torch.library.impl(library, "implicit_rollout", "CUDA")
def _rollout_cuda(*arguments: Any) -> Results:
    return rollout_by_cuda(_C, *arguments)


def rollout_by_cuda(
    native: Any,
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    method: str,
    steps: int,
    tol: float,
    max_iterations: int,
    recorded: bool,
) -> Results:
    """The operator by the CUDA kernels of ``native``: ``_C``, or the emulator of the tests."""
    check_call(z0, dt, weights, biases, condition, steps, "float32")
    check_limit(max_iterations)
    results = _empty(z0, method, steps, recorded)
    equations = _cuda_implicit.Equations(dt, weights, biases, condition, activation, method)
    with apart(z0):
        _cuda_implicit.rollout(native, equations, z0, tol, max_iterations, results)
    return results


def _rollout_fake(
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    method: str,
    steps: int,
    tol: float,
    max_iterations: int,
    recorded: bool,
) -> Results:
    return _empty(z0, method, steps, recorded)


@torch.library.impl(library, "implicit_rollout_backward", "CPU")
def _rollout_backward_cpu(
    grad_trajectory: Tensor,
    points: Tensor,
    converged: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    method: str,
) -> Gradients:
    _check_adjoint(grad_trajectory, points, converged, method)
    states = grad_trajectory.shape[1]
    grads = empty_gradients(grad_trajectory, dt, weights, biases, condition)
    grad_trajectory, points, converged = (x.contiguous() for x in (grad_trajectory, points, converged))
    call = NativeCall(grad_trajectory[:, 0], dt, weights, biases, condition, activation, method, states - 1, "float32")
    directions = torch.empty_like(points)
    _C.implicit_adjoint(
        call.rollout,
        points.data_ptr(),
        converged.data_ptr(),
        grad_trajectory.data_ptr(),
        directions.data_ptr(),
        grads[0].data_ptr(),
        torch.get_num_threads(),
    )
    gradients_along(call, points, converged, directions, grads)
    return grads


def gradients_along(call: NativeCall, points: Tensor, converged: Tensor, directions: Tensor, grads: Gradients) -> None:
    """Writes the gradients by all but z0: those of dt sum u . dH/dz(w) over points w and directions u.

    Both are (batch, steps, stages, dim) or, of one stage, (batch, steps, dim), by the call's steps and method.
    """
    _, grad_dt, grad_weights, grad_biases, grad_condition = grads
    grad_biases[-1].zero_()  # no gradient of H has the last bias
    if points.numel() == 0:
        for grad in (grad_dt, *grad_weights, *grad_biases, grad_condition):
            grad.zero_()
        return
    by_stage = None if call.condition is None else points.new_empty(*points.shape[:-1], call.condition.shape[1])
    _C.implicit_gradient(
        call.rollout,
        points.data_ptr(),
        converged.data_ptr(),
        directions.data_ptr(),
        [grad.data_ptr() for grad in grad_weights],
        [grad.data_ptr() for grad in grad_biases[:-1]],
        grad_dt.data_ptr(),
        address(by_stage),
        torch.get_num_threads(),
    )
    if by_stage is not None:
        torch.sum(by_stage.flatten(1, -2), 1, out=grad_condition)


@torch.library.impl(library, "implicit_rollout_backward", "CUDA")
def _rollout_backward_cuda(*arguments: Any) -> Gradients:
    return rollout_backward_by_cuda(_C, *arguments)


def rollout_backward_by_cuda(
    native: Any,
    grad_trajectory: Tensor,
    points: Tensor,
    converged: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    method: str,
) -> Gradients:
    """The backward operator likewise."""
    _check_adjoint(grad_trajectory, points, converged, method)
    check_call(grad_trajectory[:, 0], dt, weights, biases, condition, grad_trajectory.shape[1] - 1, "float32")
    grads = empty_gradients(grad_trajectory, dt, weights, biases, condition)
    for grad in (grads[1], *grads[2], *grads[3], grads[4]):
        grad.zero_()
    equations = _cuda_implicit.Equations(dt, weights, biases, condition, activation, method)
    with apart(points):
        _cuda_implicit.rollout_backward(native, equations, grad_trajectory, points, converged, grads)
    return grads


def _rollout_backward_fake(
    grad_trajectory: Tensor,
    points: Tensor,
    converged: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    method: str,
) -> Gradients:
    return empty_gradients(grad_trajectory, dt, weights, biases, condition)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
    _, dt, weights, biases, condition, ctx.activation, ctx.method, *_ = inputs
    ctx.layers = len(weights)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(output[1], output[2], dt, *weights, *biases, condition)


def _backward(ctx: Any, grad_trajectory: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    points, converged, dt, *parameters, condition = ctx.saved_tensors
    if grad_trajectory is None:
        nothing = [None] * ctx.layers
        return (None, None, nothing, nothing, *(None,) * 7)
    weights, biases = parameters[: ctx.layers], parameters[ctx.layers :]
    grad_z0, grad_dt, grad_weights, grad_biases, grad_condition = _rollout_backward(
        grad_trajectory, points, converged, dt, weights, biases, condition, ctx.activation, ctx.method
    )
    return (
        grad_z0,
        grad_dt,
        list(grad_weights),
        list(grad_biases),
        None if condition is None else grad_condition,
        *(None,) * 6,
    )


torch.library.register_fake("hamiltorch::implicit_rollout", _rollout_fake, lib=library)
torch.library.register_fake("hamiltorch::implicit_rollout_backward", _rollout_backward_fake, lib=library)
torch.library.register_autograd(
    "hamiltorch::implicit_rollout", _backward, setup_context=_save_for_backward, lib=library
)
torch.library.register_autograd("hamiltorch::implicit_rollout_backward", no_second_derivative, lib=library)


def _empty(z0: Tensor, method: str, steps: int, recorded: bool) -> Results:
    """Trajectory, points (empty where nothing is recorded), converged, iterations, residual."""
    rows, dim = z0.shape
    stages = len(integrator(method).stages)
    return (
        z0.new_empty(rows, steps + 1, dim),
        z0.new_empty((rows, steps, stages, dim) if recorded else (0,)),
        z0.new_empty(rows, steps, dtype=torch.bool),
        z0.new_empty(rows, steps, dtype=torch.int64),
        z0.new_empty(rows, steps),
    )


def check_limit(max_iterations: int) -> None:
    """ValueError unless it is a number of iterations."""
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be one or more, got {max_iterations}")


def _check_adjoint(grad_trajectory: Tensor, points: Tensor, converged: Tensor, method: str) -> None:
    check_cotangents(grad_trajectory)
    batch, states, dim = grad_trajectory.shape
    shape = (batch, states - 1, len(integrator(method).stages), dim)
    check_kept("points", points, shape, grad_trajectory)
    check_kept("converged", converged, shape[:2], grad_trajectory, torch.bool)
