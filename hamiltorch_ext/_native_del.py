"""Discrete Euler-Lagrange rollouts on the CPU: the calls of the native kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _C
from ._addresses import address
from ._del_function import Equations, Given, Gradients, Kernels, Outcome, Settings, ordered, recorded
from ._ops import direct_calls, watched
from .activations import ACTIVATIONS
from .lagrangians import DiscreteLagrangianMLP
from .mlp import ScalarMLP

__all__ = ["CpuKernels"]

_direct = direct_calls(_C.DirectDel, ScalarMLP)


class CpuKernels(Kernels):
    """What ``_del_function`` asks for, by ``csrc/cpu``: past torch's dispatcher, or else by addresses."""

    def why_not(self, q0: Tensor, hidden: tuple[int, ...]) -> str | None:
        """Nothing: it runs everything."""
        return None

    def at_once(
        self,
        L: object,
        q0: Tensor,
        q1: Tensor,
        dt: float | Tensor,
        damping: float | Tensor | None,
        condition: Tensor | None,
        impulses: Tensor | None,
        settings: Settings,
    ) -> tuple[Outcome, int] | None:
        """The rollout of arguments that nobody has checked, and how many samples were not solved, or None."""
        if watched() or torch.is_inference_mode_enabled() or type(L) is not DiscreteLagrangianMLP:
            return None
        if L._forward_hooks or L._forward_pre_hooks or not getattr(q0, "is_cpu", False):
            return None
        network, mass = L.network, L.mass
        recording, threads = torch.is_grad_enabled(), torch.get_num_threads()
        found = _direct.rollout(network, mass, dt, damping, condition, settings, threads, q0, q1, impulses, recording)
        if found is None:
            return None
        outcome, failed, parameters = Outcome(*found[0]), found[1], found[2]
        if parameters is not None:
            inputs = (q0, q1, impulses, dt, damping, condition, mass, *parameters)
            outcome = recorded(self, settings, network.activation, outcome, inputs)
        return outcome, failed

    def forward(self, settings: Settings, given: Given, q0: Tensor, q1: Tensor, impulses: Tensor | None) -> Outcome:
        """The rollout."""
        if not watched():
            found = _direct.rollout(*_arguments(settings, given), q0, q1, impulses, False)
            if found is not None:
                return Outcome(*found[0])
        equations, q0, q1 = given.ordered(), ordered(q0), ordered(q1)
        impulses = None if impulses is None else ordered(impulses)
        outcome = Outcome.empty(q0, settings.steps)
        _C.del_forward(
            _describe(settings, equations, q0),
            address(q0),
            address(q1),
            address(impulses),
            address(outcome.trajectory),
            address(outcome.converged),
            address(outcome.iterations),
            address(outcome.residual),
            address(outcome.smallest_pivot),
            torch.get_num_threads(),
        )
        return outcome

    def backward(
        self,
        settings: Settings,
        given: Given,
        trajectory: Tensor,
        converged: Tensor,
        grad: Tensor,
        by_impulses: bool,
        by_others: bool,
    ) -> tuple[Tensor | None, ...]:
        """Gradients by q0, q1, the impulses and ``given.flat``."""
        rest = (trajectory, converged, grad, by_impulses, by_others)
        found: tuple[Tensor | None, ...] | None = None
        if not watched():
            found = _direct.rollout_backward(*_arguments(settings, given), *rest)
        return super().backward(settings, given, *rest) if found is None else found

    def multipliers(
        self, settings: Settings, equations: Equations, trajectory: Tensor, converged: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Multipliers, and what q0 and q1 have of them."""
        batch, _, d = grad.shape
        multipliers, grad_start = torch.zeros_like(grad), grad.new_zeros(batch, 2, d)
        _C.del_adjoint(
            _describe(settings, equations, trajectory[:, 0]),
            address(trajectory),
            address(converged),
            address(grad),
            address(multipliers),
            address(grad_start),
            torch.get_num_threads(),
        )
        return multipliers, grad_start

    def gradients(
        self, settings: Settings, equations: Equations, trajectory: Tensor, converged: Tensor, multipliers: Tensor
    ) -> Gradients:
        """Gradients by all else."""
        condition = equations.condition
        dt = trajectory.new_zeros(())
        damping, mass = torch.zeros_like(equations.damping), torch.zeros_like(equations.mass)
        by_interval = (
            None if condition is None else trajectory.new_zeros(len(condition), settings.steps + 1, condition.shape[1])
        )
        weights, biases = ([torch.zeros_like(x) for x in each] for each in (equations.weights, equations.biases))
        _C.del_gradient(
            _describe(settings, equations, trajectory[:, 0]),
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


def _arguments(settings: Settings, given: Given) -> tuple[Any, ...]:
    """What both calls past the dispatcher take first."""
    return given.network, given.mass, *given[:3], settings, torch.get_num_threads()


def _describe(settings: Settings, equations: Equations, q0: Tensor) -> Any:
    """The native description of a rollout from q0 (batch, d), valid while the tensors of ``equations`` are alive."""
    batch, d = q0.shape
    return _C.DelRollout(
        q0.dtype == torch.float64,
        2 * d,
        equations.network.condition_dim,
        equations.hidden,
        ACTIVATIONS[equations.activation].code,
        [address(weight) for weight in equations.weights],
        [address(bias) for bias in equations.biases],
        address(equations.mass),
        address(equations.damping),
        float(equations.dt),
        settings.steps,
        batch,
        address(equations.condition),
        settings.tol,
        settings.max_iterations,
    )
