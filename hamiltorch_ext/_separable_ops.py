"""Torch operators over the native kernels of H = T(p) + V(q): schemas, fakes, CPU and CUDA implementations, autograd.

As in ``_implicit_ops``. T is a network, or has masses: then its lists of weights and biases are empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import _C, _cuda_separable, cuda_plans
from ._addresses import address, contiguous
from ._cuda_block import apart
from ._cuda_separable import System
from ._ops import (
    check_cotangents,
    check_kept,
    check_layers,
    check_start,
    library,
    no_second_derivative,
    wants_gradient,
    why_not_there,
    zeros_for_none,
)
from .activations import ACTIVATIONS
from .integrators import INTEGRATORS, Stage, integrator
from .mlp import ScalarMLP
from .separable import SeparableHamiltonian

__all__ = ["METHODS", "separable_rollout", "system_of", "why_not_native"]

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
    if precision != "float32" and z0.dtype == torch.float32:
        return "a SeparableHamiltonian runs natively with precision 'float32'"
    networks = [network for network in (H.potential, H.kinetic_network) if network is not None]
    if any(type(network) is not ScalarMLP for network in networks):
        return f"V and T are {' and '.join(type(network).__name__ for network in networks)}, not ScalarMLP"
    if len({network.activation for network in networks}) > 1:
        return "V and T have different activations"
    hidden = tuple(tuple(weight.shape[0] for weight in network.description.weights[:-1]) for network in networks)
    return why_not_there(z0, partial(cuda_plans.separable_plan, _C, H.dim // 2, hidden))


def system_of(H: SeparableHamiltonian, dt: Tensor, condition: Tensor | None, method: str) -> System:
    """What a rollout depends on, as H's parameters are now; the condition is (batch, condition_dim)."""
    potential = H.potential.description
    kinetic = None if H.kinetic_network is None else H.kinetic_network.description
    inverse_mass = None
    if kinetic is None:
        log_mass = potential.weights[0].new_zeros(H.dim // 2) if H.log_mass is None else H.log_mass
        inverse_mass = torch.exp(-log_mass)
    return System(
        dt,
        list(potential.weights),
        zeros_for_none(potential),
        [] if kinetic is None else list(kinetic.weights),
        [] if kinetic is None else zeros_for_none(kinetic),
        inverse_mass,
        condition,
        potential.activation,
        method,
    )


def separable_rollout(system: System, z0: Tensor, steps: int) -> Tensor:
    """Trajectory of z0 (batch, 2d), differentiable once."""
    parameters = (x for network in system.networks for tensors in network for x in tensors)
    recorded = wants_gradient(z0, system.dt, system.condition, system.inverse_mass, *parameters)
    trajectory: Tensor = _rollout(z0, *system, steps, recorded)[0]
    return trajectory


def _check_call(z0: Tensor, system: System, steps: int) -> None:
    """What the kernels take on trust."""
    check_start(z0, system.dt, steps)
    d, inverse_mass = z0.shape[1] // 2, system.inverse_mass
    if (inverse_mass is None) != bool(system.kinetic_weights or system.kinetic_biases):
        raise ValueError("kinetic_weights must be a network's, or inverse_mass be given in their place")
    if inverse_mass is not None:
        if inverse_mass.shape != (d,) or inverse_mass.dtype != z0.dtype:
            got = f"{inverse_mass.dtype} {tuple(inverse_mass.shape)}"
            raise ValueError(f"inverse_mass must be {z0.dtype} of shape ({d},), got {got}")
        if inverse_mass.device != z0.device:
            raise ValueError(f"all tensors must be on z0's device, {z0.device}, got {inverse_mass.device}")
    _check_method(system.method)
    for (weights, biases), name in zip(system.networks, ("", "kinetic_"), strict=False):
        check_layers(z0[:, :d], system.dt, list(weights), list(biases), system.condition, name)


def _check_method(method: str) -> None:
    if integrator(method).name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, sorted(METHODS)))}, got {method!r}")


