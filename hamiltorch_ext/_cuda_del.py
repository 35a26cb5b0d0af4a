"""Discrete Euler-Lagrange rollouts on a GPU: the calls of the CUDA kernels, and the products around them.

The kernels take the samples through all steps and, for the adjoint, back to the multipliers. The gradients that follow
from those are few and large products, and torch's own: intervals of all samples and steps at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import _C
from ._addresses import address
from ._del_function import Equations, Given, Gradients, Kernels, Outcome, Settings, ordered
from ._ops import _no_cuda
from .activations import ACTIVATIONS
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
            with _apart(q0):
                call = _Call(self.native, settings, equations, q0)
                call(self.native.cuda_del_forward, q0, q1, None if impulses is None else ordered(impulses), *outcome)
        return outcome

    def multipliers(
        self, settings: Settings, equations: Equations, trajectory: Tensor, converged: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Multipliers, and what q0 and q1 have of them."""
        batch, _, d = grad.shape
        multipliers, grad_start = torch.zeros_like(grad), grad.new_zeros(batch, 2, d)
        if grad.numel():
            with _apart(grad):
                call = _Call(self.native, settings, equations, trajectory[:, 0])
                call(self.native.cuda_del_adjoint, trajectory, converged, grad, multipliers, grad_start)
        return multipliers, grad_start

    def gradients(
        self, settings: Settings, equations: Equations, trajectory: Tensor, converged: Tensor, multipliers: Tensor
    ) -> Gradients:
        """Gradients by all else."""
        with _apart(trajectory), torch.enable_grad():
            return _gradients(equations, _Intervals(equations, trajectory, converged, multipliers))


@contextmanager
def _apart(q0: Tensor) -> Iterator[None]:
    """The tensor's device is the current one, and autocast does not reach inside."""
    with torch.cuda.device(q0.device if q0.is_cuda else -1), torch.autocast(q0.device.type, enabled=False):
        yield


def _plan(native: Any, q0: Tensor, hidden: tuple[int, ...]) -> Any:
    """Where a rollout from q0 finds things; ValueError says why it cannot be run."""
    return _native_plan(native, q0.shape[1], hidden, len(q0), q0.dtype == torch.float64, q0.device.index or 0)


@lru_cache(maxsize=256)
def _native_plan(native: Any, dim: int, hidden: tuple[int, ...], batch: int, is_double: bool, device: int) -> Any:
    gpu = native.gpu_description(device)
    if gpu[0] == 0 and (missing := _no_cuda()):
        raise ValueError(missing)
    return native.cuda_del_plan(dim, hidden, batch, is_double, gpu)


class _Call:
    """A native call: the description of the rollout, and the tensors whose addresses it holds."""

    def __init__(self, native: Any, settings: Settings, equations: Equations, q0: Tensor) -> None:
        d = q0.shape[1]
        self.device = q0.device.index or 0
        self.stream = torch.cuda.current_stream(q0.device).cuda_stream if q0.is_cuda else 0
        self.plan = _plan(native, q0, equations.hidden)
        self.workspace = torch.empty(self.plan.workspace_bytes, dtype=torch.uint8, device=q0.device)
        dt = _on_device(equations.dt, q0)
        by_x, by_y, by_condition = (
            part.contiguous() for part in equations.weights[0].split((d, d, equations.network.condition_dim), dim=1)
        )
        base = equations.biases[0]
        if equations.condition is not None:
            base = torch.addmm(base, equations.condition, by_condition.T)
        kinetic, friction = equations.mass / dt, equations.damping / 2
        diagonal = -(kinetic + friction)
        inverse = 1 / diagonal
        matrices = [by_y, *equations.weights[1:-1], by_x]
        self.kept = (dt, base, kinetic, friction, diagonal, inverse, matrices)
        self.rollout = native.CudaDelRollout(
            q0.dtype == torch.float64,
            d,
            equations.hidden,
            ACTIVATIONS[equations.activation].code,
            [address(matrix) for matrix in matrices],
            [address(bias) for bias in equations.biases[:-1]],
            address(equations.weights[-1]),
            address(base),
            0 if equations.condition is None else base.shape[1],
            *map(address, (kinetic, friction, diagonal, inverse, dt)),
            settings.steps,
            len(q0),
            settings.tol,
            settings.max_iterations,
        )

    def __call__(self, run: Any, *arrays: Tensor | None) -> None:
        run(self.plan, self.rollout, *map(address, arrays), address(self.workspace), self.device, self.stream)


def _on_device(dt: float | Tensor, q0: Tensor) -> Tensor:
    """dt as a tensor of q0's kind, without a copy from the host where there is nothing to copy."""
    return dt.to(q0) if isinstance(dt, Tensor) else q0.new_full((), dt)


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
    dt_there = _on_device(equations.dt, equations.mass)
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
