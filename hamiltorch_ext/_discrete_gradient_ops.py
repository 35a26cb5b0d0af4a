"""Torch operators over the native kernels of the discrete gradient: schemas, fakes, CPU and CUDA implementations,
autograd.

As in ``_implicit_ops``. Beside H they know what a port-Hamiltonian system has of constants: L, forces G u and the decay
of friction.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _C, _cuda_discrete
from ._addresses import address, contiguous
from ._cuda_block import apart
from ._cuda_implicit import Equations, add_gradients
from ._implicit_ops import Gradients, check_limit, gradients_along
from ._ops import (
    NativeCall,
    check_call,
    check_cotangents,
    check_kept,
    empty_gradients,
    library,
    no_second_derivative,
    wants_gradient,
    zeros_for_none,
)
from .mlp import MLP
from .reference import RolloutInfo

__all__ = ["NO_PORTS", "Ports", "discrete_rollout"]

library.define(
    "discrete_rollout(Tensor z0, Tensor dt, Tensor[] weights, Tensor[] biases, Tensor? condition, "
    "Tensor? dissipation, Tensor? forces, Tensor? decay, str activation, SymInt steps, float tol, int max_iterations, "
    "bool recorded) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
library.define(
    "discrete_rollout_backward(Tensor grad_trajectory, Tensor trajectory, Tensor changes, Tensor converged, Tensor dt, "
    "Tensor[] weights, Tensor[] biases, Tensor? condition, Tensor? dissipation, Tensor? forces, Tensor? decay, "
    "str activation) -> (Tensor, Tensor, Tensor[], Tensor[], Tensor, Tensor, Tensor, Tensor)"
)
_rollout = torch.ops.hamiltorch.discrete_rollout.default
_rollout_backward = torch.ops.hamiltorch.discrete_rollout_backward.default

Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
PortGradients = tuple[Tensor, Tensor, list[Tensor], list[Tensor], Tensor, Tensor, Tensor, Tensor]


class Ports(NamedTuple):
    """What the kernels know beside H: L (2d, r) or its diagonal (2d,), G u (batch, steps, 2d), and (d,) what half a
    step of friction leaves of p; each or None."""

    dissipation: Tensor | None = None
    forces: Tensor | None = None
    decay: Tensor | None = None


NO_PORTS = Ports()


def discrete_rollout(
    mlp: MLP,
    z0: Tensor,
    dt: Tensor,
    steps: int,
    condition: Tensor | None,
    tol: float,
    max_iterations: int,
    ports: Ports = NO_PORTS,
) -> tuple[Tensor, RolloutInfo]:
    """Trajectory of z0 (batch, dim), differentiable once, and what became of its steps."""
    biases = zeros_for_none(mlp)
    recorded = wants_gradient(z0, dt, condition, *ports, *mlp.weights, *biases)
    trajectory, _, converged, iterations, residual = _rollout(
        z0, dt, list(mlp.weights), biases, condition, *ports, mlp.activation, steps, tol, max_iterations, recorded
    )
    return trajectory, RolloutInfo(converged, iterations, residual)


class _DiscreteCall:
    """A ``NativeCall``, and the contiguous tensors of its ports."""

    def __init__(
        self,
        z0: Tensor,
        dt: Tensor,
        weights: list[Tensor],
        biases: list[Tensor],
        condition: Tensor | None,
        ports: Ports,
        activation: str,
        steps: int,
    ) -> None:
        # As that method it takes one gradient a step, which is all that the kernels ask of its stages.
        self.stages = NativeCall(z0, dt, weights, biases, condition, activation, "implicit_midpoint", steps, "float32")
        _check_ports(ports, z0, steps)
        self.ports = Ports(*(contiguous(part) for part in ports))
        dissipation = self.ports.dissipation
        self.arguments = (
            self.stages.rollout,
            address(dissipation),
            dissipation.shape[1] if dissipation is not None and dissipation.ndim == 2 else 0,
            address(self.ports.forces),
            address(self.ports.decay),
        )


@torch.library.impl(library, "discrete_rollout", "CPU")
def _rollout_cpu(
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    dissipation: Tensor | None,
    forces: Tensor | None,
    decay: Tensor | None,
    activation: str,
    steps: int,
    tol: float,
    max_iterations: int,
    recorded: bool,
) -> Results:
    check_limit(max_iterations)
    ports = Ports(dissipation, forces, decay)
    call = _DiscreteCall(z0, dt, weights, biases, condition, ports, activation, steps)
    results = trajectory, changes, converged, iterations, residual = _empty(z0, steps, recorded)
    z0 = z0.contiguous()
    _C.discrete_forward(
        *call.arguments,
        tol,
        max_iterations,
        z0.data_ptr(),
        trajectory.data_ptr(),
        changes.data_ptr() if recorded else 0,
        converged.data_ptr(),
        iterations.data_ptr(),
        residual.data_ptr(),
        torch.get_num_threads(),
    )
    return results


@torch.library.impl(library, "discrete_rollout", "CUDA")
def _rollout_cuda(*arguments: Any) -> Results:
    return rollout_by_cuda(_C, *arguments)


def rollout_by_cuda(
    native: Any,
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    dissipation: Tensor | None,
    forces: Tensor | None,
    decay: Tensor | None,
    activation: str,
    steps: int,
    tol: float,
    max_iterations: int,
    recorded: bool,
) -> Results:
    """The operator by the CUDA kernels of ``native``: ``_C``, or the emulator of the tests."""
    check_call(z0, dt, weights, biases, condition, steps, "float32")
    check_limit(max_iterations)
    ports = Ports(dissipation, forces, decay)
    _check_ports(ports, z0, steps)
    results = _empty(z0, steps, recorded)
    equations = Equations(dt, weights, biases, condition, activation, "discrete_gradient")
    with apart(z0):
        _cuda_discrete.rollout(native, equations, ports, z0, tol, max_iterations, results)
    return results


def _rollout_fake(
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    dissipation: Tensor | None,
    forces: Tensor | None,
    decay: Tensor | None,
    activation: str,
    steps: int,
    tol: float,
    max_iterations: int,
    recorded: bool,
) -> Results:
    return _empty(z0, steps, recorded)


@torch.library.impl(library, "discrete_rollout_backward", "CPU")
def _rollout_backward_cpu(
    grad_trajectory: Tensor,
    trajectory: Tensor,
    changes: Tensor,
    converged: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    dissipation: Tensor | None,
    forces: Tensor | None,
    decay: Tensor | None,
    activation: str,
) -> PortGradients:
    _check_adjoint(grad_trajectory, trajectory, changes, converged)
    ports = Ports(dissipation, forces, decay)
    steps = grad_trajectory.shape[1] - 1
    call = _DiscreteCall(trajectory[:, 0], dt, weights, biases, condition, ports, activation, steps)

    def run(*arrays: Tensor | None) -> None:
        adjoint: Any = _C.discrete_adjoint
        adjoint(*call.arguments, *map(address, arrays), torch.get_num_threads())

    equations = Equations(dt, weights, biases, condition, activation, "discrete_gradient")
    return _gradients(
        run, partial(gradients_along, call.stages), equations, ports, grad_trajectory, trajectory, changes, converged
    )


@torch.library.impl(library, "discrete_rollout_backward", "CUDA")
def _rollout_backward_cuda(*arguments: Any) -> PortGradients:
    return rollout_backward_by_cuda(_C, *arguments)


def rollout_backward_by_cuda(
    native: Any,
    grad_trajectory: Tensor,
    trajectory: Tensor,
    changes: Tensor,
    converged: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    dissipation: Tensor | None,
    forces: Tensor | None,
    decay: Tensor | None,
    activation: str,
) -> PortGradients:
    """The backward operator likewise."""
    _check_adjoint(grad_trajectory, trajectory, changes, converged)
    ports = Ports(dissipation, forces, decay)
    steps = grad_trajectory.shape[1] - 1
    check_call(trajectory[:, 0], dt, weights, biases, condition, steps, "float32")
    _check_ports(ports, trajectory[:, 0], steps)
    equations = Equations(dt, weights, biases, condition, activation, "discrete_gradient")

    def along(points: Tensor, converged: Tensor, directions: Tensor, grads: Gradients) -> None:
        _, grad_dt, grad_weights, grad_biases, grad_condition = grads
        for grad in (grad_dt, *grad_weights, *grad_biases, grad_condition):
            grad.zero_()
        if points.numel():
            stages = points[:, :, None], converged, directions[:, :, None]
            add_gradients(equations, *stages, grad_dt, grad_weights, grad_biases, grad_condition)

    with apart(trajectory):
        run = partial(_cuda_discrete.rollout_backward, native, equations, ports)
        return _gradients(run, along, equations, ports, grad_trajectory, trajectory, changes, converged)


def _gradients(
    run: Callable[..., None],
    along: Callable[[Tensor, Tensor, Tensor, Gradients], None],
    equations: Equations,
    ports: Ports,
    grad_trajectory: Tensor,
    trajectory: Tensor,
    changes: Tensor,
    converged: Tensor,
) -> PortGradients:
    """All that the backward operator returns. ``run`` (arrays of the kernel's adjoint) runs it, and ``along`` (points,
    converged, directions, gradients) writes all gradients but those by z0 of what it leaves of dH."""
    batch, _, dim = grad_trajectory.shape
    dt, condition, activation = equations.dt, equations.condition, equations.activation
    weights, biases = list(equations.weights), list(equations.biases)
    grads = _empty_port_gradients(grad_trajectory, dt, weights, biases, condition, *ports)
    grad_z0, grad_dt, grad_weights, grad_biases, grad_condition, *_ = grads
    grad_trajectory, trajectory, changes, converged = (
        x.contiguous() for x in (grad_trajectory, trajectory, changes, converged)
    )
    points, directions, multipliers = (torch.empty_like(changes) for _ in range(3))
    gradients = None if ports.dissipation is None else torch.empty_like(changes)
    energy_weights = changes.new_empty(changes.shape[:2])
    by_dt = changes.new_empty(batch, dtype=torch.float64)
    by_decay = None if ports.decay is None else changes.new_empty(batch, dim // 2, dtype=torch.float64)
    left = (points, directions, multipliers, gradients, energy_weights, grad_z0, by_dt, by_decay)
    run(trajectory, changes, converged, grad_trajectory, *left)
    along(points, converged, directions, grads[:5])
    grad_dt += by_dt.sum().to(grad_dt.dtype)
    scale = torch.where(converged, dt, 0)  # what is a constant has no part in a dt that is no number
    by_weights, by_biases, by_condition = _energy_gradients(
        *_ends(trajectory, changes, ports.decay, scale * energy_weights), dt, weights, biases, condition, activation
    )
    for grad, more in zip((*grad_weights, *grad_biases[:-1]), (*by_weights, *by_biases[:-1]), strict=True):
        grad += more
    if condition is not None:
        grad_condition += by_condition
    _write_port_gradients(grads[5:], ports, scale.unsqueeze(-1) * multipliers, gradients, by_decay)
    return grads


def _ends(trajectory: Tensor, changes: Tensor, decay: Tensor | None, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The states (batch, n, dim) at both ends of the steps, and how often each one's energy counts, (batch, n).

    ``weights`` (batch, steps) are those of the steps' energy differences.
    """
    if decay is None:  # one step's end is the next one's beginning
        counts = torch.nn.functional.pad(weights, (1, 0)) - torch.nn.functional.pad(weights, (0, 1))
        return trajectory, counts
    starts = trajectory[:, :-1] * torch.cat((torch.ones_like(decay), decay))
    return torch.cat((starts, starts + changes), dim=1), torch.cat((-weights, weights), dim=1)


