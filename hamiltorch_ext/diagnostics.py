"""Measures of what a rollout keeps: energy, the symplectic form, volume, reversibility, order, passivity.

Computed, never assumed. Wherever there are ``options``, they are those of ``rollout``: condition, tol, max_iterations,
binding. Every ``plot_*`` measures and draws in one call, and returns a matplotlib Figure
(``pip install 'hamiltorch_ext[plots]'``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import _plots, reference
from ._checks import checked_settings
from ._ops import why_not_native
from .integrators import INTEGRATORS, integrator
from .mlp import describe
from .port import PortHamiltonian, port_rollout
from .rollouts import rollout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "EnergyDrift",
    "LongRunDrift",
    "OrderSlope",
    "PassivityViolation",
    "determinant",
    "energy_drift",
    "form_defect",
    "jacobian",
    "long_run_drift",
    "order_slope",
    "passivity_violation",
    "plot_defect",
    "plot_determinant",
    "plot_energy_drift",
    "plot_order",
    "plot_passivity",
    "plot_reversibility",
    "reversibility_error",
    "step_jacobian",
    "supplied_energy",
    "symplectic_defect",
]

Map = Callable[[Tensor], Tensor]


COPIES = 4096  # of samples that a Jacobian is taken with at once, about


class EnergyDrift(NamedTuple):
    """Largest |H(t) - H(0)| per trajectory, and the same divided by the spread of H over the data; both (...)."""

    absolute: Tensor
    relative: Tensor


class LongRunDrift(NamedTuple):
    """Energies of long rollouts by blocks of time, in units of the spread of H over the data.

    ``mean``: of H(t) - H(0) in each block, (..., blocks). ``amplitude``: half the largest range within a block, (...):
    how far the energy swings. ``trend``: the change over the whole rollout of the straight line fitted to the means,
    (...): how far it goes.
    """

    mean: Tensor
    amplitude: Tensor
    trend: Tensor


class OrderSlope(NamedTuple):
    """Time steps (k,), distances between rollouts with each and with its half (k,), and the slope of their logarithms.

    The slope () is the order of the method where the steps are small enough, and the distances above rounding.
    """

    dt: Tensor
    error: Tensor
    slope: Tensor


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
    scale = _spread(energies, scale)
    absolute = (energies - energies[..., :1]).abs().amax(dim=-1)
    return EnergyDrift(absolute, absolute / scale)


def long_run_drift(energies: Tensor, blocks: int = 10, scale: float | Tensor | None = None) -> LongRunDrift:
    """What the energy does over a long rollout: how far it swings, and how far it goes.

    A symplectic method's energy swings and stays; a trend says that it does not. Arguments as for ``energy_drift``;
    ``blocks`` equal parts of time, two or more, at most one a state. States that fill no block are left out at the end.
    Source: Hairer, Lubich, Wanner, Geometric Numerical Integration, IX.8.
    """
    scale = torch.as_tensor(_spread(energies, scale))
    length = energies.shape[-1] // blocks if blocks > 1 else 0
    if length == 0:
        raise ValueError(f"blocks must be two or more, at most one a state ({energies.shape[-1]}), got {blocks}")
    change = (energies[..., : blocks * length] - energies[..., :1]).unflatten(-1, (blocks, length))
    mean = change.mean(-1) / scale
    amplitude = (change.amax(-1) - change.amin(-1)).amax(-1) / (2 * scale)
    time = torch.arange(blocks, dtype=mean.dtype, device=mean.device)
    time = time - time.mean()
    slope = (mean * time).sum(-1) / time.square().sum()
    return LongRunDrift(mean, amplitude, slope * energies.shape[-1] / length)


def jacobian(f: Map, z: Tensor) -> Tensor:
    """Jacobian of any differentiable map of states at each z, by autograd; z (..., n) -> (..., m, n).

    Samples must not interact: f takes (..., n) to (..., m), each row by itself.
    """

    samples = max(z[..., 0].numel(), 1)
    rows: list[Tensor] = []
    size = 1  # of the image, as soon as it is known
    while len(rows) < size:
        # A row takes a pass of its own; copies of the samples take many in one.
        count = min(max(COPIES // samples, 1), size - len(rows)) if rows else 1
        copies = z.detach().expand(count, *z.shape).clone().requires_grad_()
        image = f(copies)
        size = image.shape[-1]
        chosen = torch.eye(size, dtype=image.dtype, device=image.device)[len(rows) : len(rows) + count]
        chosen = chosen.reshape(count, *(1,) * (z.ndim - 1), size).expand_as(image)
        (found,) = torch.autograd.grad(image, copies, chosen)
        rows += found.unbind(0)
    return torch.stack(rows, dim=-2)


def form_defect(A: Tensor, copies: int = 1) -> Tensor:
    """Frobenius norm of A^T J A - J of Jacobians A (..., 2d, 2d), shape (...); zero for a symplectic map.

    ``copies``: phase spaces (q, p) that stand side by side in A, each with a J of its own.
    """
    d = A.shape[-1] // (2 * copies)
    one, zero = torch.eye(d, dtype=A.dtype, device=A.device), A.new_zeros(d, d)
    J = torch.block_diag(*[torch.cat((torch.cat((zero, one), 1), torch.cat((-one, zero), 1)))] * copies)
    defect: Tensor = torch.linalg.matrix_norm(A.mT @ J @ A - J)
    return defect


def step_jacobian(
    H: Callable[..., Tensor],
    z: Tensor,
    dt: float,
    method: str = "leapfrog",
    *,
    doubled: bool = False,
    condition: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Jacobian A = d(one step)/dz at each z, by ``rollout``'s own derivative; z (..., 2d) -> (..., 2d, 2d).

    ``doubled``, for "extended" alone: of its step on (z, another copy of z), (..., 4d, 4d), at equal copies. In that
    space it is symplectic; z alone, with a copy that starts equal at every step, is not its phase space.
    """
    if not doubled:
        mlp = describe(H)
        native = not isinstance(mlp, str) and why_not_native(mlp, z, method, "float32") is None
        backend = "auto" if native else "reference"  # which is the same without the warning

        def step(z: Tensor) -> Tensor:
            trajectory: Tensor = rollout(H, z, dt, 1, method=method, condition=condition, backend=backend, **options)
            return trajectory[..., 1, :]

        return jacobian(step, z)
    if method != "extended":
        raise ValueError(f"doubled is for method='extended', which has two copies of z, got method={method!r}")
    system = reference.field(H, condition)
    settings = checked_settings(**{**reference.Settings()._asdict(), **options})
    return jacobian(lambda both: reference.extended_step(system, both, dt, settings), torch.cat((z, z), dim=-1))


