"""Pure-torch autograd versions of the rollouts under the same names: the tests' oracle, the benchmarks' baseline.

They differentiate H with one autograd pass per stage, as learned-mechanics code does today, and run any callable H:
a convolution, a closure, a network that the native kernels do not know.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .integrators import Integrator, integrator

__all__ = ["euler_rollout", "gradient", "integrate", "leapfrog_rollout", "rollout"]

Energy = Callable[..., Tensor]


def gradient(H: Energy, z: Tensor, condition: Tensor | None = None) -> Tensor:
    """dH/dz by autograd, shape (..., 2d); differentiable where grad mode is on. Works under ``inference_mode``."""
    differentiable = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        # A tensor born in inference mode cannot enter autograd; a clone made outside it can.
        if z.is_inference():
            z = z.clone()
        if condition is not None and condition.is_inference():
            condition = condition.clone()
        if not z.requires_grad:
            z = z.detach().requires_grad_()
        energy = _energy(H, z, condition)
        if not energy.requires_grad:
            return torch.zeros_like(z)
        (result,) = torch.autograd.grad(energy.sum(), z, create_graph=differentiable, allow_unused=True)
    return torch.zeros_like(z) if result is None else result


def rollout(
    H: Energy,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    method: str,
    condition: Tensor | None = None,
    return_energy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Roll z0 (..., 2d) forward ``steps`` steps; returns (..., steps + 1, 2d) [, energies (..., steps + 1)]."""
    energy = (lambda z: _energy(H, z, condition)) if return_energy else None
    return integrate(lambda z: gradient(H, z, condition), energy, z0, dt, steps, method)


def integrate(
    gradient: Callable[[Tensor], Tensor],
    energy: Callable[[Tensor], Tensor] | None,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    method: str,
) -> Tensor | tuple[Tensor, Tensor]:
    """The rollout of dH/dz given as a function (..., 2d) -> (..., 2d), however that is computed; energies if asked."""
    table = integrator(method)
    states = [z0.clone()]
    for _ in range(steps):
        states.append(_step(gradient, states[-1], dt, table))
    trajectory = torch.stack(states, dim=-2)
    return trajectory if energy is None else (trajectory, torch.stack([energy(z) for z in states], dim=-1))


def leapfrog_rollout(
    H: Energy,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    condition: Tensor | None = None,
    return_energy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``rollout`` with ``method="leapfrog"``: H-JEPA, Algorithm 1."""
    return rollout(H, z0, dt, steps, method="leapfrog", condition=condition, return_energy=return_energy)


def euler_rollout(
    H: Energy,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    condition: Tensor | None = None,
    return_energy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``rollout`` with ``method="euler"``: explicit Euler, H-JEPA's ablation."""
    return rollout(H, z0, dt, steps, method="euler", condition=condition, return_energy=return_energy)


def _energy(H: Energy, z: Tensor, condition: Tensor | None) -> Tensor:
    """H(z), shape (...); an ``nn.Sequential`` leaves a last dimension of 1, which is dropped."""
    energy = H(z) if condition is None else H(z, condition)
    if energy.shape == (*z.shape[:-1], 1):
        return energy.squeeze(-1)
    if energy.shape != z.shape[:-1]:
        raise ValueError(f"H must return energies of shape {tuple(z.shape[:-1])} here, got {tuple(energy.shape)}")
    return energy


def _step(gradient: Callable[[Tensor], Tensor], z: Tensor, dt: float | Tensor, table: Integrator) -> Tensor:
    for stage in table.stages:
        dq, dp = gradient(z).chunk(2, dim=-1)
        q, p = z.chunk(2, dim=-1)
        if "q" in stage.moves:
            q = q + stage.coefficient * dt * dp
        if "p" in stage.moves:
            p = p - stage.coefficient * dt * dq
        z = torch.cat((q, p), dim=-1)
    return z
