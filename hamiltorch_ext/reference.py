"""Pure-torch autograd versions of the rollouts under the same names: the tests' oracle, the benchmarks' baseline.

They differentiate H with one autograd pass per gradient, as learned-mechanics code does today, and run any callable H:
a convolution, a closure, a network that the native kernels do not know.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _implicit
from .integrators import Integrator, Stage, integrator

__all__ = [
    "Field",
    "Halves",
    "RolloutInfo",
    "Settings",
    "discrete_gradient",
    "euler_rollout",
    "extended_step",
    "gradient",
    "integrate",
    "leapfrog_rollout",
    "rollout",
]

Energy = Callable[..., Tensor]


class RolloutInfo(NamedTuple):
    """What became of every step, each of shape (..., steps).

    ``converged`` is false from a sample's first failure on. ``iterations`` counts those of all solves of a step;
    ``residual`` is the largest entry of their equations over one plus the largest of the solution, measured, or
    natively also what the contraction seen so far leaves of a measured one. Explicit methods solve nothing: true, 0, 0.
    """

    converged: Tensor
    iterations: Tensor
    residual: Tensor


class Settings(NamedTuple):
    """What implicit methods and Tao's are given: a tolerance (None: of the dtype), a limit, the binding omega."""

    tol: float | None = None
    max_iterations: int = 50
    binding: float = 1.0

    def tolerance(self, dtype: torch.dtype) -> float:
        """``tol``, or 1e-6 for float32 and 1e-14 for float64."""
        if self.tol is not None:
            return self.tol
        return 1e-6 if dtype == torch.float32 else 1e-14


DEFAULTS = Settings()


class Halves(NamedTuple):
    """The gradient of H = T(p) + V(q) in its halves: dV/dq as a function of q (..., d), dT/dp as one of p."""

    potential: Callable[[Tensor], Tensor]
    kinetic: Callable[[Tensor], Tensor]


class Field(NamedTuple):
    """H and its gradient as functions of z (..., 2d), however they are computed.

    Where H is ``separable`` and ``halves`` are given, explicit methods evaluate those alone.
    """

    energy: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor], Tensor]
    separable: bool = False
    halves: Halves | None = None


def gradient(H: Energy, z: Tensor, condition: Tensor | None = None) -> Tensor:
    """dH/dz by autograd, shape (..., 2d); differentiable where grad mode is on. Works under ``inference_mode``."""
    differentiable = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        z = plain(z)
        if not z.requires_grad:
            z = z.detach().requires_grad_()
        energy = _energy(H, z, condition)
        if not energy.requires_grad:
            return torch.zeros_like(z)
        (result,) = torch.autograd.grad(energy.sum(), z, create_graph=differentiable, allow_unused=True)
    return torch.zeros_like(z) if result is None else result


def field(H: Energy, condition: Tensor | None = None) -> Field:
    """H's ``Field`` by autograd."""
    return Field(
        lambda z: _energy(H, z, condition), lambda z: gradient(H, z, condition), bool(getattr(H, "separable", False))
    )


def rollout(
    H: Energy,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    method: str,
    condition: Tensor | None = None,
    return_energy: bool = False,
    return_info: bool = False,
    tol: float | None = None,
    max_iterations: int = 50,
    binding: float = 1.0,
) -> Any:
    """Roll z0 (..., 2d) forward ``steps`` steps; returns (..., steps + 1, 2d), and energies and info where asked.

    The arguments are those of ``hamiltorch_ext.rollout``.
    """
    system = field(H, condition)
    trajectory, info = integrate(system, z0, dt, steps, method, Settings(tol, max_iterations, binding))
    energies = energies_along(system, trajectory) if return_energy else None
    return chosen(trajectory, energies, info if return_info else None)


def chosen(trajectory: Tensor, energies: Tensor | None, info: RolloutInfo | None) -> Any:
    """A rollout's results as they are returned: those that there are, and one alone not as a tuple."""
    results = tuple(result for result in (trajectory, energies, info) if result is not None)
    return results if len(results) > 1 else trajectory


