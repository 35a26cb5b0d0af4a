"""Whole rollouts in one call: the public functions, their checks, and the choice between native and reference."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import _discrete_gradient_ops, _extended_ops, _implicit_ops, _ops, _separable_ops, reference
from ._batches import energies_at, in_batches, rows
from ._checks import (
    check_backend,
    check_network,
    check_state,
    check_structure,
    checked_condition,
    checked_dt,
    checked_settings,
    warn_of_failures,
)
from ._cuda_separable import System
from .integrators import integrator
from .mlp import MLP, HamiltonianMLP, check_condition, describe, first_hooked
from .reference import RolloutInfo, Settings, chosen
from .separable import SeparableHamiltonian

__all__ = ["RolloutInfo", "euler_rollout", "leapfrog_rollout", "rollout"]

_Stretch = Callable[[Tensor, int], tuple[Tensor, RolloutInfo]]  # from a state, so many steps


@overload
def rollout(
    H: Any,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    method: str,
    condition: Tensor | None = ...,
    return_energy: Literal[False] = ...,
    return_info: Literal[False] = ...,
    tol: float | None = ...,
    max_iterations: int = ...,
    binding: float = ...,
    require: str | None = ...,
    precision: str = ...,
    recompute: bool = ...,
    save_every: int = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def rollout(
    H: Any,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    method: str,
    condition: Tensor | None = ...,
    return_energy: Literal[True],
    return_info: Literal[False] = ...,
    tol: float | None = ...,
    max_iterations: int = ...,
    binding: float = ...,
    require: str | None = ...,
    precision: str = ...,
    recompute: bool = ...,
    save_every: int = ...,
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def rollout(
    H: Any,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    method: str,
    condition: Tensor | None = ...,
    return_energy: Literal[False] = ...,
    return_info: Literal[True],
    tol: float | None = ...,
    max_iterations: int = ...,
    binding: float = ...,
    require: str | None = ...,
    precision: str = ...,
    recompute: bool = ...,
    save_every: int = ...,
    backend: str = ...,
) -> tuple[Tensor, RolloutInfo]: ...
@overload
def rollout(
    H: Any,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    method: str,
    condition: Tensor | None = ...,
    return_energy: Literal[True],
    return_info: Literal[True],
    tol: float | None = ...,
    max_iterations: int = ...,
    binding: float = ...,
    require: str | None = ...,
    precision: str = ...,
    recompute: bool = ...,
    save_every: int = ...,
    backend: str = ...,
) -> tuple[Tensor, Tensor, RolloutInfo]: ...
def rollout(
    H: Any,
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
    require: str | None = None,
    precision: str = "float32",
    recompute: bool = False,
    save_every: int = 1,
    backend: str = "auto",
) -> Any:
    """Integrate Hamilton's equations of H from z0 and return every state.

    Args:
        H: a ``HamiltonianMLP``, an ``nn.Sequential`` of Linear layers and one supported activation, a
            ``SeparableHamiltonian``, or (on the reference path) any callable from z (..., 2d) [and condition] to
            energies (...).
        z0: initial states (q, p), shape (..., 2d), float32 or float64.
        dt: time step in the units of the learned dynamics; a float or a 0-d tensor (then differentiable). Negative dt
            runs backward in time.
        steps: number of steps, zero or more.
        method: a name in ``hamiltorch_ext.integrators.INTEGRATORS``, which says what each costs and keeps: "euler",
            "symplectic_euler", "leapfrog" (explicit, H-JEPA's Algorithm 1), "stormer_verlet" (generalised),
            "implicit_midpoint", "yoshida4", "extended" (Tao) or "discrete_gradient" (Gonzalez).
        condition: per-trajectory input of H, shape (..., condition_dim).
        return_energy: also return H at every state.
        return_info: also return a ``RolloutInfo`` of the implicit methods' solves; without it, a warning tells of
            steps that were not solved.
        tol: of implicit methods: a step's equations are solved when no entry of them is larger than ``tol`` times one
            plus the largest of the solution, or when Newton's next step would be lost in rounding. Natively, but for
            "discrete_gradient", those are the equations as the first layer's arguments see them, and where only one of
            q and p is implicit in a stage, that one's. By default 1e-6 in float32 and 1e-14 in float64: what they keep
            they keep to this tolerance.
        max_iterations: of implicit methods, most iterations of one solve.
        binding: of "extended": omega, in the units of one over dt, that binds the two copies of the phase space.
        require: "symplectic", "symmetric" or "energy": a ValueError where ``method`` does not keep that for this H.
        precision: arithmetic of the products with float32 inputs, whose sums and states stay float32: "float32",
            "bfloat16" (7 bits of mantissa; on CPUs those with AVX-512 BF16), and on CUDA also "tf32" (10 bits). float64
            inputs are computed in float64.
        recompute: keep only the trajectory for the backward pass and evaluate the network again there: memory of
            O(steps batch dim), for about a third more time. Otherwise a rollout on the CPU also keeps
            O(steps batch sum(hidden)) numbers, if they take at most 1 GiB (explicit methods of a network H; others keep
            O(steps batch dim) either way).
        save_every: return no more than every so many-th state, of which ``steps`` must be a multiple. The steps between
            two of them run again in the backward pass, one stretch at a time: memory of O(steps / save_every batch dim)
            and what one stretch takes, for one more rollout's time; the parameters must not change before it. Of
            rollouts that run natively, and not with "extended", of whose two copies of the phase space a state is one.
        backend: "native" (fused kernels, or an error that says why not), "reference" (torch autograd), or "auto":
            native where the kernels know H, the method and the device, else reference with a warning that says why.
            A ``SeparableHamiltonian`` runs natively with "symplectic_euler", "leapfrog", "stormer_verlet" and
            "yoshida4"; otherwise "auto" runs it in torch by its analytic gradients, without a warning.

    Returns:
        Trajectory (..., steps / save_every + 1, 2d), index 0 is z0; with ``return_energy`` also energies of those
        states, with ``return_info`` also a ``RolloutInfo`` of all steps. Trajectory and energies are differentiable
        once in z0, dt, the condition and H's parameters (explicit methods on the reference path: any number of times),
        implicit methods by the implicit function theorem. A step that was not solved holds the best that was found, and
        is constant; natively so are the steps after it.

    Raises:
        ValueError, TypeError: an argument's shape, dtype, device or value; the message names it.
    """
    table = integrator(method)
    if require is not None:
        check_structure(table, H, require)
    if (
        type(H) is HamiltonianMLP
        and method in _ops.EXPLICIT
        and precision in _ops.PRECISIONS["cpu"]
        and backend in ("auto", "native")
        and save_every == 1
        and not return_info
    ):
        # Ahead of the checks, which take longer than a small rollout: what they would find is declined here.
        result = _ops.direct_rollout(H, z0, dt, steps, method, condition, return_energy, precision)
        if result is not None:
            trajectory, energies, _ = result
            return trajectory if energies is None else (trajectory, energies)
    check_state(z0)
    dt = checked_dt(dt, z0)
    if isinstance(steps, bool) or not isinstance(steps, (numbers.Integral, torch.SymInt)):
        raise TypeError(f"steps must be an integer, got {type(steps).__name__}")
    if steps < 0:
        raise ValueError(f"steps must be zero or positive, got {steps}")
    if isinstance(save_every, bool) or not isinstance(save_every, numbers.Integral):
        raise TypeError(f"save_every must be an integer, got {type(save_every).__name__}")
    if save_every < 1 or steps % save_every:
        raise ValueError(f"save_every must be one or more and divide steps={steps}, got {save_every}")
    if save_every > 1 and method == "extended":
        raise ValueError(f"save_every must be 1 with method='extended', got {save_every}")
    settings = checked_settings(tol, max_iterations, binding)
    _ops.check_precision(precision, z0)
    check_backend(backend)

    mlp = describe(H)
    if condition is not None and not isinstance(condition, Tensor):
        raise TypeError(f"condition must be a torch.Tensor, got {type(condition).__name__}")
    if isinstance(mlp, MLP):
        check_network(mlp.dim, (*mlp.weights, *mlp.biases), z0)
        check_condition(condition, mlp.condition_dim)
    elif isinstance(H, SeparableHamiltonian):
        check_network(H.dim, H.parameters(), z0)
        check_condition(condition, H.condition_dim)
    condition = checked_condition(condition, z0)

    # Written out in torch, no pass of autograd for a gradient; backend="reference" asks for that one.
    analytic = type(H) is SeparableHamiltonian and first_hooked((H,)) is None and backend != "reference"
    system = _separable_field(H, condition) if analytic else reference.field(H, condition)
    explicit = table.explicit or (system.separable and table.explicit_if_separable)
    seen_through = (isinstance(mlp, MLP) or analytic) and backend != "native" and _transformed()
    reason = None
    if seen_through:
        # torch.func and forward mode see through plain operations only: neither a native call nor an autograd pass.
        if not explicit:
            raise ValueError(f"method={method!r} solves equations, which torch.func transforms do not see through")
        if isinstance(mlp, MLP):
            network = mlp
            system = reference.Field(lambda z: network.energy(z, condition), lambda z: network.gradient(z, condition))
    elif backend != "reference":
        if analytic:
            reason = _separable_ops.why_not_native(H, z0, method, precision)
        else:
            reason = mlp if isinstance(mlp, str) else _ops.why_not_native(mlp, z0, method, precision)
        if reason is None and _transformed():
            reason = "torch.func transforms and forward-mode differentiation do not see through a native call"
        if reason is None:
            if isinstance(mlp, MLP) and save_every == 1 and table.explicit and method != "extended":
                results = _native(mlp, z0, dt, int(steps), method, condition, return_energy, precision, recompute)
                return chosen(*results, _nothing_solved(steps, z0) if return_info else None)
            if isinstance(mlp, MLP):
                energy: Callable[..., Tensor] = mlp.energy
                stretch = partial(_native_states, mlp, dt, method, condition, settings, precision, recompute)
            else:
                energy = H
                stretch = partial(_native_separable, _separable_ops.system_of(H, dt, rows(condition), method))
            trajectory, info = _by_stretches(stretch, z0, int(steps), int(save_every))
            solves = isinstance(mlp, MLP) and not table.explicit
            if solves and not return_info:  # which waits for the device
                warn_of_failures(info.converged, settings.tolerance(z0.dtype))
            energies = energies_at(energy, trajectory, condition) if return_energy else None
            return chosen(trajectory, energies, info if return_info else None)
        if backend == "native" and reason is not None:
            raise ValueError(f"backend='native' cannot run this rollout: {reason}")
        if not analytic and save_every == 1:
            warnings.warn(f"running on the torch reference path, many times slower: {reason}", stacklevel=3)
    if save_every > 1:
        why = "" if reason is None else f": {reason}"
        raise ValueError(f"save_every must be 1 where no kernel runs the rollout, got {save_every}{why}")
    # The native operator checks dt's value where it reads it; so does this, but not while tracing. On a GPU neither
    # does: to read it would be to wait for the device.
    if dt.device.type == "cpu" and not seen_through and not torch.compiler.is_compiling() and not torch.isfinite(dt):
        raise ValueError(f"dt must be finite, got {dt.item()}")
    trajectory, info = reference.integrate(system, z0, dt, int(steps), method, settings)
    if not explicit and not return_info:
        warn_of_failures(info.converged, settings.tolerance(z0.dtype))
    energies = reference.energies_along(system, trajectory) if return_energy else None
    return chosen(trajectory, energies, info if return_info else None)


@overload
def leapfrog_rollout(
    H: Any,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    condition: Tensor | None = ...,
    return_energy: Literal[False] = ...,
    precision: str = ...,
    recompute: bool = ...,
    save_every: int = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def leapfrog_rollout(
    H: Any,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    condition: Tensor | None = ...,
    return_energy: Literal[True],
    precision: str = ...,
    recompute: bool = ...,
    save_every: int = ...,
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
def leapfrog_rollout(H: Any, z0: Tensor, dt: float | Tensor, steps: int, **options: Any) -> Any:
    """``rollout`` with ``method="leapfrog"``: kick, drift, kick (H-JEPA, Algorithm 1); three gradients a step.

    Second order, symplectic and reversible for separable H = T(p) + V(q) only: for a general MLP the explicit form is
    of first order and neither, and ``diagnostics.symplectic_defect`` measures by how much; "stormer_verlet" is what it
    approximates. Arguments and results as in ``rollout``.
    """
    return rollout(H, z0, dt, steps, method="leapfrog", **options)


@overload
def euler_rollout(
    H: Any,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    condition: Tensor | None = ...,
    return_energy: Literal[False] = ...,
    precision: str = ...,
    recompute: bool = ...,
    save_every: int = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def euler_rollout(
    H: Any,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    condition: Tensor | None = ...,
    return_energy: Literal[True],
    precision: str = ...,
    recompute: bool = ...,
    save_every: int = ...,
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
def euler_rollout(H: Any, z0: Tensor, dt: float | Tensor, steps: int, **options: Any) -> Any:
    """``rollout`` with ``method="euler"``: z + dt J dH/dz; one gradient a step, first order, keeps no structure.

    Arguments and results as in ``rollout``. Source: H-JEPA, section 5.5 (ablation).
    """
    return rollout(H, z0, dt, steps, method="euler", **options)


def _by_stretches(stretch: _Stretch, z0: Tensor, steps: int, save_every: int) -> tuple[Tensor, RolloutInfo]:
    """Every so many-th state and the ``RolloutInfo`` of all steps; what is between is found again when it is needed."""
    if save_every == 1:
        return stretch(z0, steps)

    def end(z: Tensor) -> tuple[Tensor, ...]:
        trajectory, info = stretch(z, save_every)
        return trajectory[..., -1, :], *info

    # What is compiled decides for itself what to keep.
    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    states, infos = [z0], [_nothing_solved(0, z0)]
    alive = torch.ones(z0.shape[:-1], dtype=torch.bool, device=z0.device)
    for _ in range(steps // save_every):
        ended = checkpoint(end, states[-1], use_reentrant=False, preserve_rng_state=False) if again else end(states[-1])
        z, info = ended[0], RolloutInfo(*ended[1:])
        info = info._replace(converged=info.converged & alive.unsqueeze(-1))
        alive = info.converged[..., -1]
        states.append(torch.where(alive.unsqueeze(-1), z, z.detach()))  # from a failure on, a constant
        infos.append(info)
    joined = RolloutInfo(*(torch.cat(fields, -1) for fields in zip(*infos, strict=True)))
    return torch.stack(states, -2), joined


def _native_states(
    mlp: MLP,
    dt: Tensor,
    method: str,
    condition: Tensor | None,
    settings: Settings,
    precision: str,
    recompute: bool,
    z0: Tensor,
    steps: int,
) -> tuple[Tensor, RolloutInfo]:
    if not integrator(method).explicit:
        return _native_implicit(mlp, z0, dt, steps, method, condition, settings)
    if method == "extended":
        trajectory = _native_extended(mlp, z0, dt, steps, condition, settings.binding)
    else:
        trajectory, _ = _native(mlp, z0, dt, steps, method, condition, False, precision, recompute)
    return trajectory, _nothing_solved(steps, z0)


def _native(
    mlp: MLP,
    z0: Tensor,
    dt: Tensor,
    steps: int,
    method: str,
    condition: Tensor | None,
    return_energy: bool,
    precision: str,
    recompute: bool,
) -> tuple[Tensor, Tensor | None]:
    result = _ops.direct_rollout(mlp, z0, dt, steps, method, condition, return_energy, precision)
    if result is not None:
        return result[:2]
    batch = z0.shape[:-1]
    if len(batch) != 1:
        z0 = z0.reshape(-1, mlp.dim) if z0.numel() else z0.new_empty(0, mlp.dim)
        if condition is not None:
            condition = condition.reshape(z0.shape[0], mlp.condition_dim)
    trajectory, energies = _ops.rollout(mlp, z0, dt, steps, method, condition, return_energy, precision, recompute)
    if len(batch) != 1:
        trajectory = trajectory.reshape(*batch, steps + 1, mlp.dim)
        energies = energies.reshape(*batch, steps + 1) if return_energy else energies
    return trajectory, energies if return_energy else None


def _native_implicit(
    mlp: MLP, z0: Tensor, dt: Tensor, steps: int, method: str, condition: Tensor | None, settings: Settings
) -> tuple[Tensor, RolloutInfo]:
    batch = z0.shape[:-1]
    z0, condition = rows(z0), rows(condition)
    limits = settings.tolerance(z0.dtype), settings.max_iterations
    if method == "discrete_gradient":
        trajectory, info = _discrete_gradient_ops.discrete_rollout(mlp, z0, dt, steps, condition, *limits)
    else:
        trajectory, info = _implicit_ops.implicit_rollout(mlp, z0, dt, steps, method, condition, *limits)
    return in_batches(trajectory, info, batch)


def _native_separable(system: System, z0: Tensor, steps: int) -> tuple[Tensor, RolloutInfo]:
    trajectory = _separable_ops.separable_rollout(system, rows(z0), steps)
    return trajectory.reshape(*z0.shape[:-1], steps + 1, z0.shape[-1]), _nothing_solved(steps, z0)


def _native_extended(mlp: MLP, z0: Tensor, dt: Tensor, steps: int, condition: Tensor | None, binding: float) -> Tensor:
    trajectory = _extended_ops.extended_rollout(mlp, rows(z0), dt, steps, rows(condition), binding)
    return trajectory.reshape(*z0.shape[:-1], steps + 1, mlp.dim)


def _nothing_solved(steps: int, z0: Tensor) -> RolloutInfo:
    shape = (*z0.shape[:-1], steps)
    return RolloutInfo(
        torch.ones(shape, dtype=torch.bool, device=z0.device),
        torch.zeros(shape, dtype=torch.int64, device=z0.device),
        torch.zeros(shape, dtype=z0.dtype, device=z0.device),
    )


def _transformed() -> bool:
    return not torch.compiler.is_compiling() and _ops.transformed()


def _separable_field(H: SeparableHamiltonian, condition: Tensor | None) -> reference.Field:
    condition = None if condition is None else reference.plain(condition)
    return reference.Field(
        lambda z: H(z, condition),
        lambda z: H.gradient(z, condition),
        separable=True,
        halves=reference.Halves(
            lambda q: H.potential_gradient(q, condition), lambda p: H.kinetic_gradient(p, condition)
        ),
    )
