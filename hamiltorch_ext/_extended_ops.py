"""Torch operators over the native kernels of Tao's extended phase space: schemas, fakes, CPU and CUDA implementations,
autograd. As in ``_implicit_ops``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _C, _cuda_extended
from ._cuda_block import apart
from ._cuda_implicit import Equations
from ._implicit_ops import Gradients, gradients_along
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
from .mlp import MLP

__all__ = ["extended_rollout"]

library.define(
    "extended_rollout(Tensor z0, Tensor dt, Tensor[] weights, Tensor[] biases, Tensor? condition, str activation, "
    "SymInt steps, float binding, bool recorded) -> (Tensor, Tensor, Tensor)"
)
library.define(
    "extended_rollout_backward(Tensor grad_trajectory, Tensor points, Tensor turned, Tensor dt, Tensor[] weights, "
    "Tensor[] biases, Tensor? condition, str activation, float binding) "
    "-> (Tensor, Tensor, Tensor[], Tensor[], Tensor)"
)
_rollout = torch.ops.hamiltorch.extended_rollout.default
_rollout_backward = torch.ops.hamiltorch.extended_rollout_backward.default

Results = tuple[Tensor, Tensor, Tensor]


def extended_rollout(mlp: MLP, z0: Tensor, dt: Tensor, steps: int, condition: Tensor | None, binding: float) -> Tensor:
    """Trajectory of z0 (batch, dim), differentiable once."""
    biases = zeros_for_none(mlp)
    recorded = wants_gradient(z0, dt, condition, *mlp.weights, *biases)
    trajectory: Tensor = _rollout(
        z0, dt, list(mlp.weights), biases, condition, mlp.activation, steps, binding, recorded
    )[0]
    return trajectory


def _native_call(
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    steps: int,
) -> NativeCall:
    # Like leapfrog it takes three gradients a step, which is all that the kernels ask of its stages.
    return NativeCall(z0, dt, weights, biases, condition, activation, "leapfrog", steps, "float32")


@torch.library.impl(library, "extended_rollout", "CPU")
def _rollout_cpu(
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    steps: int,
    binding: float,
    recorded: bool,
) -> Results:
    call = _native_call(z0, dt, weights, biases, condition, activation, steps)
    results = trajectory, points, turned = _empty(z0, steps, recorded)
    assert _C.extended_points(steps) == _points(steps)  # as many as the kernel writes
    z0 = z0.contiguous()
    kept = (points.data_ptr(), turned.data_ptr()) if recorded else (0, 0)
    _C.extended_forward(call.rollout, binding, z0.data_ptr(), trajectory.data_ptr(), *kept, torch.get_num_threads())
    return results


@torch.library.impl(library, "extended_rollout", "CUDA")
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
    steps: int,
    binding: float,
    recorded: bool,
) -> Results:
    """The operator by the CUDA kernels of ``native``: ``_C``, or the emulator of the tests."""
    check_call(z0, dt, weights, biases, condition, steps, "float32")
    results = _empty(z0, steps, recorded)
    equations = Equations(dt, weights, biases, condition, activation, "extended")
    with apart(z0):
        _cuda_extended.rollout(native, equations, z0, binding, results)
    return results


def _rollout_fake(
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    steps: int,
    binding: float,
    recorded: bool,
) -> Results:
    return _empty(z0, steps, recorded)


@torch.library.impl(library, "extended_rollout_backward", "CPU")
def _rollout_backward_cpu(
    grad_trajectory: Tensor,
    points: Tensor,
    turned: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    binding: float,
) -> Gradients:
    _check_adjoint(grad_trajectory, points, turned)
    batch, states, _ = grad_trajectory.shape
    grads = empty_gradients(grad_trajectory, dt, weights, biases, condition)
    grad_z0, grad_dt, *_ = grads
    grad_trajectory, points, turned = (x.contiguous() for x in (grad_trajectory, points, turned))
    z = grad_trajectory[:, 0]
    call = _native_call(z, dt, weights, biases, condition, activation, states - 1)
    directions = torch.empty_like(points)
    grad_angle = points.new_empty(batch, dtype=torch.float64)
    _C.extended_adjoint(
        call.rollout,
        binding,
        points.data_ptr(),
        turned.data_ptr(),
        grad_trajectory.data_ptr(),
        directions.data_ptr(),
        grad_z0.data_ptr(),
        grad_angle.data_ptr(),
        torch.get_num_threads(),
    )
    # Parameters see a rollout as its points and directions: the same as a rollout of so many stages, one a step.
    count = points.shape[1]
    stages = NativeCall(z, dt, weights, biases, condition, activation, "implicit_midpoint", count, "float32")
    gradients_along(stages, points, points.new_ones(batch, count, dtype=torch.bool), directions, grads)
    grad_dt += 2 * binding * grad_angle.sum().to(grad_dt.dtype)
    return grads


@torch.library.impl(library, "extended_rollout_backward", "CUDA")
def _rollout_backward_cuda(*arguments: Any) -> Gradients:
    return rollout_backward_by_cuda(_C, *arguments)


def rollout_backward_by_cuda(
    native: Any,
    grad_trajectory: Tensor,
    points: Tensor,
    turned: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    binding: float,
) -> Gradients:
    """The backward operator likewise."""
    _check_adjoint(grad_trajectory, points, turned)
    check_call(grad_trajectory[:, 0], dt, weights, biases, condition, grad_trajectory.shape[1] - 1, "float32")
    grads = empty_gradients(grad_trajectory, dt, weights, biases, condition)
    for grad in (grads[1], *grads[2], *grads[3], grads[4]):
        grad.zero_()
    equations = Equations(dt, weights, biases, condition, activation, "extended")
    with apart(points):
        _cuda_extended.rollout_backward(native, equations, grad_trajectory, points, turned, binding, grads)
    return grads


def _rollout_backward_fake(
    grad_trajectory: Tensor,
    points: Tensor,
    turned: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    binding: float,
) -> Gradients:
    return empty_gradients(grad_trajectory, dt, weights, biases, condition)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
    _, dt, weights, biases, condition, ctx.activation, _, ctx.binding, _ = inputs
    ctx.layers = len(weights)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:], dt, *weights, *biases, condition)


def _backward(ctx: Any, grad_trajectory: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    points, turned, dt, *parameters, condition = ctx.saved_tensors
    if grad_trajectory is None:
        nothing = [None] * ctx.layers
        return (None, None, nothing, nothing, *(None,) * 5)
    weights, biases = parameters[: ctx.layers], parameters[ctx.layers :]
    grad_z0, grad_dt, grad_weights, grad_biases, grad_condition = _rollout_backward(
        grad_trajectory, points, turned, dt, weights, biases, condition, ctx.activation, ctx.binding
    )
    by_condition = None if condition is None else grad_condition
    return (grad_z0, grad_dt, list(grad_weights), list(grad_biases), by_condition, *(None,) * 4)


torch.library.register_fake("hamiltorch::extended_rollout", _rollout_fake, lib=library)
torch.library.register_fake("hamiltorch::extended_rollout_backward", _rollout_backward_fake, lib=library)
torch.library.register_autograd(
    "hamiltorch::extended_rollout", _backward, setup_context=_save_for_backward, lib=library
)
torch.library.register_autograd("hamiltorch::extended_rollout_backward", no_second_derivative, lib=library)


def _points(steps: int) -> int:
    """Of a sample's rollout: where the kernels take the gradient, as hamiltorch/extended.h counts them."""
    points: int = 3 * steps + torch.sym_min(steps, 1)
    return points


def _empty(z0: Tensor, steps: int, recorded: bool) -> Results:
    """Trajectory, points and turned (both empty where nothing is recorded)."""
    rows, dim = z0.shape
    return (
        z0.new_empty(rows, steps + 1, dim),
        z0.new_empty((rows, _points(steps), dim) if recorded else (0,)),
        z0.new_empty((rows, steps, dim) if recorded else (0,)),
    )


def _check_adjoint(grad_trajectory: Tensor, points: Tensor, turned: Tensor) -> None:
    check_cotangents(grad_trajectory)
    batch, states, dim = grad_trajectory.shape
    check_kept("points", points, (batch, _points(states - 1), dim), grad_trajectory)
    check_kept("turned", turned, (batch, states - 1, dim), grad_trajectory)