def energies_along(system: Field, trajectory: Tensor) -> Tensor:
    """H at every state of a trajectory (..., steps + 1, 2d), shape (..., steps + 1)."""
    return torch.stack([system.energy(z) for z in trajectory.unbind(-2)], dim=-1)


def integrate(
    system: Field, z0: Tensor, dt: float | Tensor, steps: int, method: str, settings: Settings = DEFAULTS
) -> tuple[Tensor, RolloutInfo]:
    """The rollout of a ``Field``: trajectory (..., steps + 1, 2d), and what became of its solves."""
    table = integrator(method)
    stages = table.separable_stages if system.separable else table.stages
    if system.halves is not None and stages and table.explicit_if_separable:
        return _by_halves(system.halves, z0, dt, steps, stages), gather_reports([[]] * steps, z0)
    if not table.explicit and torch.is_inference_mode_enabled():
        # Newton's method differentiates, which inference mode does not know.
        with torch.inference_mode(False), torch.no_grad():
            trajectory, info = integrate(
                system, plain(z0), plain(dt) if isinstance(dt, Tensor) else dt, steps, method, settings
            )
        return trajectory.clone(), RolloutInfo(*(entry.clone() for entry in info))
    state = torch.cat((z0, z0), dim=-1) if method == "extended" else z0.clone()
    states, reports = [state], []
    for _ in range(steps):
        state, report = _step(system, state, dt, table, stages, settings)
        states.append(state)
        reports.append(report)
    trajectory = torch.stack(states, dim=-2)
    if method == "extended":
        trajectory = trajectory[..., : z0.shape[-1]].contiguous()
    return trajectory, gather_reports(reports, z0)


def gather_reports(reports: list[list[_implicit.Report]], z0: Tensor) -> RolloutInfo:
    """The info of a rollout from the reports of each step's solves."""
    shape = z0.shape[:-1]
    converged, iterations, residual = [], [], []
    alive = torch.ones(shape, dtype=torch.bool, device=z0.device)
    for step in reports:
        count = torch.zeros(shape, dtype=torch.int64, device=z0.device)
        worst = torch.zeros(shape, dtype=z0.dtype, device=z0.device)
        for report in step:
            alive = alive & report.converged
            count, worst = count + report.iterations, torch.maximum(worst, report.residual)
        converged.append(alive)
        iterations.append(count)
        residual.append(worst)
    if not reports:
        empty = z0.detach().new_empty(*shape, 0)
        return RolloutInfo(empty.bool(), empty.long(), empty)
    return RolloutInfo(torch.stack(converged, -1), torch.stack(iterations, -1), torch.stack(residual, -1))


def leapfrog_rollout(
    H: Energy,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    condition: Tensor | None = None,
    return_energy: bool = False,
) -> Any:
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
) -> Any:
    """``rollout`` with ``method="euler"``: explicit Euler, H-JEPA's ablation."""
    return rollout(H, z0, dt, steps, method="euler", condition=condition, return_energy=return_energy)


def discrete_gradient(system: Field, z: Tensor, y: Tensor) -> Tensor:
    """A gradient of H between z and y (..., 2d) whose product with y - z is H(y) - H(z).

    g + [H(y) - H(z) - g . (y - z)] (y - z) / |y - z|^2 with g the gradient halfway. Source: Gonzalez 1996, eq. 2.
    """
    change = y - z
    g = system.gradient((z + y) / 2)
    square = change.square().sum(-1)
    before, after = system.energy(z), system.energy(y)
    # Below this the term is less than H's own rounding, and would be noise.
    rounding = torch.finfo(z.dtype).eps * (before.abs() + after.abs()).detach()
    counts = ~(square.detach() ** 1.5 <= rounding)  # also where one of them is no number, to show it
    excess = after - before - (g * change).sum(-1)
    factor = torch.where(counts, excess / torch.where(counts, square, 1), 0)
    return g + factor.unsqueeze(-1) * change


