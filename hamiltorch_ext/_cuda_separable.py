"""Rollouts of H = T(p) + V(q) on a GPU: the calls of the CUDA kernels, and the products around them, as
``_cuda_implicit`` has them of implicit stages. ``native`` is ``hamiltorch_ext._C``, or the emulator of the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import cuda_plans
from ._cuda_block import BlockCall, network_arguments
from ._cuda_implicit import Equations, add_gradients
from .integrators import integrator

__all__ = ["System", "rollout", "rollout_backward"]

Pair = tuple[Tensor, Tensor]  # of V, and of T


class System(NamedTuple):
    """What a rollout depends on beside the state: V's weights and biases, T's, or 1 / m (d,) where those are empty."""

    dt: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    kinetic_weights: Sequence[Tensor]
    kinetic_biases: Sequence[Tensor]
    inverse_mass: Tensor | None
    condition: Tensor | None
    activation: str
    method: str

    @property
    def networks(self) -> list[tuple[Sequence[Tensor], Sequence[Tensor]]]:
        """V's weights and biases; then T's, unless it has masses."""
        both = [(self.weights, self.biases), (self.kinetic_weights, self.kinetic_biases)]
        return both[:1] if self.inverse_mass is not None else both


def rollout(native: Any, system: System, z0: Tensor, results: tuple[Tensor, Tensor, Tensor]) -> None:
    """Writes trajectory and the points of V and of T (both empty where they are not wanted)."""
    if len(z0):
        call = _call(native, system, z0, results[0].shape[1] - 1)
        call(native.cuda_separable_forward, z0.contiguous(), *results)


def rollout_backward(
    native: Any,
    system: System,
    grad_trajectory: Tensor,
    points: Pair,
    grad_z0: Tensor,
    grad_dt: Tensor,
    by_networks: Sequence[tuple[list[Tensor], list[Tensor]]],
    grad_condition: Tensor,
) -> Tensor:
    """Writes the gradient by z0, adds those by dt, the networks' parameters and the condition, and returns the
    directions at T's points."""
    directions = torch.empty_like(points[0]), torch.empty_like(points[1])
    if not len(grad_z0):
        return directions[1]
    call = _call(native, system, grad_z0, grad_trajectory.shape[1] - 1)
    call(native.cuda_separable_adjoint, *points, grad_trajectory, *directions, grad_z0)
    dt, condition = system.dt, system.condition
    for (weights, biases), grads, at, along in zip(system.networks, by_networks, points, directions, strict=False):
        equations = Equations(dt, weights, biases, condition, system.activation, system.method)
        by_condition = torch.empty_like(grad_condition)
        stages = at[:, :, None], at.new_ones(at.shape[:2], dtype=torch.bool), along[:, :, None]
        add_gradients(equations, *stages, grad_dt, *grads, by_condition)
        grad_condition += by_condition
    return directions[1]


def _call(native: Any, system: System, z0: Tensor, steps: int) -> BlockCall:
    batch, dim = z0.shape
    hidden = tuple(tuple(weight.shape[0] for weight in weights[:-1]) for weights, _ in system.networks)
    plan = cuda_plans.separable_plan(native, dim // 2, hidden, batch, z0.dtype == torch.float64, z0.device.index or 0)
    described, kept = [], [system.dt]
    for weights, biases in system.networks:
        arguments, tensors = network_arguments(
            weights, biases, system.activation, system.condition, dim // 2, order=(0,)
        )
        described.append(arguments)
        kept += tensors
    inverse_mass = None if system.inverse_mass is None else system.inverse_mass.contiguous()
    if inverse_mass is not None:
        kept.append(inverse_mass)
    stages = [(stage.mask, stage.coefficient) for stage in integrator(system.method).separable_stages]
    description = native.CudaSeparableRollout(
        described[0],
        described[1] if inverse_mass is None else None,
        0 if inverse_mass is None else inverse_mass.data_ptr(),
        stages,
        system.dt.data_ptr(),
        steps,
        batch,
    )
    return BlockCall(plan, description, kept)
