"""Discrete Euler-Lagrange rollouts on a GPU: the calls of the CUDA kernels, and the products around them.

The kernels take the samples through all steps and, for the adjoint, back to the multipliers. The gradients that follow
from those are few and large products, and torch's own: intervals of all samples and steps at once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import _C
from ._addresses import address
from ._cuda_block import BlockCall, apart, network_arguments, on_device
from ._del_function import Equations, Given, Gradients, Kernels, Outcome, Settings, ordered
from ._ops import _no_cuda
from .lagrangians import ActionMLP
from .mlp import MLP

__all__ = ["CudaKernels"]

GRADIENT_BYTES = 1 << 30  # beyond which the gradients' intervals go in parts


class CudaKernels(Kernels):
    """What ``_del_function`` asks for, by ``csrc/cuda``; ``native`` is ``_C``, or the emulator of the tests."""

    def __init__(self, native: Any = _C) -> None:
        self.native = native

    def why_not(self, q0: Tensor, hidden: tuple[int, ...]) -> str | None:
        """Why the device cannot run it, or None."""
        try:
            _plan(self.native, q0, hidden)
        except ValueError as error:
            return str(error)
        return None

    def forward(self, settings: Settings, given: Given, q0: Tensor, q1: Tensor, impulses: Tensor | None) -> Outcome:
        """The rollout."""
        equations, q0, q1 = given.ordered(), ordered(q0), ordered(q1)
        outcome = Outcome.empty(q0, settings.steps)
        if settings.steps == 0:
            outcome.trajectory[:, 0], outcome.trajectory[:, 1] = q0, q1
        elif len(q0):
            with apart(q0):
                call = _call(self.native, settings, equations, q0)
                call(self.native.cuda_del_forward, q0, q1, None if impulses is None else ordered(impulses), *outcome)
        return outcome

    def multipliers(
        self, settings: Settings, equations: Equations, trajectory: Tensor, converged: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Multipliers, and what q0 and q1 have of them."""
        batch, _, d = grad.shape
        multipliers, grad_start = torch.zeros_like(grad), grad.new_zeros(batch, 2, d)
        if grad.numel():
            with apart(grad):
                call = _call(self.native, settings, equations, trajectory[:, 0])
                call(self.native.cuda_del_adjoint, trajectory, converged, grad, multipliers, grad_start)
        return multipliers, grad_start

    def gradients(
        self, settings: Settings, equations: Equations, trajectory: Tensor, converged: Tensor, multipliers: Tensor
    ) -> Gradients:
        """Gradients by all else."""
        with apart(trajectory), torch.enable_grad():
            return _gradients(equations, _Intervals(equations, trajectory, converged, multipliers))


def _plan(native: Any, q0: Tensor, hidden: tuple[int, ...]) -> Any:
    """Where a rollout from q0 finds things; ValueError says why it cannot be run."""
    return _native_plan(native, q0.shape[1], hidden, len(q0), q0.dtype == torch.float64, q0.device.index or 0)


@lru_cache(maxsize=256)
def _native_plan(native: Any, dim: int, hidden: tuple[int, ...], batch: int, is_double: bool, device: int) -> Any:
    gpu = native.gpu_description(device)
    if gpu[0] == 0 and (missing := _no_cuda()):
        raise ValueError(missing)
    return native.cuda_del_plan(dim, hidden, batch, is_double, gpu)


def _call(native: Any, settings: Settings, equations: Equations, q0: Tensor) -> BlockCall:
    dt = on_device(equations.dt, q0)
    arguments, kept = network_arguments(
        equations.weights,
        equations.biases,
        equations.activation,
        equations.condition,
        q0.shape[1],
        order=(1, 0),
    )
    kinetic, friction = equations.mass / dt, equations.damping / 2
    diagonal = -(kinetic + friction)
    numbers = (kinetic, friction, diagonal, 1 / diagonal, dt)
    rollout = native.CudaDelRollout(
        *arguments, *map(address, numbers), settings.steps, len(q0), settings.tol, settings.max_iterations
    )
    return BlockCall(_plan(native, q0, equations.hidden), rollout, [*kept, *numbers])


class _Intervals:
    """The intervals (x, y) of all samples, steps + 1 each, as rows; and the multipliers u, v of the steps that x and y
    end. Where the sample had failed, its points may be anything: they and the condition are zero there."""

    def __init__(self, equations: Equations, trajectory: Tensor, converged: Tensor, multipliers: Tensor) -> None:
        (batch, points, d), condition = trajectory.shape, equations.condition
        none = multipliers.new_zeros(batch, 1, d)
        never = converged.new_zeros(batch, 1)
        used = (torch.cat((never, converged), 1) | torch.cat((converged, never), 1)).unsqueeze(-1)
        self.shape = (batch, points - 1)
        self.x, self.y = (torch.where(used, q, 0).flatten(0, 1) for q in (trajectory[:, :-1], trajectory[:, 1:]))
        self.u, self.v = (torch.cat(q, 1).flatten(0, 1) for q in ((none, multipliers), (multipliers, none)))
        self.condition = None if condition is None else torch.where(used, condition.unsqueeze(1), 0).flatten(0, 1)


def _gradients(equations: Equations, intervals: _Intervals) -> Gradients:
    """Of S = -sum_k l_k . r_k: an interval has minus the derivative of L_d in the direction (u, v), and friction."""
    (rows, d), layers = intervals.x.shape, len(equations.weights)
    dt_there = on_device(equations.dt, equations.mass)
    fixed = (dt_there, equations.damping, equations.mass, *equations.weights, *equations.biases)
    dt, damping, mass, *parameters = leaves = [given.detach().requires_grad_() for given in fixed]
    network = MLP(tuple(parameters[:layers]), tuple(parameters[layers:]), *equations.network[2:])
    action = ActionMLP(mass, network)
    grads = [torch.zeros_like(leaf) for leaf in leaves]
    condition = intervals.condition
    by_row = None if condition is None else torch.zeros_like(condition)
    numbers = 8 * (2 * d + sum(equations.hidden))  # of a row: values, and what autograd keeps beside them
    most = max(1, GRADIENT_BYTES // (numbers * intervals.x.element_size()))
    for first in range(0, rows, most):
        part = slice(first, first + most)
        x, y, u, v = (q[part] for q in (intervals.x, intervals.y, intervals.u, intervals.v))
        c = None if condition is None else condition[part].requires_grad_()
        by_x, by_y = action.slot_derivatives(x, y, dt, c)
        drag = damping * (y - x) / 2
        S = -(u * (by_x - drag) + v * (by_y - drag)).sum()
        wanted = leaves if c is None else [*leaves, c]
        found = torch.autograd.grad(S, wanted, allow_unused=True)  # nothing has the last bias
        for grad, more in zip(grads, found, strict=False):
            if more is not None:
                grad += more
        if by_row is not None:
            by_row[part] = found[-1]
    return Gradients(
        grads[0],
        grads[1],
        None if by_row is None else by_row.view(*intervals.shape, -1).sum(1),
        grads[2],
        grads[3 : 3 + layers],
        grads[3 + layers :],
    )