def plain(x: Tensor) -> Tensor:
    """A tensor born in inference mode cannot enter autograd; a clone made outside it can."""
    if torch.compiler.is_compiling() or not x.is_inference():
        return x
    with torch.inference_mode(False):
        return x.clone()


def rotate(gradient: Tensor) -> Tensor:
    """J g = (g_p, -g_q)."""
    dq, dp = gradient.chunk(2, dim=-1)
    return torch.cat((dp, -dq), dim=-1)


def extended_step(system: Field, state: Tensor, dt: float | Tensor, settings: Settings) -> Tensor:
    """Tao's step on two copies of the state, (q, p, x, y) (..., 4d).

    The flows of H(q, y) and H(x, p), bound by omega |(q, p) - (x, y)|^2 / 2. Source: Tao 2016, eqs. 1 and 2.
    """
    q, p, x, y = state.chunk(4, dim=-1)
    half = dt / 2

    def first() -> tuple[Tensor, Tensor]:  # the flow of H(q, y)
        dq, dy = system.gradient(torch.cat((q, y), dim=-1)).chunk(2, dim=-1)
        return p - half * dq, x + half * dy

    def second() -> tuple[Tensor, Tensor]:  # of H(x, p)
        dx, dp = system.gradient(torch.cat((x, p), dim=-1)).chunk(2, dim=-1)
        return q + half * dp, y - half * dx

    p, x = first()
    q, y = second()
    angle = 2 * settings.binding * dt
    cos, sin = (torch.cos(angle), torch.sin(angle)) if isinstance(angle, Tensor) else (math.cos(angle), math.sin(angle))
    apart_q, apart_p = q - x, p - y
    turned_q, turned_p = cos * apart_q + sin * apart_p, cos * apart_p - sin * apart_q
    q, x = (q + x + turned_q) / 2, (q + x - turned_q) / 2
    p, y = (p + y + turned_p) / 2, (p + y - turned_p) / 2
    q, y = second()
    p, x = first()
    return torch.cat((q, p, x, y), dim=-1)


def solve_step(
    update: Callable[[Tensor, Tensor], Tensor],
    z: Tensor,
    start: Tensor,
    settings: Settings,
    floor: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, _implicit.Report]:
    """The w = update(z, w) near ``start``, differentiable where grad mode is on; unsolved, a constant."""
    tol = settings.tolerance(start.dtype)
    w, report = _implicit.solve(lambda w: update(z, w), start, tol, settings.max_iterations, floor)
    if torch.is_grad_enabled():
        through = lambda z, w: _implicit.differentiable(lambda x: update(z, x), w)  # noqa: E731
        w = _where_solved(report, through, lambda z, w: w, z, w)
    return w, report


def _where_solved(
    report: _implicit.Report, solved: Callable[..., Tensor], unsolved: Callable[..., Tensor], *points: Tensor
) -> Tensor:
    """``solved`` of the points, or where a sample was not, ``unsolved`` of them, a constant.

    There ``solved`` is taken at zero: the NaN of one sample, times a cotangent of zero, would be NaN in the gradient of
    every parameter.
    """
    if report.converged.all():
        return solved(*points)
    where = report.converged.unsqueeze(-1)
    with torch.no_grad():
        constant = unsolved(*points)
    return torch.where(where, solved(*(torch.where(where, x, 0) for x in points)), constant)


def _energy(H: Energy, z: Tensor, condition: Tensor | None) -> Tensor:
    """H(z), shape (...); an ``nn.Sequential`` leaves a last dimension of 1, which is dropped."""
    energy = H(z) if condition is None else H(z, plain(condition))
    if energy.shape == (*z.shape[:-1], 1):
        return energy.squeeze(-1)
    if energy.shape != z.shape[:-1]:
        raise ValueError(f"H must return energies of shape {tuple(z.shape[:-1])} here, got {tuple(energy.shape)}")
    return energy