def symplectic_defect(
    H: Callable[..., Tensor], z: Tensor, dt: float, method: str = "leapfrog", *, doubled: bool = False, **options: Any
) -> Tensor:
    """Frobenius norm of A^T J A - J for one step at each z, shape (...); zero for a symplectic map.

    Arguments as for ``step_jacobian``. Compute it in float64: at small dt or weak curvature the defect of an explicit
    method on a non-separable H lies below float32's resolution, which is not the same as being symplectic.
    """
    return form_defect(step_jacobian(H, z, dt, method, doubled=doubled, **options), 2 if doubled else 1)


def determinant(
    H: Callable[..., Tensor], z: Tensor, dt: float, method: str = "leapfrog", *, doubled: bool = False, **options: Any
) -> Tensor:
    """Determinant of one step's Jacobian at each z, shape (...); one for a map that keeps volume.

    Arguments as for ``step_jacobian``.
    """
    found: Tensor = torch.linalg.det(step_jacobian(H, z, dt, method, doubled=doubled, **options))
    return found


def reversibility_error(H: Any, z0: Tensor, dt: float, steps: int, method: str = "leapfrog", **options: Any) -> Tensor:
    """Distance from z0 (..., 2d) after ``steps`` steps of dt and as many of -dt, Euclidean norm, shape (...).

    A symmetric method returns to rounding, an implicit one to its tolerance; explicit leapfrog does so for separable H
    only.
    """
    there = rollout(H, z0, dt, steps, method=method, **options)
    back = rollout(H, there[..., -1, :], -dt, steps, method=method, **options)
    error: Tensor = torch.linalg.vector_norm(back[..., -1, :] - z0, dim=-1)
    return error


def order_slope(
    H: Any, z0: Tensor, time: float, method: str = "leapfrog", steps: Sequence[int] = (16, 32, 64), **options: Any
) -> OrderSlope:
    """The order that a method shows on H: how the distance to a rollout of half the time step falls with the time step.

    Args:
        H: as for ``rollout``.
        z0: initial states, (..., 2d); the distance is the root of the mean square over them, at the end.
        time: length of every rollout.
        method: as for ``rollout``.
        steps: numbers of steps, two or more different ones; each rollout is also made with twice as many.
        **options: as for ``rollout``.
    """
    if len(set(steps)) < 2 or min(steps) < 1:
        raise ValueError(f"steps must be two or more different positive numbers, got {tuple(steps)}")
    with torch.no_grad():
        ends = {
            n: rollout(H, z0, time / n, n, method=method, **options)[..., -1, :]
            for n in sorted({*steps, *(2 * n for n in steps)})
        }
    error = torch.stack([(ends[n] - ends[2 * n]).square().sum(-1).mean().sqrt() for n in steps])
    dt = torch.tensor([time / n for n in steps], dtype=error.dtype, device=error.device)
    x, y = dt.abs().log(), error.log()
    x = x - x.mean()
    return OrderSlope(dt, error, (x * y).sum() / x.square().sum())


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


