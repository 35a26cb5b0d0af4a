"""Rollouts in Tao's extended phase space on a GPU: the calls of the CUDA kernels, as ``_cuda_implicit`` has them of
implicit stages.

The parameters see a rollout as the points where its gradients are taken and a direction at each, which is what they see
of implicit stages.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import cuda_plans
from ._cuda_block import BlockCall, network_arguments
from ._cuda_implicit import Equations, add_gradients

__all__ = ["rollout", "rollout_backward"]


def rollout(
    native: Any, equations: Equations, z0: Tensor, binding: float, results: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Writes trajectory, points and turned (both empty where they are not wanted)."""
    if len(z0):
        call = _call(native, equations, z0, results[0].shape[1] - 1, binding)
        call(native.cuda_extended_forward, z0.contiguous(), *results)


def rollout_backward(
    native: Any,
    equations: Equations,
    grad_trajectory: Tensor,
    points: Tensor,
    turned: Tensor,
    binding: float,
    grads: tuple[Tensor, Tensor, list[Tensor], list[Tensor], Tensor],
) -> None:
    """Writes the gradients by z0, dt, weights, biases and condition. All but those by z0 are zero before."""
    grad_z0, grad_dt, grad_weights, grad_biases, grad_condition = grads
    if not len(grad_z0):
        return
    grad_trajectory, points, turned = (x.contiguous() for x in (grad_trajectory, points, turned))
    directions = torch.empty_like(points)
    grad_angle = points.new_empty(len(points), dtype=torch.float64)
    call = _call(native, equations, grad_z0, grad_trajectory.shape[1] - 1, binding)
    call(native.cuda_extended_adjoint, points, turned, grad_trajectory, directions, grad_z0, grad_angle)
    stages = points[:, :, None], points.new_ones(points.shape[:2], dtype=torch.bool), directions[:, :, None]
    add_gradients(equations, *stages, grad_dt, grad_weights, grad_biases, grad_condition)
    grad_dt += 2 * binding * grad_angle.sum().to(grad_dt.dtype)


def _call(native: Any, equations: Equations, z0: Tensor, steps: int, binding: float) -> BlockCall:
    batch, dim = z0.shape
    dt, weights, biases, condition, activation, _ = equations
    hidden = tuple(weight.shape[0] for weight in weights[:-1])
    plan = cuda_plans.extended_plan(native, dim // 2, hidden, batch, z0.dtype == torch.float64, z0.device.index or 0)
    arguments, kept = network_arguments(weights, biases, activation, condition, dim // 2)
    description = native.CudaExtendedRollout(*arguments, binding, dt.data_ptr(), steps, batch)
    return BlockCall(plan, description, [*kept, dt])
