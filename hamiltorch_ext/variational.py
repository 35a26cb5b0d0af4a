"""Variational integrators: rollouts by the discrete Euler-Lagrange equations, and losses that need no solution.

A motion q_0, q_1, ... satisfies D2 L_d(q_{k-1}, q_k) + D1 L_d(q_k, q_{k+1}) + F_k = 0 at every inner point, F_k being
the discrete forces there. Source: Marsden and West (2001), sections 1.3 (DEL), 3.2 (forces) and 3.4 (constraints).
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from . import _newton
from ._checks import check_backend
from ._cuda_del import CudaKernels
from ._del_function import Kernels, Settings, rollout
from ._native_del import CpuKernels
from ._ops import transformed
from .lagrangians import D1, D1D2, Action, ActionMLP, describe_action, jacobian, slot_derivatives
from .mlp import check_condition

__all__ = ["DELInfo", "del_residual", "del_rollout", "initialize_from_state", "regularity_penalty"]

Constraint = Callable[[Tensor], Tensor]
DiscreteForces = Callable[..., tuple[Tensor, Tensor]]

KERNELS: dict[str, Kernels] = {"cpu": CpuKernels(), "cuda": CudaKernels()}  # by device


class DELInfo(NamedTuple):
    """What became of every step, each of shape (..., steps).

    ``converged`` is false from a sample's first failure on. ``residual`` is the largest entry of the equations over one
    plus the largest momentum. ``smallest_pivot`` is that of the last Newton matrix over its largest entry, infinite
    where none was factorised: the native rollouts need that only where products with the Hessian do not suffice.
    """

    converged: Tensor
    iterations: Tensor
    residual: Tensor
    smallest_pivot: Tensor


@overload
def del_rollout(
    L: Action,
    q0: Tensor,
    q1: Tensor,
    steps: int,
    *,
    dt: float | Tensor,
    tol: float = ...,
    max_iterations: int = ...,
    forces: Tensor | None = ...,
    damping: float | Tensor | None = ...,
    discrete_forces: DiscreteForces | None = ...,
    constraint: Constraint | None = ...,
    condition: Tensor | None = ...,
    return_info: Literal[False] = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def del_rollout(
    L: Action,
    q0: Tensor,
    q1: Tensor,
    steps: int,
    *,
    dt: float | Tensor,
    tol: float = ...,
    max_iterations: int = ...,
    forces: Tensor | None = ...,
    damping: float | Tensor | None = ...,
    discrete_forces: DiscreteForces | None = ...,
    constraint: Constraint | None = ...,
    condition: Tensor | None = ...,
    return_info: Literal[True],
    backend: str = ...,
) -> tuple[Tensor, DELInfo]: ...
def del_rollout(
    L: Action,
    q0: Tensor,
    q1: Tensor,
    steps: int,
    *,
    dt: float | Tensor,
    tol: float = 1e-6,
    max_iterations: int = 20,
    forces: Tensor | None = None,
    damping: float | Tensor | None = None,
    discrete_forces: DiscreteForces | None = None,
    constraint: Constraint | None = None,
    condition: Tensor | None = None,
    return_info: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, DELInfo]:
    """Continue the motion that begins with q0 and q1 by the discrete Euler-Lagrange equations.

    Each step is solved by Newton's method with a line search, from an extrapolation of the last points; natively by
    Broyden's method first.

    Args:
        L: discrete Lagrangian: a ``MechanicalLagrangian``, a ``DiscreteLagrangianMLP``, or any callable of q0, q1, dt
            [and the condition] that returns (...).
        q0: first configurations, shape (..., d), float32 or float64.
        q1: second configurations, of q0's shape.
        steps: number of steps, zero or more.
        dt: time step, a float or a 0-d tensor (then differentiable).
        tol: a step is solved when no entry of the equations is larger than ``tol`` times one plus the sample's
            largest momentum, or when Newton's next step would be lost in rounding.
        max_iterations: most iterations a step, Newton's and Broyden's together.
        forces: impulses F_k (dt times force) at the inner points q_1 .. q_steps, shape (..., steps, d): controls.
        damping: coefficients c of a friction -c dq/dt, a float or (d,): discrete forces -c (q1 - q0) / 2 at both ends
            of every step.
        discrete_forces: a function of q0, q1, dt [and the condition] that returns the left and the right discrete
            force of a step from q0 to q1, each (..., d): impulses at its two ends, such as dt / 2 times a force.
        constraint: a function g of q (..., d) that returns (..., m): g(q) = 0 is kept at every new point, by
            multipliers. q0 and q1 have to satisfy it.
        condition: per-trajectory input of L, shape (..., condition_dim).
        return_info: also return a ``DELInfo``; without it, a warning tells of steps that were not solved.
        backend: "native" (one fused call for the whole rollout, or an error that says why not), "reference" (torch,
            many times slower), or "auto": native where it can be. It knows ``MechanicalLagrangian`` with constant
            masses and ``DiscreteLagrangianMLP``, on the CPU and CUDA devices, without a constraint or forces that are
            functions.

    Returns:
        Trajectory (..., steps + 2, d), beginning with q0 and q1; with ``return_info`` also a ``DELInfo``. The
        trajectory is differentiable once in q0, q1, dt, forces, damping, the condition and L's parameters, by the
        implicit function theorem, in memory linear in the number of steps. A step that was not solved holds the best
        that was found, and is constant.

    Raises:
        ValueError, TypeError: an argument's shape, dtype, device or value; the message names it.
    """
    if constraint is None and discrete_forces is None and backend in ("auto", "native"):
        settings = Settings(steps, tol, max_iterations)
        found = KERNELS["cpu"].at_once(L, q0, q1, dt, damping, condition, forces, settings)
        if found is not None:
            (trajectory, *status), failed = found
            return _reported(trajectory, DELInfo(*status), failed, len(trajectory), tol, return_info)
    _check_configurations(q0, q1)
    dim = getattr(L, "dim", q0.shape[-1])
    if dim != q0.shape[-1]:
        raise ValueError(f"q0 must have shape (..., {dim}) for this L, got {tuple(q0.shape)}")
    steps = _checked_count("steps", steps, 0)
    max_iterations = _checked_count("max_iterations", max_iterations, 1)
    if not (isinstance(tol, numbers.Real) and 0 < tol < math.inf):
        raise ValueError(f"tol must be a positive number, got {tol!r}")
    dt = _checked_dt(dt, q0)
    check_backend(backend)
    shape, d = q0.shape[:-1], q0.shape[-1]
    forces = _checked_like("forces", forces, q0, (*shape, steps, d))
    condition = _checked_condition(condition, q0)
    friction = _checked_damping(damping, q0)

    start, second = (_plain(q).reshape(-1, d) for q in (q0, q1))
    batch = start.shape[0]
    impulses = None if forces is None else forces.reshape(batch, steps, d)
    step = _Step(L, dt, friction, discrete_forces, constraint, _by_sample(condition, batch))
    action = describe_action(L)
    reason = action if isinstance(action, str) else _why_not_native(action, start, step)
    if backend == "native" and reason is not None:
        raise ValueError(f"backend='native' cannot run this rollout: {reason}")
    if backend != "reference" and reason is None:
        assert isinstance(action, ActionMLP)
        trajectory, info = _native(action, step, start, second, steps, impulses, float(tol), max_iterations)
    else:
        trajectory, info = _reference(step, start, second, steps, impulses, tol, max_iterations)
    if q0.ndim != 2:
        trajectory = trajectory.reshape(*shape, steps + 2, d)
        info = DELInfo(*(field.reshape(*shape, steps) for field in info))
    failed = 0
    if not return_info and not torch.compiler.is_compiling() and not bool(info.converged.all()):
        failed = int((~info.converged.reshape(batch, -1).all(-1)).sum())
    return _reported(trajectory, info, failed, batch, tol, return_info)


def _reported(
    trajectory: Tensor, info: DELInfo, failed: int, batch: int, tol: float, return_info: bool
) -> Tensor | tuple[Tensor, DELInfo]:
    """What ``del_rollout`` returns; a warning tells of failures that nobody would hear of."""
    if return_info:
        return trajectory, info
    if failed:
        warnings.warn(
            f"{failed} of {batch} trajectories were not solved to tol={tol} (return_info=True says which and where)",
            RuntimeWarning,
            stacklevel=3,
        )
    return trajectory


def _reference(
    step: _Step, q0: Tensor, q1: Tensor, steps: int, impulses: Tensor | None, tol: float, max_iterations: int
) -> tuple[Tensor, DELInfo]:
    """The rollout of (batch, d) by torch, a step at a time."""
    flat = [q0, q1]
    solutions: list[_newton.Solution] = []
    bound = None if step.constraint is None else step.constraint(q0)
    more = () if step.condition is None else (step.condition,)
    forced = () if step.discrete_forces is None else step.discrete_forces(q0, q1, step.dt, *more)
    recorded = _recorded(step.L, q0, q1, step.dt, step.condition, impulses, step.damping, bound, *forced)
    with torch.inference_mode(False), torch.set_grad_enabled(recorded):
        alive = torch.ones(len(q0), dtype=torch.bool, device=q0.device)
        for k in range(steps):
            impulse = None if impulses is None else impulses[:, k]
            q, solution = step(flat[-2], flat[-1], impulse, alive, recorded, tol, max_iterations)
            alive = solution.converged
            solutions.append(solution)
            flat.append(q)
        return torch.stack(flat, dim=1), _gather(solutions, q0)


def _why_not_native(action: ActionMLP, q0: Tensor, step: _Step) -> str | None:
    """What keeps the native kernels from this rollout; TypeError and ValueError where nothing could run it."""
    network = action.network
    for parameter in (action.mass, *network.weights, *network.biases):
        if parameter is not None and (parameter.dtype != q0.dtype or parameter.device != q0.device):
            raise TypeError(
                f"q0 must be {parameter.dtype} on {parameter.device} as L's parameters are, "
                f"got {q0.dtype} on {q0.device}"
            )
    if step.constraint is not None:
        return "constraints are kept by torch alone"
    if step.discrete_forces is not None:
        return "forces that are functions are evaluated by torch alone"
    kernels = KERNELS.get(q0.device.type)
    if kernels is None:
        return f"there is no kernel for {q0.device.type}"
    if transformed():
        return "torch.func transforms and forward-mode differentiation do not see through a native call"
    return kernels.why_not(q0, tuple(weight.shape[0] for weight in network.weights[:-1]))


def _native(
    action: ActionMLP,
    step: _Step,
    q0: Tensor,
    q1: Tensor,
    steps: int,
    impulses: Tensor | None,
    tol: float,
    max_iterations: int,
) -> tuple[Tensor, DELInfo]:
    """The same by the native kernels, in one call."""
    if torch.is_inference_mode_enabled():
        recorded = torch.is_grad_enabled()  # leaving inference mode would switch it on
        with torch.inference_mode(False), torch.set_grad_enabled(recorded):
            return _native(action, step, q0, q1, steps, impulses, tol, max_iterations)
    check_condition(step.condition, action.network.condition_dim)
    settings = Settings(steps, tol, max_iterations)
    kernels = KERNELS[q0.device.type]
    outcome = rollout(kernels, action, q0, q1, step.dt, step.damping, step.condition, impulses, settings)
    return outcome.trajectory, DELInfo(*outcome[1:])


class _Step:
    """One step of all samples: the equations, and their solution."""

    def __init__(
        self,
        L: Action,
        dt: float | Tensor,
        damping: float | Tensor,
        discrete_forces: DiscreteForces | None,
        constraint: Constraint | None,
        condition: Tensor | None,
    ) -> None:
        self.L, self.dt, self.damping, self.condition = L, dt, damping, condition
        self.discrete_forces, self.constraint = discrete_forces, constraint

    def __call__(
        self,
        before: Tensor,
        q: Tensor,
        impulse: Tensor | None,
        alive: Tensor,
        recorded: bool,
        tol: float,
        max_iterations: int,
    ) -> tuple[Tensor, _newton.Solution]:
        every = torch.arange(q.shape[0], device=q.device)
        with torch.no_grad():
            carried = self._carried(before, q, impulse, every)
            normals = self._normals(q)

            def remaining(y: Tensor, rows: Tensor) -> Tensor:
                return self._remaining(carried[rows], q[rows], None if normals is None else normals[rows], y, rows)

            start = 2 * q - before
            if normals is not None:
                start = torch.cat((start, start.new_zeros(start.shape[0], normals.shape[-2])), dim=-1)
            solution = _newton.solve(remaining, start, 1 + carried.abs().amax(-1), tol, max_iterations)
        solution = solution._replace(converged=alive & solution.converged)

        def equations(y: Tensor, rows: Tensor, before: Tensor, q: Tensor) -> Tensor:
            return self._remaining(self._carried(before, q, impulse, rows), q, self._normals(q), y, rows)

        y = _newton.differentiable(equations, solution, (before, q)) if recorded else solution.y
        return y[:, : q.shape[-1]], solution

    def _slots(self, q0: Tensor, q1: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """D1 and D2 of L_d with the forces of the step from q0 to q1, all of the samples ``rows``."""
        condition = None if self.condition is None else self.condition[rows]
        first, second = slot_derivatives(self.L, q0, q1, self.dt, condition)
        return _forced(first, second, q0, q1, self.dt, self.damping, self.discrete_forces, condition)

    def _carried(self, before: Tensor, q: Tensor, impulse: Tensor | None, rows: Tensor) -> Tensor:
        """What the samples ``rows`` bring from the step before: D2 L_d(before, q) and the forces."""
        momentum = self._slots(before, q, rows)[1]
        return momentum if impulse is None else momentum + impulse[rows]

    def _remaining(self, carried: Tensor, q: Tensor, normals: Tensor | None, y: Tensor, rows: Tensor) -> Tensor:
        """The equations for y, the next configuration and the multipliers."""
        d = q.shape[-1]
        end = y[:, :d]
        r = carried + self._slots(q, end, rows)[0]
        if normals is None:
            return r
        assert self.constraint is not None
        return torch.cat((r + (y[:, d:].unsqueeze(-2) @ normals).squeeze(-2), self.constraint(end)), dim=-1)

    def _normals(self, q: Tensor) -> Tensor | None:
        """The constraint's Jacobian, shape (batch, m, d)."""
        if self.constraint is None:
            return None
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            at = q.view_as(q) if q.requires_grad else q.detach().requires_grad_()
            values = self.constraint(at)
            if values.ndim != 2 or values.shape[0] != q.shape[0]:
                raise ValueError(f"constraint must return (..., m) for q (..., d), got {tuple(values.shape)}")
            return jacobian(values, at, differentiable)


