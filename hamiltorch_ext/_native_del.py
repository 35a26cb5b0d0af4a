"""Native discrete Euler-Lagrange rollouts: their calls, and their derivative by the implicit function theorem."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import _C
from ._addresses import address, contiguous
from .activations import ACTIVATIONS
from .lagrangians import ActionMLP

__all__ = ["Outcome", "Settings", "rollout"]


class Settings(NamedTuple):
    """The numbers of a rollout."""

    dt: float
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


def rollout(
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

    ``damping`` (d,), ``condition`` (batch, condition_dim), ``impulses`` (batch, steps, d); ``dt`` is ``settings.dt`` as
    a tensor, if it is one.
    """
    network = action.network
    biases = (
        weight.new_zeros(weight.shape[0]) if bias is None else bias
        for weight, bias in zip(network.weights, network.biases, strict=True)
    )
    kind = (network.activation, network.condition_dim)
    inputs = (q0, q1, dt, damping, condition, impulses, action.mass, *network.weights, *biases)
    if torch.is_grad_enabled() and any(isinstance(given, Tensor) and given.requires_grad for given in inputs):
        return Outcome(*_Recorded.apply(settings, kind, *inputs))
    return _run(settings, kind, _ordered(inputs))


def _ordered(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs as the native code takes them: tensors contiguous."""
    return tuple(contiguous(given) if isinstance(given, Tensor) else given for given in inputs)


def _describe(settings: Settings, kind: tuple[str, int], inputs: tuple[Any, ...]) -> Any:
    """The native description, valid while the inputs are alive."""
    q0, _, _, damping, condition, _, mass, *parameters = inputs
    layers = len(parameters) // 2
    return _C.DelRollout(
        q0.dtype == torch.float64,
        2 * q0.shape[1],
        kind[1],
        [weight.shape[0] for weight in parameters[: layers - 1]],
        ACTIVATIONS[kind[0]].code,
        [address(weight) for weight in parameters[:layers]],
        [address(bias) for bias in parameters[layers:]],
        address(mass),
        address(damping),
        settings.dt,
        settings.steps,
        q0.shape[0],
        address(condition),
        settings.tol,
        settings.max_iterations,
    )


def _run(settings: Settings, kind: tuple[str, int], inputs: tuple[Any, ...]) -> Outcome:
    q0, q1, _, _, _, impulses, *_ = inputs
    (batch, d), steps = q0.shape, settings.steps
    outcome = Outcome(
        q0.new_empty(batch, steps + 2, d),
        q0.new_empty(batch, steps, dtype=torch.bool),
        q0.new_empty(batch, steps, dtype=torch.int64),
        q0.new_empty(batch, steps),
        q0.new_empty(batch, steps),
    )
    _C.del_forward(
        _describe(settings, kind, inputs),
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


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: Settings, kind: tuple[str, int], *inputs: Any) -> tuple[Tensor, ...]:
        inputs = _ordered(inputs)
        outcome = _run(settings, kind, inputs)
        tensors = [given if isinstance(given, Tensor) else None for given in inputs]
        ctx.settings, ctx.kind = settings, kind
        ctx.save_for_backward(outcome.trajectory, outcome.converged, *tensors)
        ctx.mark_non_differentiable(*outcome[1:])
        ctx.set_materialize_grads(False)
        return tuple(outcome)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
        trajectory, converged, *inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        q0, _, _, damping, condition, _, mass, *parameters = inputs
        (batch, d), steps, threads = q0.shape, ctx.settings.steps, torch.get_num_threads()
        description = _describe(ctx.settings, ctx.kind, tuple(inputs))
        grad_solved = grad[:, 2:].contiguous()
        multipliers, grad_start = q0.new_zeros(batch, steps, d), q0.new_zeros(batch, 2, d)
        _C.del_adjoint(
            description,
            address(trajectory),
            address(converged),
            address(grad_solved),
            address(multipliers),
            address(grad_start),
            threads,
        )
        grad_start += grad[:, :2]
        grads: list[Tensor | None] = [None] * len(needed)
        grads[0], grads[1], grads[5] = grad_start[:, 0], grad_start[:, 1], -multipliers
        if any(needed[2:5]) or any(needed[6:]):
            grad_dt, grad_damping, grad_mass = q0.new_zeros(()), torch.zeros_like(damping), torch.zeros_like(mass)
            grad_condition = None if condition is None else q0.new_zeros(batch, steps + 1, condition.shape[1])
            grad_parameters = [torch.zeros_like(parameter) for parameter in parameters]
            layers = len(parameters) // 2
            _C.del_gradient(
                description,
                address(trajectory),
                address(converged),
                address(multipliers),
                [address(given) for given in grad_parameters[:layers]],
                [address(given) for given in grad_parameters[layers:-1]],  # no derivative of L_d has the last bias
                address(grad_mass),
                address(grad_damping),
                address(grad_dt),
                address(grad_condition),
                threads,
            )
            grads[2:4], grads[6:] = [grad_dt, grad_damping], [grad_mass, *grad_parameters]
            grads[4] = None if grad_condition is None else grad_condition.sum(1)
        return None, None, *(given if wanted else None for given, wanted in zip(grads, needed, strict=True))
