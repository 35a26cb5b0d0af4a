"""What one step of a trained model keeps, measured: the symplectic form, and the way back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from hamiltorch_ext import diagnostics, rollout

from .models import DynamicsModel, HamiltonianDynamics

__all__ = ["measure_structure"]

STATES = 4  # a Jacobian of 1024 x 1024 in float64 costs about half a second each


def measure_structure(models: Mapping[str, DynamicsModel], z: Tensor, steps: int) -> dict[str, dict[str, Any]]:
    """Measure in float64 how far each Hamiltonian model is from symplectic and from reversible in its phase space.

    Explicit leapfrog is symplectic and reversible for H = T(p) + V(q) only; the paper's Proposition 1 takes that for
    granted, its network H(q, p) is not of that form.

    Args:
        models: by name; those without an H are left out.
        z: latents from the data, (N, 2d); the first four are used.
        steps: length of the way there and of the way back.

    Returns:
        JSON data by model: ``dt``, ``method``, ``symplectic_defect`` (Frobenius norm of A^T J A - J for the Jacobian A
        of one step, divided by that of J, mean over states; rounding, about 1e-15, for a symplectic step) and
        ``return_error`` (distance from z after ``steps`` steps forward and back, divided by the distance travelled).
    """
    result: dict[str, dict[str, Any]] = {}
    states = z[:STATES].double().cpu()
    for name, model in models.items():
        if not isinstance(model, HamiltonianDynamics):
            continue
        exact = copy.deepcopy(model).double().cpu()
        H, dt, method = exact.H, model.dt.item(), model.integrator
        with torch.no_grad():
            points = exact.to_phase_space(states)
            there = rollout(H, points, dt, steps, method=method)[:, -1]
            back = diagnostics.reversibility_error(H, points, dt, steps, method)
        defect = diagnostics.symplectic_defect(H, points, dt, method).mean().item() / states.shape[1] ** 0.5
        result[name] = {
            "dt": dt,
            "method": method,
            "symplectic_defect": defect,
            "return_error": (back / vector_norm(there - points, dim=-1)).mean().item(),
        }
    return result
