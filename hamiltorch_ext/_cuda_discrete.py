"""Rollouts by the discrete gradient on a GPU: the calls of the CUDA kernels, as ``_cuda_implicit`` has them of implicit
stages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import cuda_plans
from ._addresses import address, contiguous
from ._cuda_block import BlockCall, network_arguments
from ._cuda_implicit import Equations

__all__ = ["rollout", "rollout_backward"]

Ports = tuple[Tensor | None, Tensor | None, Tensor | None]  # dissipation, forces, decay


def rollout(
    native: Any,
    equations: Equations,
    ports: Ports,
    z0: Tensor,
    tol: float,
    max_iterations: int,
    results: tuple[Tensor, ...],
) -> None:
    """Writes trajectory, changes (empty: they are not wanted), converged, iterations and residual."""
    if len(z0):
        call = _call(native, equations, ports, z0, results[0].shape[1] - 1, tol, max_iterations)
        call(native.cuda_discrete_forward, z0.contiguous(), *results)


def rollout_backward(native: Any, equations: Equations, ports: Ports, *arrays: Tensor | None) -> None:
    """Writes what ``DiscreteAdjointArrays`` (hamiltorch/discrete_gradient.h) has of results; the arrays are in its
    order."""
    trajectory = arrays[0]
    assert trajectory is not None
    if len(trajectory):
        call = _call(native, equations, ports, trajectory[:, 0], trajectory.shape[1] - 1, 0.0, 0)
        call(native.cuda_discrete_adjoint, *arrays)


def _call(
    native: Any, equations: Equations, ports: Ports, z0: Tensor, steps: int, tol: float, max_iterations: int
) -> BlockCall:
    batch, dim = z0.shape
    dt, weights, biases, condition, activation, _ = equations
    hidden = tuple(weight.shape[0] for weight in weights[:-1])
    plan = cuda_plans.discrete_plan(native, dim // 2, hidden, batch, z0.dtype == torch.float64, z0.device.index or 0)
    arguments, kept = network_arguments(weights, biases, activation, condition, dim // 2)
    head_bias, dissipation, forces, decay = others = [contiguous(part) for part in (biases[-1], *ports)]
    columns = dissipation.shape[1] if dissipation is not None and dissipation.ndim == 2 else 0
    ported = address(dissipation), columns, address(forces), address(decay)
    description = native.CudaDiscreteRollout(
        *arguments, address(head_bias), *ported, dt.data_ptr(), steps, batch, tol, max_iterations
    )
    return BlockCall(plan, description, [*kept, dt, *(part for part in others if part is not None)])
