"""Whole rollouts in one call: the public functions, their checks, and the choice between native and reference."""

from __future__ import annotations

import numbers
import warnings
from typing import Any, Literal, overload

import torch
from torch import Tensor

from . import _ops, reference
from .integrators import integrator
from .mlp import MLP, HamiltonianMLP, check_condition, describe

__all__ = ["euler_rollout", "leapfrog_rollout", "rollout"]

BACKENDS = ("auto", "native", "reference")


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
    precision: str = ...,
    recompute: bool = ...,
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
    precision: str = ...,
    recompute: bool = ...,
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
def rollout(
    H: Any,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    *,
    method: str,
    condition: Tensor | None = None,
    return_energy: bool = False,
    precision: str = "float32",
    recompute: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Integrate Hamilton's equations of H from z0 and return every state.

    Args:
        H: a ``HamiltonianMLP``, an ``nn.Sequential`` of Linear layers and one supported activation, or (on the
            reference path) any callable from z (..., 2d) [and condition] to energies (...).
        z0: initial states (q, p), shape (..., 2d), float32 or float64.
        dt: time step in the units of the learned dynamics; a float or a 0-d tensor (then differentiable). Negative dt
            runs backward in time.
        steps: number of steps, zero or more.
        method: a name in ``hamiltorch_ext.integrators.INTEGRATORS``: "leapfrog" or "euler".
        condition: per-trajectory input of H, shape (..., condition_dim).
        return_energy: also return H at every state.
        precision: arithmetic of the products with float32 inputs, whose sums and states stay float32: "float32",
            "bfloat16" (7 bits of mantissa; on CPUs those with AVX-512 BF16), and on CUDA also "tf32" (10 bits). float64
            inputs are computed in float64.
        recompute: keep only the trajectory for the backward pass and evaluate the network again there: memory of
            O(steps batch dim), for about a third more time. Otherwise a rollout on the CPU also keeps
            O(steps batch sum(hidden)) numbers, if they take at most 1 GiB.
        backend: "native" (fused kernels, or an error that says why not), "reference" (torch autograd), or "auto":
            native where the kernels know H and the device, else reference with a warning that says why.

    Returns:
        Trajectory (..., steps + 1, 2d), index 0 is z0; with ``return_energy`` also energies (..., steps + 1). Both are
        differentiable once in z0, dt, the condition and H's parameters (any number of times on the reference path).

    Raises:
        ValueError, TypeError: an argument's shape, dtype, device or value; the message names it.
    """
    integrator(method)
    if type(H) is HamiltonianMLP and precision in _ops.PRECISIONS["cpu"] and backend in ("auto", "native"):
        # Ahead of the checks, which take longer than a small rollout: what they would find is declined here.
        result = _ops.direct_rollout(H, z0, dt, steps, method, condition, return_energy, precision)
        if result is not None:
            trajectory, energies, _ = result
            return trajectory if energies is None else (trajectory, energies)
    _check_state(z0)
    dt = _checked_dt(dt, z0)
    if isinstance(steps, bool) or not isinstance(steps, (numbers.Integral, torch.SymInt)):
        raise TypeError(f"steps must be an integer, got {type(steps).__name__}")
    if steps < 0:
        raise ValueError(f"steps must be zero or positive, got {steps}")
    _ops.check_precision(precision, z0)
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")

    mlp = describe(H)
    if condition is not None and not isinstance(condition, Tensor):
        raise TypeError(f"condition must be a torch.Tensor, got {type(condition).__name__}")
    if isinstance(mlp, MLP):
        _check_network(mlp, z0)
        check_condition(condition, mlp.condition_dim)
    condition = _checked_condition(condition, z0)

    if isinstance(mlp, MLP) and backend != "native" and _transformed():
        # torch.func and forward mode see through plain operations only: neither a native call nor an autograd pass.
        energy = (lambda z: mlp.energy(z, condition)) if return_energy else None
        return reference.integrate(lambda z: mlp.gradient(z, condition), energy, z0, dt, int(steps), method)
    if backend != "reference":
        reason = mlp if isinstance(mlp, str) else _why_not_native(mlp, z0, method, precision)
        if reason is None and _transformed():
            reason = "torch.func transforms and forward-mode differentiation do not see through a native call"
        if reason is None:
            assert isinstance(mlp, MLP)
            return _native(mlp, z0, dt, int(steps), method, condition, return_energy, precision, recompute)
        if backend == "native":
            raise ValueError(f"backend='native' cannot run this rollout: {reason}")
        warnings.warn(f"running on the torch reference path, many times slower: {reason}", stacklevel=3)
    # The native operator checks dt's value where it reads it; so does this, but not while tracing. On a GPU neither
    # does: to read it would be to wait for the device.
    if dt.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.isfinite(dt):
        raise ValueError(f"dt must be finite, got {dt.item()}")
    return reference.rollout(H, z0, dt, int(steps), method=method, condition=condition, return_energy=return_energy)


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
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
def leapfrog_rollout(H: Any, z0: Tensor, dt: float | Tensor, steps: int, **options: Any) -> Any:
    """``rollout`` with ``method="leapfrog"``: kick, drift, kick (H-JEPA, Algorithm 1); three gradients a step.

    Second order, symplectic and reversible for separable H = T(p) + V(q) only: for a general MLP the explicit form is
    of first order and neither, and ``diagnostics.symplectic_defect`` measures by how much. Arguments and results as in
    ``rollout``.
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
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
def euler_rollout(H: Any, z0: Tensor, dt: float | Tensor, steps: int, **options: Any) -> Any:
    """``rollout`` with ``method="euler"``: z + dt J dH/dz; one gradient a step, first order, keeps no structure.

    Arguments and results as in ``rollout``. Source: H-JEPA, section 5.5 (ablation).
    """
    return rollout(H, z0, dt, steps, method="euler", **options)


def _why_not_native(mlp: MLP, z0: Tensor, method: str, precision: str) -> str | None:
    # While tracing, the operator itself says so when it runs.
    return None if torch.compiler.is_compiling() else _ops.why_not_native(mlp, z0, method, precision)


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
) -> Tensor | tuple[Tensor, Tensor]:
    result = _ops.direct_rollout(mlp, z0, dt, steps, method, condition, return_energy, precision)
    if result is not None:
        trajectory, energies, _ = result
        return trajectory if energies is None else (trajectory, energies)
    batch = z0.shape[:-1]
    if len(batch) != 1:
        z0 = z0.reshape(-1, mlp.dim) if z0.numel() else z0.new_empty(0, mlp.dim)
        if condition is not None:
            condition = condition.reshape(z0.shape[0], mlp.condition_dim)
    trajectory, energies = _ops.rollout(mlp, z0, dt, steps, method, condition, return_energy, precision, recompute)
    if len(batch) != 1:
        trajectory = trajectory.reshape(*batch, steps + 1, mlp.dim)
        energies = energies.reshape(*batch, steps + 1) if return_energy else energies
    return (trajectory, energies) if return_energy else trajectory