class _Call:
    """The native description of a call, and the contiguous tensors whose addresses it holds."""

    def __init__(self, z0: Tensor, system: System, steps: int) -> None:
        _check_call(z0, system, steps)
        d = z0.shape[1] // 2
        self.kept: list[Tensor | None] = [contiguous(system.condition), contiguous(system.inverse_mass)]

        def describe(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Any:
            weights, biases = [x.contiguous() for x in weights], [x.contiguous() for x in biases]
            self.kept += weights + biases
            return _C.Rollout(
                z0.dtype == torch.float64,
                d,
                weights[0].shape[1] - d,
                [weight.shape[0] for weight in weights[:-1]],
                ACTIVATIONS[system.activation].code,
                [x.data_ptr() for x in weights],
                [x.data_ptr() for x in biases],
                _NATIVE[system.method],
                system.dt.item(),
                steps,
                z0.shape[0],
                address(self.kept[0]),
                False,
            )

        potential, kinetic = (*(describe(*network) for network in system.networks), None)[:2]
        self.rollout = _C.SeparableRollout(potential, kinetic, address(self.kept[1]))


@torch.library.impl(library, "separable_rollout", "CPU")
def _rollout_cpu(z0: Tensor, *arguments: Any) -> Results:
    *described, steps, recorded = arguments
    system, z0 = System(*described), z0.contiguous()
    call = _Call(z0, system, steps)
    results = trajectory, points_q, points_p = _empty(z0, system.method, steps, recorded)
    assert call.rollout.evaluations == _evaluations(system.method, steps)  # as many points as the kernel writes
    points = (points_q.data_ptr(), points_p.data_ptr()) if recorded else (0, 0)
    _C.separable_forward(call.rollout, z0.data_ptr(), trajectory.data_ptr(), *points, torch.get_num_threads())
    return results


@torch.library.impl(library, "separable_rollout", "CUDA")
def _rollout_cuda(*arguments: Any) -> Results:
    return rollout_by_cuda(_C, *arguments)


def rollout_by_cuda(native: Any, z0: Tensor, *arguments: Any) -> Results:
    """The operator by the CUDA kernels of ``native``: ``_C``, or the emulator of the tests."""
    *described, steps, recorded = arguments
    system = System(*described)
    _check_call(z0, system, steps)
    results = _empty(z0, system.method, steps, recorded)
    with apart(z0):
        _cuda_separable.rollout(native, system, z0, results)
    return results


def _rollout_fake(z0: Tensor, *arguments: Any) -> Results:
    return _empty(z0, *arguments[-3:])


@torch.library.impl(library, "separable_rollout_backward", "CPU")
def _rollout_backward_cpu(grad_trajectory: Tensor, points_q: Tensor, points_p: Tensor, *arguments: Any) -> Gradients:
    system = System(*arguments)
    condition = system.condition
    _check_adjoint(grad_trajectory, points_q, points_p, system.method)
    grad_trajectory, points_q, points_p = (x.contiguous() for x in (grad_trajectory, points_q, points_p))
    call = _Call(grad_trajectory[:, 0], system, grad_trajectory.shape[1] - 1)
    grads = _empty_gradients(grad_trajectory, system)
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
    _add_masses(system, points_p, directions_p, grad_dt, grad_mass)
    return grads


def _add_masses(system: System, points: Tensor, directions: Tensor, grad_dt: Tensor, grad_mass: Tensor) -> None:
    """Writes the gradient by 1 / m, and adds the masses' part of that by dt."""
    if system.inverse_mass is not None:
        by_coordinate = (points * directions).sum((0, 1))
        torch.mul(by_coordinate, system.dt, out=grad_mass)
        grad_dt += (by_coordinate * system.inverse_mass).sum()


@torch.library.impl(library, "separable_rollout_backward", "CUDA")
def _rollout_backward_cuda(*arguments: Any) -> Gradients:
    return rollout_backward_by_cuda(_C, *arguments)


def rollout_backward_by_cuda(
    native: Any, grad_trajectory: Tensor, points_q: Tensor, points_p: Tensor, *arguments: Any
) -> Gradients:
    """The backward operator likewise."""
    system = System(*arguments)
    _check_adjoint(grad_trajectory, points_q, points_p, system.method)
    _check_call(grad_trajectory[:, 0], system, grad_trajectory.shape[1] - 1)
    grad_trajectory, points_q, points_p = (x.contiguous() for x in (grad_trajectory, points_q, points_p))
    grads = _empty_gradients(grad_trajectory, system)
    grad_z0, grad_dt, of_weights, of_biases, of_kinetic_weights, of_kinetic_biases, grad_mass, grad_condition = grads
    by_networks = (of_weights, of_biases), (of_kinetic_weights, of_kinetic_biases)
    for grad in (grad_dt, grad_condition, *(grad for lists in by_networks for grads in lists for grad in grads)):
        grad.zero_()
    with apart(grad_trajectory):
        directions_p = _cuda_separable.rollout_backward(
            native, system, grad_trajectory, (points_q, points_p), grad_z0, grad_dt, by_networks, grad_condition
        )
        _add_masses(system, points_p, directions_p, grad_dt, grad_mass)
    return grads


def _rollout_backward_fake(grad_trajectory: Tensor, points_q: Tensor, points_p: Tensor, *arguments: Any) -> Gradients:
    return _empty_gradients(grad_trajectory, System(*arguments))


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


def _check_adjoint(grad_trajectory: Tensor, points_q: Tensor, points_p: Tensor, method: str) -> None:
    check_cotangents(grad_trajectory)
    _check_method(method)
    batch, states, dim = grad_trajectory.shape
    kept = {"points_q": points_q, "points_p": points_p}
    for (name, points), count in zip(kept.items(), _evaluations(method, states - 1), strict=True):
        check_kept(name, points, (batch, count, dim // 2), grad_trajectory)


def _empty_gradients(grad_trajectory: Tensor, system: System) -> Gradients:
    def like(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [x.new_empty(x.shape) for x in tensors]

    def like_one(tensor: Tensor | None) -> Tensor:
        return grad_trajectory.new_empty((0,)) if tensor is None else tensor.new_empty(tensor.shape)

    return (
        grad_trajectory.new_empty(grad_trajectory.shape[0], grad_trajectory.shape[2]),
        system.dt.new_empty(()),
        like(system.weights),
        like(system.biases),
        like(system.kinetic_weights),
        like(system.kinetic_biases),
        like_one(system.inverse_mass),
        like_one(system.condition),
    )
