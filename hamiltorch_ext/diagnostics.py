"""Measures of what a rollout keeps: energy, the symplectic form, reversibility, passivity. Computed, never assumed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import reference
from .port import PortHamiltonian, port_rollout
from .rollouts import rollout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "EnergyDrift",
    "PassivityViolation",
    "energy_drift",
    "passivity_violation",
    "plot_passivity",
    "reversibility_error",
    "step_jacobian",
    "supplied_energy",
    "symplectic_defect",
]


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
    absolute = (energies - energies[..., :1]).abs().amax(dim=-1)
    return EnergyDrift(absolute, absolute / _spread(energies, scale))


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


class PassivityViolation(NamedTuple):
    """What a rollout's energy rose by beyond the controls' work, step by step; each (..., steps).

    ``absolute`` is max(0, H_{k+1} - H_k - work_k), ``relative`` the same divided by the spread of H over the data, and
    ``converged`` is false from a sample's first unsolved step on.
    """

    absolute: Tensor
    relative: Tensor
    converged: Tensor


def supplied_energy(
    system: PortHamiltonian,
    trajectory: Tensor,
    controls: Tensor,
    dt: float | Tensor,
    *,
    condition: Tensor | None = None,
) -> Tensor:
    """Work of the controls in every step of a trajectory of ``port_rollout``, in the units of H, shape (..., steps).

    It is dt y . u with the output y = G(m)^T D: D the discrete gradient between the step's ends, linear damping undone,
    and m their middle. H(z_{k+1}) - H(z_k) is less by what dissipates, exactly for ``method="discrete_gradient"``.

    Args:
        system: the ``PortHamiltonian``.
        trajectory: its states, shape (..., steps + 1, 2d).
        controls: u, shape (..., steps, m).
        dt: the time step.
        condition: per-trajectory input of H, shape (..., condition_dim).

    Source: van der Schaft and Jeltsema (2014), the output of a port; Gonzalez (1996), the discrete gradient.
    """
    if trajectory.ndim < 2 or controls.ndim < 2 or trajectory.shape[-2] != controls.shape[-2] + 1:
        raise ValueError(
            f"trajectory must have one state more than controls (..., steps, m) has steps, "
            f"got {tuple(trajectory.shape)} and {tuple(controls.shape)}"
        )
    field = reference.field(system.H, condition)
    works = []
    for (z, y), u in zip(pairwise(trajectory.unbind(-2)), controls.unbind(-2), strict=True):
        z, y = system.damped(z, dt / 2), system.damped(y, -dt / 2)
        gradient = reference.discrete_gradient(field, z, y)
        works.append(dt * (system.output((z + y) / 2, gradient) * u).sum(-1))
    return torch.stack(works, -1) if works else trajectory[..., 0, :0]


def passivity_violation(
    system: PortHamiltonian,
    z0: Tensor,
    controls: Tensor,
    dt: float | Tensor,
    *,
    method: str = "discrete_gradient",
    condition: Tensor | None = None,
    scale: float | Tensor | None = None,
) -> PassivityViolation:
    """How much more energy than the controls supply each step of ``port_rollout`` gains; zero for a passive method.

    A residual may add energy, and linear damping of a momentum against which H falls: both count.

    Args:
        system, z0, controls, dt, method, condition: as for ``port_rollout``.
        scale: the standard deviation of H over the data. By default that of the initial energies given here; then
            there must be two trajectories or more.
    """
    with torch.no_grad():
        trajectory, energies, info = port_rollout(
            system, z0, controls, dt, method=method, condition=condition, return_energy=True, return_info=True
        )
        work = supplied_energy(system, trajectory, controls, dt, condition=condition)
        absolute = (energies.diff(dim=-1) - work).clamp(min=0)
    return PassivityViolation(absolute, absolute / _spread(energies, scale), info.converged)


def plot_passivity(
    system: PortHamiltonian,
    z0: Tensor,
    controls: Tensor,
    dt: float | Tensor,
    *,
    method: str = "discrete_gradient",
    condition: Tensor | None = None,
) -> Figure:
    """Energy and supplied work of rollouts over time, and the violation of every step, as a matplotlib figure.

    Arguments as for ``port_rollout``; more than some ten trajectories are hard to tell apart. Needs matplotlib, which
    is no dependency of the library: ``pip install matplotlib``.
    """
    from matplotlib.figure import Figure

    with torch.no_grad():
        trajectory, energies = port_rollout(
            system, z0, controls, dt, method=method, condition=condition, return_energy=True
        )
        work = supplied_energy(system, trajectory, controls, dt, condition=condition)
        gained = energies.diff(dim=-1)
        time = float(dt) * torch.arange(energies.shape[-1])
        lines = {
            "energy gained": (energies - energies[..., :1], "-"),
            "work of the controls": (torch.nn.functional.pad(work.cumsum(-1), (1, 0)), "--"),
        }
        floor = torch.finfo(energies.dtype).eps * energies.abs().amax()
        violation = (gained - work).clamp(min=0).reshape(-1, work.shape[-1])
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    balance, beyond = figure.subplots(1, 2)
    for label, (values, dashes) in lines.items():
        for k, line in enumerate(values.reshape(-1, values.shape[-1]).cpu().numpy()):
            balance.plot(time, line, dashes, color=f"C{k % 10}", linewidth=1.2, label=label if k == 0 else None)
    balance.set(xlabel="time", ylabel="energy", title="Energy is below the work where some is dissipated")
    balance.legend(frameon=False)
    for k, line in enumerate(violation.clamp(min=floor / 10).cpu().numpy()):
        beyond.plot(time[1:], line, ".", color=f"C{k % 10}", markersize=3)
    beyond.axhline(float(floor), color="#9ca3af", linewidth=1, label="rounding of H")
    beyond.set(yscale="log", xlabel="time", ylabel="energy", title=f"Gain of each step beyond the work: {method}")
    beyond.legend(frameon=False)
    return figure


def _spread(energies: Tensor, scale: float | Tensor | None) -> float | Tensor:
    """``scale``, or the standard deviation of the initial energies of (..., steps + 1)."""
    if scale is not None:
        return scale
    initial = energies[..., 0].flatten()
    if initial.numel() < 2:
        raise ValueError("scale must be given for fewer than two trajectories (it is the spread of H over data)")
    return initial.std()