def _transformed() -> bool:
    return not torch.compiler.is_compiling() and _ops.transformed()


def _check_state(z0: Tensor) -> None:
    if not isinstance(z0, Tensor):
        raise TypeError(f"z0 must be a torch.Tensor, got {type(z0).__name__}")
    if z0.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"z0 must be float32 or float64, got {z0.dtype}")
    if z0.ndim == 0 or z0.shape[-1] == 0 or z0.shape[-1] % 2:
        raise ValueError(f"z0 must have shape (..., 2d) with an even last dimension, got {tuple(z0.shape)}")


def _checked_dt(dt: float | Tensor, z0: Tensor) -> Tensor:
    """``dt`` as a 0-d tensor of z0's dtype and device. Tensors are checked to be finite where their value is read."""
    if isinstance(dt, Tensor):
        if dt.ndim:
            raise ValueError(f"dt must be a float or a 0-d tensor, got shape {tuple(dt.shape)}")
        if not dt.dtype.is_floating_point:
            raise TypeError(f"dt must be a floating-point tensor, got {dt.dtype}")
        return dt.to(device=z0.device, dtype=z0.dtype)
    if isinstance(dt, bool) or not isinstance(dt, (numbers.Real, torch.SymFloat)):
        raise TypeError(f"dt must be a float or a 0-d tensor, got {type(dt).__name__}")
    if not abs(dt) < float("inf"):
        raise ValueError(f"dt must be finite, got {dt}")
    if abs(dt) > torch.finfo(z0.dtype).max:
        raise ValueError(f"dt must be within the range of {z0.dtype}, got {dt}")
    return torch.full((), float(dt), dtype=z0.dtype, device=z0.device)


def _check_network(mlp: MLP, z0: Tensor) -> None:
    if z0.shape[-1] != mlp.dim:
        raise ValueError(f"z0 must have shape (..., {mlp.dim}) for this H, got {tuple(z0.shape)}")
    for parameter in (*mlp.weights, *mlp.biases):
        if parameter is None:
            continue
        if parameter.dtype != z0.dtype:
            raise TypeError(f"z0 must have the dtype of H's parameters, {parameter.dtype}, got {z0.dtype}")
        if parameter.device != z0.device:
            raise ValueError(f"z0 must be on the device of H's parameters, {parameter.device}, got {z0.device}")


def _checked_condition(condition: Tensor | None, z0: Tensor) -> Tensor | None:
    """``condition`` expanded to z0's batch shape."""
    if condition is None:
        return None
    if condition.dtype != z0.dtype:
        raise TypeError(f"condition must have z0's dtype, {z0.dtype}, got {condition.dtype}")
    if condition.device != z0.device:
        raise ValueError(f"condition must be on z0's device, {z0.device}, got {condition.device}")
    if condition.ndim == 0:
        raise ValueError("condition must have shape (..., condition_dim), got a 0-d tensor")
    try:
        return condition.expand(*z0.shape[:-1], condition.shape[-1])
    except RuntimeError:
        raise ValueError(
            f"condition must have shape {(*z0.shape[:-1], condition.shape[-1])} (z0's batch), "
            f"got {tuple(condition.shape)}"
        ) from None
