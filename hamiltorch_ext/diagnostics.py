"""Measures of what a rollout keeps: energy, the symplectic form, reversibility. Computed, never assumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import reference
from .rollouts import rollout

__all__ = ["EnergyDrift", "energy_drift", "reversibility_error", "step_jacobian", "symplectic_defect"]


class EnergyDrift(NamedTuple):
    """Largest |H(t) - H(0)| per trajectory, and the same divided by the spread of H over the data; both (...)."""

    absolute: Tensor
    relative: Tensor


def energy_drift(energies: Tensor, scale: float | Tensor | None = None) -> EnergyDrift:
    """Energy drift of rollouts, absolute and scale-free.

    (H, dt) and (c H, dt / c) generate the same map, so the absolute drift can be lowered by shrinking H; the relative
    one cannot.

    Args:
        energies: H along each trajectory, (..., steps + 1), as ``leapfrog_rollout(return_energy=True)`` returns it.
        scale: the standard deviation of H over the data. By default that of the initial energies given here; then
            there must be two trajectories or more.

    Source: H-JEPA section 5.1 (absolute).
    """
    if energies.ndim == 0 or energies.shape[-1] == 0:
        raise ValueError(f"energies must have shape (..., steps + 1), got {tuple(energies.shape)}")
    if scale is None:
        initial = energies[..., 0].flatten()
        if initial.numel() < 2:
            raise ValueError("scale must be given for fewer than two trajectories (it is the spread of H over data)")
        scale = initial.std()
    absolute = (energies - energies[..., :1]).abs().amax(dim=-1)
    return EnergyDrift(absolute, absolute / scale)


def step_jacobian(H: Callable[..., Tensor], z: Tensor, dt: float, method: str = "leapfrog") -> Tensor:
    """Jacobian A = d(one step)/dz at each z, by autograd on the reference path; z (..., 2d) -> (..., 2d, 2d)."""

    def step(flat: Tensor) -> Tensor:
        result = reference.rollout(H, flat, dt, 1, method=method)
        assert isinstance(result, Tensor)
        return result[:, 1].sum(dim=0)

    flat = z.detach().reshape(-1, z.shape[-1])
    # Rows of a batch do not interact, so the Jacobian of the sum over the batch holds every sample's own Jacobian.
    jacobian = torch.autograd.functional.jacobian(step, flat)
    assert isinstance(jacobian, Tensor)
    return jacobian.movedim(0, 1).reshape(*z.shape, z.shape[-1])


def symplectic_defect(H: Callable[..., Tensor], z: Tensor, dt: float, method: str = "leapfrog") -> Tensor:
    """Frobenius norm of A^T J A - J for one step at each z, shape (...); zero for a symplectic map.

    Compute it in float64: at small dt or weak curvature the defect of an explicit method on a non-separable H lies
    below float32's resolution, which is not the same as being symplectic.
    """
    jacobian = step_jacobian(H, z, dt, method)
    d = z.shape[-1] // 2
    identity = torch.eye(d, dtype=z.dtype, device=z.device)
    zero = torch.zeros_like(identity)
    J = torch.cat((torch.cat((zero, identity), 1), torch.cat((-identity, zero), 1)), 0)
    defect: Tensor = torch.linalg.matrix_norm(jacobian.mT @ J @ jacobian - J)
    return defect


def reversibility_error(H: Any, z0: Tensor, dt: float, steps: int, method: str = "leapfrog") -> Tensor:
    """Distance from z0 (..., 2d) after ``steps`` steps of dt and as many of -dt, Euclidean norm, shape (...).

    A symmetric method returns to rounding; explicit leapfrog does so for separable H only.
    """
    there = rollout(H, z0, dt, steps, method=method)
    back = rollout(H, there[..., -1, :], -dt, steps, method=method)
    error: Tensor = torch.linalg.vector_norm(back[..., -1, :] - z0, dim=-1)
    return error
