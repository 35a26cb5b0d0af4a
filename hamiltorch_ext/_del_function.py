"""Fused discrete Euler-Lagrange rollouts as a function that autograd knows: by the implicit function theorem.

What computes it, on the CPU or a GPU, is a ``Kernels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .lagrangians import ActionMLP
from .mlp import MLP

__all__ = ["Inputs", "Kernels", "Outcome", "Settings", "rollout"]


class Settings(NamedTuple):
    """What of a rollout is no tensor."""

    steps: int
    tol: float
    max_iterations: int


class Outcome(NamedTuple):
    """Trajectory (batch, steps + 2, d), and of every step, (batch, steps), what ``DELInfo`` says."""

    trajectory: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    smallest_pivot: Tensor

    @classmethod
    def empty(cls, q0: Tensor, steps: int) -> Outcome:
        """Room for the outcome of a rollout from q0 (batch, d)."""
        batch, d = q0.shape
        return cls(
            q0.new_empty(batch, steps + 2, d),
            q0.new_empty(batch, steps, dtype=torch.bool),
            q0.new_empty(batch, steps, dtype=torch.int64),
            q0.new_empty(batch, steps),
            q0.new_empty(batch, steps),
        )


class Inputs(NamedTuple):
    """All that a rollout depends on, tensors contiguous: q0 and q1 (batch, d), damping and mass (d,), condition (batch,
    condition_dim), impulses (batch, steps, d)."""

    q0: Tensor
    q1: Tensor
    dt: float | Tensor
    damping: Tensor
    condition: Tensor | None
    impulses: Tensor | None
    mass: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]  # zeros where the network has none
    activation: str

    @property
    def network(self) -> MLP:
        """The network that they hold."""
        condition_dim = 0 if self.condition is None else self.condition.shape[1]
        return MLP(self.weights, self.biases, self.activation, condition_dim)

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(weight.shape[0] for weight in self.weights[:-1])


class Gradients(NamedTuple):
    """Gradients by all inputs but q0, q1 and the impulses."""

    dt: Tensor
    damping: Tensor
    condition: Tensor | None
    mass: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]


class Kernels(Protocol):
    """What a device computes of a rollout."""

    def why_not(self, q0: Tensor, hidden: tuple[int, ...]) -> str | None:
        """Why the device cannot run a rollout from q0 of a network of these hidden layers, or None."""

    def forward(self, settings: Settings, inputs: Inputs) -> Outcome:
        """The rollout."""

    def multipliers(
        self, settings: Settings, inputs: Inputs, trajectory: Tensor, converged: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Multipliers (batch, steps, d) of the adjoint to cotangents ``grad`` of the points from q_2 on, and what q0
        and q1 have of them, (batch, 2, d)."""

    def gradients(
        self, settings: Settings, inputs: Inputs, trajectory: Tensor, converged: Tensor, multipliers: Tensor
    ) -> Gradients:
        """Gradients of -sum_k l_k . r_k with the points held fixed, l being the multipliers and r the equations."""


# A compiler would see addresses here, and nothing to trace.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def rollout(
    kernels: Kernels,
    action: ActionMLP,
    q0: Tensor,
    q1: Tensor,
    dt: float | Tensor,
    damping: Tensor,
    condition: Tensor | None,
    impulses: Tensor | None,
    settings: Settings,
) -> Outcome:
    """Roll out from q0 and q1 (batch, d), differentiable once in all tensors.

    ``damping`` (d,), ``condition`` (batch, condition_dim), ``impulses`` (batch, steps, d).
    """
    network = action.network
    biases = (
        weight.new_zeros(weight.shape[0]) if bias is None else bias
        for weight, bias in zip(network.weights, network.biases, strict=True)
    )
    given = (q0, q1, dt, damping, condition, impulses, action.mass, *network.weights, *biases)
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in given):
        return Outcome(*_Recorded.apply(kernels, settings, network.activation, *given))
    return kernels.forward(settings, _inputs(network.activation, given))


def _inputs(activation: str, given: Sequence[Any]) -> Inputs:
    ordered: list[Any] = [_ordered(x) if isinstance(x, Tensor) else x for x in given]
    q0, q1, dt, damping, condition, impulses, mass, *parameters = ordered
    weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
    return Inputs(q0, q1, dt, damping, condition, impulses, mass, tuple(weights), tuple(biases), activation)


def _ordered(x: Tensor) -> Tensor:
    return (x.detach() if x.requires_grad else x).contiguous()


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: Kernels, settings: Settings, activation: str, *given: Any) -> tuple[Tensor, ...]:
        inputs = _inputs(activation, given)
        outcome = kernels.forward(settings, inputs)
        plain = (*inputs[:7], *inputs.weights, *inputs.biases)
        ctx.kernels, ctx.settings, ctx.activation = kernels, settings, activation
        ctx.dt = None if isinstance(inputs.dt, Tensor) else inputs.dt
        ctx.save_for_backward(
            outcome.trajectory, outcome.converged, *(x if isinstance(x, Tensor) else None for x in plain)
        )
        ctx.mark_non_differentiable(*outcome[1:])
        ctx.set_materialize_grads(False)
        return tuple(outcome)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        trajectory, converged, *given = ctx.saved_tensors
        if ctx.dt is not None:
            given[2] = ctx.dt
        inputs = _inputs(ctx.activation, given)
        needed = ctx.needs_input_grad[3:]
        multipliers, grad_start = ctx.kernels.multipliers(
            ctx.settings, inputs, trajectory, converged, grad[:, 2:].contiguous()
        )
        grad_start += grad[:, :2]
        grads: list[Tensor | None] = [None] * len(needed)
        grads[0], grads[1], grads[5] = grad_start[:, 0], grad_start[:, 1], -multipliers
        if any(needed[2:5]) or any(needed[6:]):
            found = ctx.kernels.gradients(ctx.settings, inputs, trajectory, converged, multipliers)
            grads[2:5] = [found.dt, found.damping, found.condition]
            grads[6:] = [found.mass, *found.weights, *found.biases]
        return None, None, None, *(g if wanted else None for g, wanted in zip(grads, needed, strict=True))