def _energy_gradients(
    states: Tensor,
    counts: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The gradient of sum counts H(states): that of as many rollouts of no steps, by parameters and condition."""
    batch, each, dim = states.shape
    used = counts.unsqueeze(-1) != 0  # what does not count may be no number
    states = torch.where(used, states, 0).reshape(batch * each, 1, dim)
    rows = None if condition is None else torch.where(used, condition.unsqueeze(1), 0).flatten(0, 1)
    _, _, by_weights, by_biases, by_rows = torch.ops.hamiltorch.rollout_backward(
        None, counts.reshape(-1, 1), states, dt, weights, biases, rows, activation, "euler", "float32"
    )
    by_condition = by_rows if condition is None else by_rows.reshape(batch, each, -1).sum(1)
    return by_weights, by_biases, by_condition


def _write_port_gradients(
    to: tuple[Tensor, ...],
    ports: Ports,
    multipliers: Tensor,
    gradients: Tensor | None,
    by_decay: Tensor | None,
) -> None:
    """Those of -v . L L^T D + v . b over all steps, with v dt times the multipliers and D the discrete gradients."""
    grad_dissipation, grad_forces, grad_decay = to
    L = ports.dissipation
    if gradients is not None and L is not None:
        v, D = multipliers.flatten(0, 1), gradients.flatten(0, 1)
        with torch.autocast(v.device.type, enabled=False):
            along = 2 * L * (v * D).sum(0) if L.ndim == 1 else v.T @ (D @ L) + D.T @ (v @ L)
        torch.neg(along, out=grad_dissipation)
    if ports.forces is not None:
        grad_forces.copy_(multipliers)
    if by_decay is not None:
        grad_decay.copy_(by_decay.sum(0))


def _rollout_backward_fake(
    grad_trajectory: Tensor,
    trajectory: Tensor,
    changes: Tensor,
    converged: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    dissipation: Tensor | None,
    forces: Tensor | None,
    decay: Tensor | None,
    activation: str,
) -> PortGradients:
    return _empty_port_gradients(grad_trajectory, dt, weights, biases, condition, dissipation, forces, decay)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
    _, dt, weights, biases, condition, dissipation, forces, decay, ctx.activation, *_ = inputs
    trajectory, changes, converged, *_ = output
    ctx.layers = len(weights)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(trajectory, changes, converged, dt, *weights, *biases, condition, dissipation, forces, decay)


def _backward(ctx: Any, grad_trajectory: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    trajectory, changes, converged, dt, *parameters, condition, dissipation, forces, decay = ctx.saved_tensors
    if grad_trajectory is None:
        nothing = [None] * ctx.layers
        return (None, None, nothing, nothing, *(None,) * 9)
    weights, biases = parameters[: ctx.layers], parameters[ctx.layers :]
    others = (condition, dissipation, forces, decay)
    grad_z0, grad_dt, grad_weights, grad_biases, *grad_others = _rollout_backward(
        grad_trajectory, trajectory, changes, converged, dt, weights, biases, *others, ctx.activation
    )
    by_others = (None if x is None else grad for x, grad in zip(others, grad_others, strict=True))
    return (grad_z0, grad_dt, list(grad_weights), list(grad_biases), *by_others, *(None,) * 5)


torch.library.register_fake("hamiltorch::discrete_rollout", _rollout_fake, lib=library)
torch.library.register_fake("hamiltorch::discrete_rollout_backward", _rollout_backward_fake, lib=library)
torch.library.register_autograd(
    "hamiltorch::discrete_rollout", _backward, setup_context=_save_for_backward, lib=library
)
torch.library.register_autograd("hamiltorch::discrete_rollout_backward", no_second_derivative, lib=library)


def _empty(z0: Tensor, steps: int, recorded: bool) -> Results:
    """Trajectory, changes (empty where nothing is recorded), converged, iterations, residual."""
    rows, dim = z0.shape
    return (
        z0.new_empty(rows, steps + 1, dim),
        z0.new_empty((rows, steps, dim) if recorded else (0,)),
        z0.new_empty(rows, steps, dtype=torch.bool),
        z0.new_empty(rows, steps, dtype=torch.int64),
        z0.new_empty(rows, steps),
    )


def _empty_port_gradients(
    trajectory: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    *ports: Tensor | None,
) -> PortGradients:
    dissipation, forces, decay = (trajectory.new_empty((0,)) if x is None else x.new_empty(x.shape) for x in ports)
    return (*empty_gradients(trajectory, dt, weights, biases, condition), dissipation, forces, decay)


def _check_ports(ports: Ports, z0: Tensor, steps: int) -> None:
    batch, dim = z0.shape
    L = ports.dissipation
    if L is not None and not (L.shape == (dim,) or (L.ndim == 2 and L.shape[0] == dim and L.shape[1] > 0)):
        raise ValueError(f"dissipation must have shape ({dim},) or ({dim}, r), got {tuple(L.shape)}")
    for name, part, shape in (("forces", ports.forces, (batch, steps, dim)), ("decay", ports.decay, (dim // 2,))):
        if part is not None and part.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(part.shape)}")
    for name, part in zip(Ports._fields, ports, strict=True):
        if part is not None and (part.dtype != z0.dtype or part.device != z0.device):
            raise TypeError(f"{name} must be {z0.dtype} on {z0.device}, got {part.dtype} on {part.device}")


def _check_adjoint(grad_trajectory: Tensor, trajectory: Tensor, changes: Tensor, converged: Tensor) -> None:
    check_cotangents(grad_trajectory)
    batch, states, dim = grad_trajectory.shape
    check_kept("trajectory", trajectory, (batch, states, dim), grad_trajectory)
    check_kept("changes", changes, (batch, states - 1, dim), grad_trajectory)
    check_kept("converged", converged, (batch, states - 1), grad_trajectory, torch.bool)