def plot_defect(
    H: Callable[..., Tensor],
    z: Tensor,
    dts: Sequence[float],
    methods: Iterable[str] = tuple(INTEGRATORS),
    **options: Any,
) -> Figure:
    """Largest symplectic defect of a step over the states z (..., 2d), against dt; "extended" in its doubled space."""
    measured = {
        method: [symplectic_defect(H, z, dt, method, doubled=_doubled(method), **options).max().item() for dt in dts]
        for method in methods
    }
    return _plots.curves(dts, measured, "time step", r"$\|A^T J A - J\|$ of a step, largest")


def plot_determinant(
    H: Callable[..., Tensor],
    z: Tensor,
    dts: Sequence[float],
    methods: Iterable[str] = tuple(INTEGRATORS),
    **options: Any,
) -> Figure:
    """Largest |det A - 1| of a step over the states z (..., 2d), against dt; "extended" in its doubled space."""
    measured = {
        method: [
            (determinant(H, z, dt, method, doubled=_doubled(method), **options) - 1).abs().max().item() for dt in dts
        ]
        for method in methods
    }
    return _plots.curves(dts, measured, "time step", r"$|\det A - 1|$ of a step, largest")


def plot_reversibility(
    H: Any, z0: Tensor, dt: float, steps: Sequence[int], methods: Iterable[str] = tuple(INTEGRATORS), **options: Any
) -> Figure:
    """Largest distance from z0 (..., 2d) after rollouts there and back, against their numbers of steps."""
    with torch.no_grad():
        measured = {
            method: [reversibility_error(H, z0, dt, n, method, **options).max().item() for n in steps]
            for method in methods
        }
    return _plots.curves(steps, measured, "steps there, and back", "distance from the start, largest")


def plot_order(
    H: Any,
    z0: Tensor,
    time: float,
    methods: Iterable[str] = tuple(INTEGRATORS),
    steps: Sequence[int] = (16, 32, 64),
    **options: Any,
) -> Figure:
    """Distance at ``time`` to a rollout of half the time step, against the time step; slopes are in the legend."""
    measured = {method: order_slope(H, z0, time, method, steps, **options) for method in methods}
    return _plots.curves(
        [time / n for n in steps],
        {method: found.error.tolist() for method, found in measured.items()},
        "time step",
        "distance to half the time step",
        {method: f"slope {found.slope.item():.2f}" for method, found in measured.items()},
    )


def plot_energy_drift(
    H: Any,
    z0: Tensor,
    dt: float,
    steps: int,
    methods: Iterable[str] = tuple(INTEGRATORS),
    *,
    blocks: int = 100,
    scale: float | Tensor | None = None,
    **options: Any,
) -> Figure:
    """|H(t) - H(0)| in units of the spread of H, by blocks of time: the mean over z0 (..., 2d) of each block's largest.

    ``scale`` as for ``energy_drift``, ``blocks`` as for ``long_run_drift``; the fitted trend is in the legend.
    """
    measured, notes = {}, {}
    for method in methods:
        with torch.no_grad():
            _, energies = rollout(H, z0, dt, steps, method=method, return_energy=True, **options)
        spread = _spread(energies, scale)
        notes[method] = f"trend {long_run_drift(energies, blocks, spread).trend.mean().item():.1e}"
        length = energies.shape[-1] // blocks
        change = (energies[..., : blocks * length] - energies[..., :1]).abs() / spread
        measured[method] = change.reshape(-1, blocks, length).amax(-1).mean(0).tolist()
    ends = [abs(dt) * (steps + 1) * (block + 1) / blocks for block in range(blocks)]
    return _plots.curves(ends, measured, "time", "|H(t) - H(0)| over the spread of H", notes)


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

    Arguments as for ``port_rollout``; more than some ten trajectories are hard to tell apart.
    """
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
    figure = _plots.figure(10, 3.8)
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


def _doubled(method: str) -> bool:
    return integrator(method).symplectic == "extended"


def _spread(energies: Tensor, scale: float | Tensor | None) -> float | Tensor:
    """``scale``, or the standard deviation of the initial ones of ``energies`` (..., steps + 1)."""
    if energies.ndim == 0 or energies.shape[-1] == 0:
        raise ValueError(f"energies must have shape (..., steps + 1), got {tuple(energies.shape)}")
    if scale is not None:
        return scale
    initial = energies[..., 0].flatten()
    if initial.numel() < 2:
        raise ValueError("scale must be given for fewer than two trajectories (it is the spread of H over data)")
    return initial.std()
