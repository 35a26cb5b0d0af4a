"""Checks of what rollouts are given: an exception names the argument, what it must be, and what it was."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .integrators import INTEGRATORS, Integrator
from .reference import Settings

__all__ = [
    "check_backend",
    "check_network",
    "check_state",
    "check_structure",
    "checked_condition",
    "checked_dt",
    "checked_settings",
    "warn_of_failures",
]

BACKENDS = ("auto", "native", "reference")


def check_backend(backend: str) -> None:
    """ValueError unless it is a way to run a rollout."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


def check_state(z0: Tensor) -> None:
    """Raise unless ``z0`` can be states (..., 2d)."""
    if not isinstance(z0, Tensor):
        raise TypeError(f"z0 must be a torch.Tensor, got {type(z0).__name__}")
    if z0.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"z0 must be float32 or float64, got {z0.dtype}")
    if z0.ndim == 0 or z0.shape[-1] == 0 or z0.shape[-1] % 2:
        raise ValueError(f"z0 must have shape (..., 2d) with an even last dimension, got {tuple(z0.shape)}")


def checked_dt(dt: float | Tensor, z0: Tensor) -> Tensor:
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


def check_network(dim: int, parameters: Iterable[Tensor | None], z0: Tensor) -> None:
    """Raise unless ``z0`` has an energy's size ``dim``, and the dtype and device of its parameters."""
    if z0.shape[-1] != dim:
        raise ValueError(f"z0 must have shape (..., {dim}) for this H, got {tuple(z0.shape)}")
    for parameter in parameters:
        if parameter is None:
            continue
        if parameter.dtype != z0.dtype:
            raise TypeError(f"z0 must have the dtype of H's parameters, {parameter.dtype}, got {z0.dtype}")
        if parameter.device != z0.device:
            raise ValueError(f"z0 must be on the device of H's parameters, {parameter.device}, got {z0.device}")


def checked_condition(condition: Tensor | None, z0: Tensor) -> Tensor | None:
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


def check_structure(table: Integrator, H: Any, structure: str) -> None:
    """ValueError where the method does not keep ``structure`` for this H; the message names those that do."""
    separable = bool(getattr(H, "separable", False))
    if table.keeps(structure, separable):
        return
    others = [method.name for method in INTEGRATORS.values() if method.keeps(structure, separable)]
    kind = "separable H" if separable else f"general H(q, p) such as this {type(H).__name__}"
    note = " (for separable H = T(p) + V(q) it does)" if table.keeps(structure, True) else ""
    raise ValueError(
        f"method={table.name!r} does not keep {structure!r} structure for a {kind}{note}; "
        f"method must be one of {', '.join(map(repr, others))}"
    )


def checked_settings(tol: float | None, max_iterations: int, binding: float) -> Settings:
    """The settings of the methods that have some; ValueError, TypeError name the one that is wrong."""
    if tol is not None and (isinstance(tol, bool) or not isinstance(tol, numbers.Real) or not 0 < tol < math.inf):
        raise ValueError(f"tol must be a positive number or None, got {tol!r}")
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, numbers.Integral):
        raise TypeError(f"max_iterations must be an integer, got {type(max_iterations).__name__}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be one or more, got {max_iterations}")
    if isinstance(binding, bool) or not isinstance(binding, numbers.Real) or not abs(binding) < math.inf:
        raise ValueError(f"binding must be a finite number, got {binding!r}")
    return Settings(None if tol is None else float(tol), int(max_iterations), float(binding))


def warn_of_failures(converged: Tensor, tol: float) -> None:
    """RuntimeWarning where a sample of ``converged`` (..., steps) has a step that was not solved."""
    if torch.compiler.is_compiling() or bool(converged.all()):
        return
    alive = converged.flatten(0, -2).all(-1) if converged.ndim > 1 else converged.all(-1, keepdim=True)
    warnings.warn(
        f"{int((~alive).sum())} of {alive.numel()} trajectories were not solved to tol={tol} "
        "(return_info=True says which and where)",
        RuntimeWarning,
        stacklevel=3,
    )