def _step(
    system: Field, z: Tensor, dt: float | Tensor, table: Integrator, stages: tuple[Stage, ...], settings: Settings
) -> tuple[Tensor, list[_implicit.Report]]:
    if table.name == "extended":
        return extended_step(system, z, dt, settings), []
    if table.name == "discrete_gradient":
        z, report = _conserving(system, z, dt, settings)
        return z, [report]
    reports = []
    for stage in stages:

        def move(z: Tensor, at: Tensor, stage: Stage = stage) -> Tensor:
            return z + stage.coefficient * dt * _moved(system.gradient(at), stage)

        if stage.implicit:
            at, report = _point(system, z, dt, stage, settings)
            reports.append(report)
            z = _where_solved(report, move, move, z, at)
        else:
            z = move(z, z)
    return z, reports


def _by_halves(halves: Halves, z0: Tensor, dt: float | Tensor, steps: int, stages: tuple[Stage, ...]) -> Tensor:
    """Explicit stages of a separable H. A half's gradient serves until its variable moves: the last kick's the next
    step's first too, so that leapfrog takes one gradient of V and one of T a step."""
    q, p = z0.chunk(2, dim=-1)
    force = velocity = None  # dV/dq at q, dT/dp at p
    states = [z0]
    for _ in range(steps):
        for stage in stages:
            if "p" in stage.moves and force is None:
                force = halves.potential(q)
            if "q" in stage.moves and velocity is None:
                velocity = halves.kinetic(p)
            step = stage.coefficient * dt
            if "p" in stage.moves and force is not None:
                p = p - step * force
            if "q" in stage.moves and velocity is not None:
                q = q + step * velocity
            force = None if "q" in stage.moves else force
            velocity = None if "p" in stage.moves else velocity
        states.append(torch.cat((q, p), dim=-1))
    return torch.stack(states, dim=-2)


def _moved(gradient: Tensor, stage: Stage) -> Tensor:
    """M J g: the halves that the stage does not move are zero."""
    q, p = rotate(gradient).chunk(2, dim=-1)
    still = torch.zeros_like(q)
    return torch.cat((q if "q" in stage.moves else still, p if "p" in stage.moves else still), dim=-1)


def _point(
    system: Field, z: Tensor, dt: float | Tensor, stage: Stage, settings: Settings
) -> tuple[Tensor, _implicit.Report]:
    """Where an implicit stage takes its gradient: w = z + c dt Theta M J dH/dz(w)."""
    half = z.shape[-1] // 2
    way = torch.cat((z.new_full((half,), stage.at_q), z.new_full((half,), stage.at_p)))

    def update(z: Tensor, w: Tensor) -> Tensor:
        return z + stage.coefficient * dt * way * _moved(system.gradient(w), stage)

    return solve_step(update, z, z, settings)


def _conserving(system: Field, z: Tensor, dt: float | Tensor, settings: Settings) -> tuple[Tensor, _implicit.Report]:
    """A step of dt along J times the discrete gradient, which leaves H as it is."""

    def update(z: Tensor, y: Tensor) -> Tensor:
        return z + dt * rotate(discrete_gradient(system, z, y))

    return solve_step(update, z, z + dt * rotate(system.gradient(z)), settings, rounding_floor(system, z, dt))


def rounding_floor(system: Field, z: Tensor, dt: float | Tensor) -> Callable[[Tensor], Tensor]:
    """What the rounding of H leaves of the equations of a discrete gradient's step from z, as a function of its end."""

    def floor(y: Tensor) -> Tensor:
        distance = torch.linalg.vector_norm(y - z, dim=-1)
        rounding = torch.finfo(z.dtype).eps * (system.energy(z).abs() + system.energy(y).abs())
        noise: Tensor = 4 * rounding * torch.as_tensor(dt).abs() / distance
        return torch.where(distance**3 > rounding, noise, 0)

    return floor