def _forced(
    first: Tensor,
    second: Tensor,
    q0: Tensor,
    q1: Tensor,
    dt: float | Tensor,
    damping: float | Tensor,
    discrete_forces: DiscreteForces | None,
    condition: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The derivatives by both slots with friction's discrete forces, and others, added."""
    drag = damping * (q1 - q0) / 2
    first, second = first - drag, second - drag
    if discrete_forces is None:
        return first, second
    left, right = discrete_forces(q0, q1, dt, *(() if condition is None else (condition,)))
    for force in (left, right):
        if force.shape != q0.shape:
            raise ValueError(f"discrete_forces must return two of {tuple(q0.shape)} here, got {tuple(force.shape)}")
    return first + left, second + right


def initialize_from_state(
    L: Action,
    q0: Tensor,
    p0: Tensor,
    *,
    dt: float | Tensor,
    tol: float = 1e-6,
    max_iterations: int = 20,
    condition: Tensor | None = None,
) -> Tensor:
    """The configuration q1 (..., d) after a time step from q0 with momentum p0, each (..., d): p0 = -D1 L_d(q0, q1).

    Differentiable once. A ``RuntimeWarning`` tells of samples that were not solved; those are NaN.
    """
    _check_configurations(q0, p0, "p0")
    dt = _checked_dt(dt, q0)
    condition = _checked_condition(condition, q0)
    d = q0.shape[-1]
    q, p = _plain(q0).reshape(-1, d), _plain(p0).reshape(-1, d)
    flat_condition = _by_sample(condition, q.shape[0])

    def equations(y: Tensor, rows: Tensor, q: Tensor, p: Tensor) -> Tensor:
        return p + D1(L, q, y, dt, None if flat_condition is None else flat_condition[rows])

    recorded = _recorded(L, q, q, dt, flat_condition, p)
    with torch.inference_mode(False), torch.set_grad_enabled(recorded):
        scale = 1 + p.detach().abs().amax(-1)
        solution = _newton.solve(lambda y, rows: equations(y, rows, q[rows], p[rows]), q, scale, tol, max_iterations)
        q1 = _newton.differentiable(equations, solution, (q, p)) if recorded else solution.y
        if not bool(solution.converged.all()):
            failed = int((~solution.converged).sum())
            warnings.warn(
                f"{failed} of {q.shape[0]} samples were not solved to tol={tol}", RuntimeWarning, stacklevel=2
            )
            q1 = torch.where(solution.converged.unsqueeze(-1), q1, torch.nan)
    return q1.reshape(q0.shape)


def del_residual(
    L: Action,
    q: Tensor,
    *,
    dt: float | Tensor,
    forces: Tensor | None = None,
    damping: float | Tensor | None = None,
    discrete_forces: DiscreteForces | None = None,
    condition: Tensor | None = None,
) -> Tensor:
    """The equations' left side on an observed motion q (..., n + 2, d): (..., n, d), zero where L explains it.

    Its square is a loss that needs no solution; the zero Lagrangian has it as well, so train with
    ``regularity_penalty``. Forces, (..., n, d), damping and discrete forces as in ``del_rollout``. Source: SymDLNN;
    LaWM.
    """
    if not isinstance(q, Tensor) or q.ndim < 2 or q.shape[-2] < 2:
        got = tuple(q.shape) if isinstance(q, Tensor) else type(q).__name__
        raise ValueError(f"q must have shape (..., n + 2, d), got {got}")
    forces = _checked_like("forces", forces, q, (*q.shape[:-2], q.shape[-2] - 2, q.shape[-1]))
    condition = _checked_condition(condition, q[..., 0, :])
    action = describe_action(L)
    slots = partial(slot_derivatives, L) if isinstance(action, str) else action.slot_derivatives
    dt, damping = _checked_dt(dt, q), _checked_damping(damping, q)
    q0, q1 = q[..., :-1, :], q[..., 1:, :]
    if condition is not None:
        condition = condition.unsqueeze(-2).expand(*q0.shape[:-1], condition.shape[-1])
    first, second = _forced(*slots(q0, q1, dt, condition), q0, q1, dt, damping, discrete_forces, condition)
    r = second[..., :-1, :] + first[..., 1:, :]
    return r if forces is None else r + forces


def regularity_penalty(
    L: Action, q0: Tensor, q1: Tensor, *, dt: float | Tensor, least: float = 0.1, condition: Tensor | None = None
) -> Tensor:
    """Mean of relu(1 - s / ``least``)^2, s the smallest singular value of dt D1D2 L_d at (q0, q1); 0-d.

    dt D1D2 L_d is minus the mass matrix to leading order, so ``least`` is a mass: the penalty keeps the equations
    solvable, and the zero Lagrangian away from ``del_residual``. Source: after Offen and Ober-Bloebaum's regularisers.
    """
    _check_configurations(q0, q1)
    if not least > 0:
        raise ValueError(f"least must be positive, got {least}")
    dt = _checked_dt(dt, q0)
    smallest = torch.linalg.svdvals(dt * D1D2(L, q0, q1, dt, _checked_condition(condition, q0)))[..., -1]
    return torch.relu(1 - smallest / least).square().mean()


def _recorded(
    L: Action, q0: Tensor, q1: Tensor, dt: float | Tensor, condition: Tensor | None, *others: float | Tensor | None
) -> bool:
    """Whether there is anything to differentiate by, L's own parameters included."""
    if not torch.is_grad_enabled():
        return False
    value = L(q0, q1, dt, *(() if condition is None else (condition,)))
    return any(x.requires_grad for x in (value, *others) if isinstance(x, Tensor))


def _gather(solutions: list[_newton.Solution], q0: Tensor) -> DELInfo:
    batch, steps = len(q0), len(solutions)
    kinds = {"converged": torch.bool, "iterations": torch.int64, "residual": q0.dtype, "smallest_pivot": q0.dtype}
    fields: dict[str, Any] = {}
    for name, dtype in kinds.items():
        whole = torch.empty(batch, steps, dtype=dtype, device=q0.device)
        for k, solution in enumerate(solutions):
            whole[:, k] = getattr(solution, name)
        fields[name] = whole
    return DELInfo(**fields)


def _plain(q: Tensor) -> Tensor:
    """A tensor born in inference mode cannot enter autograd; a clone made outside it can."""
    if not q.is_inference():
        return q
    with torch.inference_mode(False):
        return q.clone()


def _check_configurations(q0: Tensor, other: Tensor, name: str = "q1") -> None:
    for label, q in (("q0", q0), (name, other)):
        if not isinstance(q, Tensor):
            raise TypeError(f"{label} must be a torch.Tensor, got {type(q).__name__}")
        if q.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{label} must be float32 or float64, got {q.dtype}")
    if q0.ndim == 0 or q0.shape[-1] == 0:
        raise ValueError(f"q0 must have shape (..., d), got {tuple(q0.shape)}")
    _check_kind(name, other, q0)
    if other.shape != q0.shape:
        raise ValueError(f"{name} must have q0's shape, {tuple(q0.shape)}, got {tuple(other.shape)}")


def _check_kind(name: str, given: Tensor, q: Tensor) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(given).__name__}")
    if given.dtype != q.dtype or given.device != q.device:
        raise TypeError(f"{name} must be {q.dtype} on {q.device} as q0 is, got {given.dtype} on {given.device}")


