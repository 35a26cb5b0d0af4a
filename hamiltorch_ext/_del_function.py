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

__all__ = ["Equations", "Given", "Kernels", "Outcome", "Settings", "ordered", "recorded", "rollout"]


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


class Equations(NamedTuple):
    """What the equations depend on beside points and impulses, tensors contiguous: damping and mass (d,), condition
    (batch, condition_dim)."""

    dt: float | Tensor
    damping: Tensor
    condition: Tensor | None
    mass: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]  # zeros where the network has none
    activation: str

    @property
    def network(self) -> MLP:
        """The network that they hold."""
        return MLP(self.weights, self.biases, self.activation, _columns(self.condition))

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(weight.shape[0] for weight in self.weights[:-1])


class Given(NamedTuple):
    """The same as a caller gives it: tensors in any order, damping maybe a number or None, biases maybe None."""

    dt: float | Tensor
    damping: float | Tensor | None
    condition: Tensor | None
    mass: Tensor
    network: MLP

    @classmethod
    def of(cls, activation: str, flat: Sequence[Any]) -> Given:
        """From ``flat``."""
        dt, damping, condition, mass, *parameters = flat
        layers = len(parameters) // 2
        weights, biases = tuple(parameters[:layers]), tuple(parameters[layers:])
        return cls(dt, damping, condition, mass, MLP(weights, biases, activation, _columns(condition)))

    @property
    def flat(self) -> tuple[Any, ...]:
        """All that a gradient may be taken by."""
        return *self[:4], *self.network.weights, *self.network.biases

    def ordered(self) -> Equations:
        """As the kernels take it; no gradient is recorded of these tensors."""
        weights, biases = self.network[:2]
        damping = self.damping
        if not isinstance(damping, Tensor):
            damping = torch.full_like(self.mass, damping or 0.0)
        full = (
            weight.new_zeros(weight.shape[0]) if bias is None else bias
            for weight, bias in zip(weights, biases, strict=True)
        )
        return Equations(
            self.dt.detach() if isinstance(self.dt, Tensor) else self.dt,
            ordered(damping),
            None if self.condition is None else ordered(self.condition),
            ordered(self.mass),
            tuple(map(ordered, weights)),
            tuple(map(ordered, full)),
            self.network.activation,
        )


def _columns(condition: Tensor | None) -> int:
    return 0 if condition is None else condition.shape[1]


class Gradients(NamedTuple):
    """Gradients by all that ``Equations`` hold."""

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
        """The rollout of arguments that nobody has checked, and how many samples were not solved.

        None where an argument is out of the ordinary or somebody watches: then the checks find it and name it.
        """
        return None

    def forward(self, settings: Settings, given: Given, q0: Tensor, q1: Tensor, impulses: Tensor | None) -> Outcome:
        """The rollout; impulses (batch, steps, d)."""

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
        """Gradients by q0, q1, the impulses and ``given.flat``, from the trajectory's ``grad``."""
        equations = given.ordered()
        multipliers, grad_start = self.multipliers(settings, equations, trajectory, converged, grad[:, 2:].contiguous())
        grad_start += grad[:, :2]
        by_given: list[Tensor | None] = [None] * len(given.flat)
        if by_others:
            found = self.gradients(settings, equations, trajectory, converged, multipliers)
            grads = (*found[:4], *found.weights, *found.biases)
            by_given = [g if isinstance(x, Tensor) else None for g, x in zip(grads, given.flat, strict=True)]
        return grad_start[:, 0], grad_start[:, 1], -multipliers if by_impulses else None, *by_given

    def multipliers(
        self, settings: Settings, equations: Equations, trajectory: Tensor, converged: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Multipliers (batch, steps, d) of the adjoint to cotangents ``grad`` of the points from q_2 on, and what q0
        and q1 have of them, (batch, 2, d)."""

    def gradients(
        self, settings: Settings, equations: Equations, trajectory: Tensor, converged: Tensor, multipliers: Tensor
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
    damping: float | Tensor,
    condition: Tensor | None,
    impulses: Tensor | None,
    settings: Settings,
) -> Outcome:
    """Roll out from q0 and q1 (batch, d), differentiable once in all tensors.

    ``damping`` (d,), ``condition`` (batch, condition_dim), ``impulses`` (batch, steps, d).
    """
    network = action.network
    given = Given(dt, damping, condition, action.mass, network)
    outcome = kernels.forward(settings, given, q0, q1, impulses)
    inputs = (q0, q1, impulses, *given.flat)
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        return recorded(kernels, settings, network.activation, outcome, inputs)
    return outcome


def recorded(kernels: Kernels, settings: Settings, activation: str, outcome: Outcome, inputs: Sequence[Any]) -> Outcome:
    """The outcome as autograd knows it; ``inputs`` are q0, q1, the impulses, then as ``Given.flat``."""
    trajectory: Tensor = _Recorded.apply(kernels, settings, activation, outcome, *inputs)
    return Outcome(trajectory, *outcome[1:])


def ordered(x: Tensor) -> Tensor:
    """The tensor in order, as nothing that a gradient is recorded of."""
    return (x.detach() if x.requires_grad else x).contiguous()


class _Recorded(torch.autograd.Function):
    """A rollout that has been run: only its record is made here."""

    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, settings: Settings, activation: str, outcome: Outcome, *inputs: Any
    ) -> Tensor:
        trajectory, converged = outcome[:2]
        fixed = inputs[3:]
        ctx.kernels, ctx.settings, ctx.activation = kernels, settings, activation
        ctx.numbers = [None if isinstance(x, Tensor) else x for x in fixed[:2]]  # dt and damping
        ctx.save_for_backward(trajectory, converged, *(x if isinstance(x, Tensor) else None for x in fixed))
        return trajectory

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        # The guard against second derivatives takes its time.
        return _backward_once(ctx, grad) if torch.is_grad_enabled() else _backward(ctx, grad)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    trajectory, converged, *fixed = ctx.saved_tensors
    for i, number in enumerate(ctx.numbers):
        if number is not None:
            fixed[i] = number
    by_impulses, *by_others = ctx.needs_input_grad[6:]
    given = Given.of(ctx.activation, fixed)
    grads = ctx.kernels.backward(
        ctx.settings, given, trajectory, converged, grad.contiguous(), by_impulses, True in by_others
    )
    return None, None, None, None, *grads


_backward_once = once_differentiable(_backward)
