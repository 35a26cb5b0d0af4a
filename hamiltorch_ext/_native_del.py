"""Discrete Euler-Lagrange rollouts on the CPU: the calls of the native kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _C
from ._addresses import address
from ._del_function import Gradients, Inputs, Outcome, Settings
from .activations import ACTIVATIONS

__all__ = ["CpuKernels"]


class CpuKernels:
    """What ``_del_function`` asks for, by ``csrc/cpu``."""

    def why_not(self, q0: Tensor, hidden: tuple[int, ...]) -> str | None:
        """Nothing: it runs everything."""
        return None

    def forward(self, settings: Settings, inputs: Inputs) -> Outcome:
        """The rollout."""
        outcome = Outcome.empty(inputs.q0, settings.steps)
        _C.del_forward(
            _describe(settings, inputs),
            address(inputs.q0),
            address(inputs.q1),
            address(inputs.impulses),
            address(outcome.trajectory),
            address(outcome.converged),
            address(outcome.iterations),
            address(outcome.residual),
            address(outcome.smallest_pivot),
            torch.get_num_threads(),
        )
        return outcome

    def multipliers(
        self, settings: Settings, inputs: Inputs, trajectory: Tensor, converged: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Multipliers, and what q0 and q1 have of them."""
        batch, d = inputs.q0.shape
        multipliers, grad_start = torch.zeros_like(grad), grad.new_zeros(batch, 2, d)
        _C.del_adjoint(
            _describe(settings, inputs),
            address(trajectory),
            address(converged),
            address(grad),
            address(multipliers),
            address(grad_start),
            torch.get_num_threads(),
        )
        return multipliers, grad_start

    def gradients(
        self, settings: Settings, inputs: Inputs, trajectory: Tensor, converged: Tensor, multipliers: Tensor
    ) -> Gradients:
        """Gradients by all else."""
        condition = inputs.condition
        dt, damping, mass = trajectory.new_zeros(()), torch.zeros_like(inputs.damping), torch.zeros_like(inputs.mass)
        by_interval = (
            None if condition is None else trajectory.new_zeros(len(condition), settings.steps + 1, condition.shape[1])
        )
        weights, biases = ([torch.zeros_like(x) for x in each] for each in (inputs.weights, inputs.biases))
        _C.del_gradient(
            _describe(settings, inputs),
            address(trajectory),
            address(converged),
            address(multipliers),
            [address(weight) for weight in weights],
            [address(bias) for bias in biases[:-1]],  # no derivative of L_d has the last bias
            address(mass),
            address(damping),
            address(dt),
            address(by_interval),
            torch.get_num_threads(),
        )
        return Gradients(dt, damping, None if by_interval is None else by_interval.sum(1), mass, weights, biases)


def _describe(settings: Settings, inputs: Inputs) -> Any:
    """The native description, valid while the inputs are alive."""
    return _C.DelRollout(
        inputs.q0.dtype == torch.float64,
        2 * inputs.q0.shape[1],
        inputs.network.condition_dim,
        inputs.hidden,
        ACTIVATIONS[inputs.activation].code,
        [address(weight) for weight in inputs.weights],
        [address(bias) for bias in inputs.biases],
        address(inputs.mass),
        address(inputs.damping),
        float(inputs.dt),
        settings.steps,
        inputs.q0.shape[0],
        address(inputs.condition),
        settings.tol,
        settings.max_iterations,
    )