def _checked_like(name: str, given: Tensor | None, q: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """``given`` expanded to ``shape``, of q's dtype and device."""
    if given is None:
        return None
    _check_kind(name, given, q)
    try:
        return _plain(given).expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(given.shape)}") from None


def _checked_condition(condition: Tensor | None, q: Tensor) -> Tensor | None:
    if condition is None:
        return None
    _check_kind("condition", condition, q)
    if condition.ndim == 0:
        raise ValueError("condition must have shape (..., condition_dim), got a 0-d tensor")
    return _checked_like("condition", condition, q, (*q.shape[:-1], condition.shape[-1]))


def _by_sample(condition: Tensor | None, batch: int) -> Tensor | None:
    return None if condition is None else condition.reshape(batch, condition.shape[-1])


def _checked_damping(damping: float | Tensor | None, q: Tensor) -> float | Tensor:
    if damping is None:
        return 0.0
    if isinstance(damping, Tensor):
        return _checked_like("damping", damping, q, (q.shape[-1],))  # type: ignore[return-value]
    if isinstance(damping, bool) or not isinstance(damping, numbers.Real) or not math.isfinite(damping):
        raise ValueError(f"damping must be a finite number or a tensor of shape ({q.shape[-1]},), got {damping!r}")
    return float(damping)


def _checked_count(name: str, count: int, least: int) -> int:
    if isinstance(count, bool) or not isinstance(count, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {type(count).__name__}")
    if count < least:
        raise ValueError(f"{name} must be {least} or more, got {count}")
    return int(count)


def _checked_dt(dt: float | Tensor, q: Tensor) -> float | Tensor:
    if isinstance(dt, Tensor):
        if dt.ndim or not dt.dtype.is_floating_point:
            raise ValueError(f"dt must be a float or a 0-d floating-point tensor, got {dt.dtype} {tuple(dt.shape)}")
        dt = _plain(dt)
        if dt.is_cuda and q.is_cuda:  # its value is read where it is used: asking for it would wait
            return dt
        value = float(dt.detach())
    elif isinstance(dt, bool) or not isinstance(dt, numbers.Real):
        raise TypeError(f"dt must be a float or a 0-d tensor, got {type(dt).__name__}")
    else:
        value = dt = float(dt)
    if not math.isfinite(value) or value == 0:
        raise ValueError(f"dt must be finite and not zero, got {value}")
    return dt
