"""Torch operators over the native kernels of H = T(p) + V(q): schemas, fakes, the CPU's implementation and autograd.

As in ``_implicit_ops``. T is a network, or has masses: then its lists of weights and biases are empty.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _C
from ._addresses import address, contiguous
from ._ops import (
    check_cotangents,
    check_kept,
    check_layers,
    check_start,
    library,
    no_second_derivative,
    wants_gradient,
    zeros_for_none,
)
from .activations import ACTIVATIONS
from .integrators import INTEGRATORS, Stage, integrator
from .mlp import ScalarMLP
from .separable import SeparableHamiltonian

__all__ = ["METHODS", "separable_rollout", "why_not_native"]

library.define(
    "separable_rollout(Tensor z0, Tensor dt, Tensor[] weights, Tensor[] biases, Tensor[] kinetic_weights, "
    "Tensor[] kinetic_biases, Tensor? inverse_mass, Tensor? condition, str activation, str method, SymInt steps, "
    "bool recorded) -> (Tensor, Tensor, Tensor)"
)
library.define(
    "separable_rollout_backward(Tensor grad_trajectory, Tensor points_q, Tensor points_p, Tensor dt, Tensor[] weights, "
    "Tensor[] biases, Tensor[] kinetic_weights, Tensor[] kinetic_biases, Tensor? inverse_mass, Tensor? condition, "
    "str activation, str method) -> (Tensor, Tensor, Tensor[], Tensor[], Tensor[], Tensor[], Tensor, Tensor)"
)
_rollout = torch.ops.hamiltorch.separable_rollout.default
_rollout_backward = torch.ops.hamiltorch.separable_rollout_backward.default

Results = tuple[Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor]


def _splits(stages: tuple[Stage, ...]) -> bool:
    return bool(stages) and all(stage.moves in ("q", "p") for stage in stages)


_NATIVE = {
    name: _C.Method([(stage.mask, stage.coefficient, 0.0, 0.0) for stage in method.separable_stages])
    for name, method in INTEGRATORS.items()
    if _splits(method.separable_stages)
}
METHODS = frozenset(_NATIVE)  # those whose stages move one half each, for separable H


def why_not_native(H: SeparableHamiltonian, z0: Tensor, method: str, precision: str) -> str | None:
    """None where the kernels run this rollout, else one line that says why they do not."""
    if method not in METHODS:
        return f"method {method!r} has no kernel for a SeparableHamiltonian"
    if z0.device.type != "cpu" or (precision != "float32" and z0.dtype == torch.float32):
        return "a SeparableHamiltonian runs natively on the CPU, with precision 'float32'"
    networks = [network for network in (H.potential, H.kinetic_network) if network is not None]
    if any(type(network) is not ScalarMLP for network in networks):
        return f"V and T are {' and '.join(type(network).__name__ for network in networks)}, not ScalarMLP"
    if len({network.activation for network in networks}) > 1:
        return "V and T have different activations"
    return None


def separable_rollout(
    H: SeparableHamiltonian, z0: Tensor, dt: Tensor, steps: int, method: str, condition: Tensor | None
) -> Tensor:
    """Trajectory of z0 (batch, 2d), differentiable once."""
    potential = H.potential.description
    weights, biases = list(potential.weights), zeros_for_none(potential)
    kinetic_weights: list[Tensor] = []
    kinetic_biases: list[Tensor] = []
    inverse_mass = None
    if H.kinetic_network is not None:
        kinetic = H.kinetic_network.description
        kinetic_weights, kinetic_biases = list(kinetic.weights), zeros_for_none(kinetic)
    else:
        inverse_mass = z0.new_ones(H.dim // 2) if H.log_mass is None else torch.exp(-H.log_mass)
    recorded = wants_gradient(z0, dt, condition, inverse_mass, *weights, *biases, *kinetic_weights, *kinetic_biases)
    trajectory: Tensor = _rollout(
        z0, dt, weights, biases, kinetic_weights, kinetic_biases, inverse_mass, condition, potential.activation,
        method, steps, recorded,
    )[0]  # fmt: skip
    return trajectory


class _Call:
    """The native description of a call, and the contiguous tensors whose addresses it holds."""

    def __init__(
        self,
        z0: Tensor,
        dt: Tensor,
        weights: list[Tensor],
        biases: list[Tensor],
        kinetic_weights: list[Tensor],
        kinetic_biases: list[Tensor],
        inverse_mass: Tensor | None,
        condition: Tensor | None,
        activation: str,
        method: str,
        steps: int,
    ) -> None:
        check_start(z0, dt, steps)
        d = z0.shape[1] // 2
        if (inverse_mass is None) != bool(kinetic_weights):
            raise ValueError("kinetic_weights must be a network's, or inverse_mass be given in their place")
        if inverse_mass is not None and (inverse_mass.shape != (d,) or inverse_mass.dtype != z0.dtype):
            got = f"{inverse_mass.dtype} {tuple(inverse_mass.shape)}"
            raise ValueError(f"inverse_mass must be {z0.dtype} of shape ({d},), got {got}")
        if integrator(method).name not in METHODS:
            raise ValueError(f"method must be one of {', '.join(map(repr, sorted(METHODS)))}, got {method!r}")
        self.kept: list[Tensor | None] = [contiguous(condition), contiguous(inverse_mass)]

        def describe(weights: list[Tensor], biases: list[Tensor], name: str) -> Any:
            check_layers(z0[:, :d], dt, weights, biases, condition, name)
            weights, biases = [x.contiguous() for x in weights], [x.contiguous() for x in biases]
            self.kept += weights + biases
            return _C.Rollout(
                z0.dtype == torch.float64,
                d,
                weights[0].shape[1] - d,
                [weight.shape[0] for weight in weights[:-1]],
                ACTIVATIONS[activation].code,
                [x.data_ptr() for x in weights],
                [x.data_ptr() for x in biases],
                _NATIVE[method],
                dt.item(),
                steps,
                z0.shape[0],
                address(self.kept[0]),
                False,
            )

        kinetic: Any = describe(kinetic_weights, kinetic_biases, "kinetic_") if kinetic_weights else None
        self.rollout = _C.SeparableRollout(describe(weights, biases, ""), kinetic, address(self.kept[1]))


@torch.library.impl(library, "separable_rollout", "CPU")
def _rollout_cpu(
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    kinetic_weights: list[Tensor],
    kinetic_biases: list[Tensor],
    inverse_mass: Tensor | None,
    condition: Tensor | None,
    activation: str,
    method: str,
    steps: int,
    recorded: bool,
) -> Results:
    z0 = z0.contiguous()
    call = _Call(
        z0, dt, weights, biases, kinetic_weights, kinetic_biases, inverse_mass, condition, activation, method, steps
    )
    results = trajectory, points_q, points_p = _empty(z0, method, steps, recorded)
    assert call.rollout.evaluations == _evaluations(method, steps)  # as many points as the kernel writes
    points = (points_q.data_ptr(), points_p.data_ptr()) if recorded else (0, 0)
    _C.separable_forward(call.rollout, z0.data_ptr(), trajectory.data_ptr(), *points, torch.get_num_threads())
    return results


def _rollout_fake(
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    kinetic_weights: list[Tensor],
    kinetic_biases: list[Tensor],
    inverse_mass: Tensor | None,
    condition: Tensor | None,
    activation: str,
    method: str,
    steps: int,
    recorded: bool,
) -> Results:
    return _empty(z0, method, steps, recorded)


@torch.library.impl(library, "separable_rollout_backward", "CPU")
def _rollout_backward_cpu(
    grad_trajectory: Tensor,
    points_q: Tensor,
    points_p: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    kinetic_weights: list[Tensor],
    kinetic_biases: list[Tensor],
    inverse_mass: Tensor | None,
    condition: Tensor | None,
    activation: str,
    method: str,
) -> Gradients:
    check_cotangents(grad_trajectory)
    grad_trajectory, points_q, points_p = (x.contiguous() for x in (grad_trajectory, points_q, points_p))
    call = _Call(
        grad_trajectory[:, 0], dt, weights, biases, kinetic_weights, kinetic_biases, inverse_mass, condition,
        activation, method, grad_trajectory.shape[1] - 1,
    )  # fmt: skip
    batch, _, dim = grad_trajectory.shape
    for name, points, count in zip(
        ("points_q", "points_p"), (points_q, points_p), call.rollout.evaluations, strict=True
    ):
        check_kept(name, points, (batch, count, dim // 2), grad_trajectory.dtype)
    grads = _empty_gradients(
        grad_trajectory, dt, weights, biases, kinetic_weights, kinetic_biases, inverse_mass, condition
    )
    grad_z0, grad_dt, of_weights, of_biases, of_kinetic_weights, of_kinetic_biases, grad_mass, grad_condition = grads
    directions_q, directions_p = torch.empty_like(points_q), torch.empty_like(points_p)
    threads = torch.get_num_threads()
    _C.separable_adjoint(
        call.rollout,
        points_q.data_ptr(),
        points_p.data_ptr(),
        grad_trajectory.data_ptr(),
        directions_q.data_ptr(),
        directions_p.data_ptr(),
        grad_z0.data_ptr(),
        threads,
    )
    grad_dt.zero_()
    grad_condition.zero_()
    for of_kinetic, points, directions, by_weights, by_biases in (
        (False, points_q, directions_q, of_weights, of_biases),
        (True, points_p, directions_p, of_kinetic_weights, of_kinetic_biases),
    ):
        if not by_weights:
            continue
        by_biases[-1].zero_()  # no gradient of H has the last bias
        if points.numel() == 0:
            for grad in (*by_weights, *by_biases):
                grad.zero_()
            continue
        part = torch.empty_like(grad_dt)
        by_point = None if condition is None else points.new_empty(*points.shape[:2], condition.shape[1])
        _C.separable_gradient(
            call.rollout,
            of_kinetic,
            points.data_ptr(),
            directions.data_ptr(),
            [grad.data_ptr() for grad in by_weights],
            [grad.data_ptr() for grad in by_biases[:-1]],
            part.data_ptr(),
            address(by_point),
            threads,
        )
        grad_dt += part
        if by_point is not None:
            grad_condition += by_point.sum(1)
    if inverse_mass is not None:
        by_coordinate = (points_p * directions_p).sum((0, 1))
        torch.mul(by_coordinate, dt, out=grad_mass)
        grad_dt += (by_coordinate * inverse_mass).sum()
    return grads


def _rollout_backward_fake(
    grad_trajectory: Tensor,
    points_q: Tensor,
    points_p: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    kinetic_weights: list[Tensor],
    kinetic_biases: list[Tensor],
    inverse_mass: Tensor | None,
    condition: Tensor | None,
    activation: str,
    method: str,
) -> Gradients:
    return _empty_gradients(
        grad_trajectory, dt, weights, biases, kinetic_weights, kinetic_biases, inverse_mass, condition
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
    _, dt, weights, biases, kinetic_weights, kinetic_biases, inverse_mass, condition, *rest = inputs
    ctx.activation, ctx.method, *_ = rest
    ctx.layers = len(weights), len(kinetic_weights)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(
        *output[1:], dt, inverse_mass, condition, *weights, *biases, *kinetic_weights, *kinetic_biases
    )


def _backward(ctx: Any, grad_trajectory: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    layers, kinetic_layers = ctx.layers
    if grad_trajectory is None:
        lists = [[None] * count for count in (layers, layers, kinetic_layers, kinetic_layers)]
        return (None, None, *lists, *(None,) * 6)
    points_q, points_p, dt, inverse_mass, condition, *parameters = ctx.saved_tensors
    ends = [layers, 2 * layers, 2 * layers + kinetic_layers]
    lists = [parameters[begin:end] for begin, end in zip((0, *ends), (*ends, None), strict=True)]
    grad_z0, grad_dt, *by_networks, grad_mass, grad_condition = _rollout_backward(
        grad_trajectory, points_q, points_p, dt, *lists, inverse_mass, condition, ctx.activation, ctx.method
    )
    return (
        grad_z0,
        grad_dt,
        *map(list, by_networks),
        None if inverse_mass is None else grad_mass,
        None if condition is None else grad_condition,
        *(None,) * 4,
    )


torch.library.register_fake("hamiltorch::separable_rollout", _rollout_fake, lib=library)
torch.library.register_fake("hamiltorch::separable_rollout_backward", _rollout_backward_fake, lib=library)
torch.library.register_autograd(
    "hamiltorch::separable_rollout", _backward, setup_context=_save_for_backward, lib=library
)
torch.library.register_autograd("hamiltorch::separable_rollout_backward", no_second_derivative, lib=library)


def _empty(z0: Tensor, method: str, steps: int, recorded: bool) -> Results:
    """Trajectory, and the points of V and of T, empty where nothing is recorded."""
    rows, dim = z0.shape
    counts = _evaluations(method, steps)
    points_q, points_p = (z0.new_empty((rows, count, dim // 2) if recorded else (0,)) for count in counts)
    return z0.new_empty(rows, steps + 1, dim), points_q, points_p


def _evaluations(method: str, steps: int) -> tuple[int, int]:
    """Points of V and of T along a rollout: neighbours that move one half share theirs, across steps as well."""
    stages = integrator(method).separable_stages
    forces = sum(stage.moves == "p" for stage in stages)
    velocities = len(stages) - forces
    if stages[0].moves != stages[-1].moves:
        return forces * steps, velocities * steps
    shared = torch.sym_min(steps, 1)
    if stages[0].moves == "p":
        return (forces - 1) * steps + shared, velocities * steps
    return forces * steps, (velocities - 1) * steps + shared


def _empty_gradients(
    grad_trajectory: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    kinetic_weights: list[Tensor],
    kinetic_biases: list[Tensor],
    inverse_mass: Tensor | None,
    condition: Tensor | None,
) -> Gradients:
    def like(tensors: list[Tensor]) -> list[Tensor]:
        return [x.new_empty(x.shape) for x in tensors]

    nothing = grad_trajectory.new_empty((0,))
    return (
        grad_trajectory.new_empty(grad_trajectory.shape[0], grad_trajectory.shape[2]),
        dt.new_empty(()),
        like(weights),
        like(biases),
        like(kinetic_weights),
        like(kinetic_biases),
        nothing if inverse_mass is None else inverse_mass.new_empty(inverse_mass.shape),
        nothing.clone() if condition is None else condition.new_empty(condition.shape),
    )
