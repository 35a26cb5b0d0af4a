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
    biases = tuple(
        weight.new_zeros(len(weight)) if bias is None else bias
        for weight, bias in zip(network.weights, network.biases, strict=True)
    )
    activation = (network.activation, network.condition_dim)
    inputs = (q0, q1, dt, damping, condition, impulses, action.mass, *network.weights, *biases)
    return Outcome(*_Rollout.apply(settings, activation, *inputs))


def _describe(settings: Settings, kind: tuple[str, int], tensors: tuple[Tensor | None, ...]) -> Any:
    """The native description, valid while the tensors are alive: q0, damping, condition, mass, weights and biases."""
    q0, damping, condition, mass, *parameters = tensors
    assert q0 is not None
    weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
    return _C.DelRollout(
        q0.dtype == torch.float64,
        2 * q0.shape[1],
        kind[1],
        [len(weight) for weight in weights[:-1] if weight is not None],
        ACTIVATIONS[kind[0]].code,
        [address(weight) for weight in weights],
        [address(bias) for bias in biases],
        address(mass),
        address(damping),
        settings.dt,
        settings.steps,
        q0.shape[0],
        address(condition),
        settings.tol,
        settings.max_iterations,
    )


class _Rollout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: Settings, kind: tuple[str, int], *inputs: Any) -> tuple[Tensor, ...]:
        q0, q1, damping, mass = (inputs[i].contiguous() for i in (0, 1, 3, 6))
        condition, impulses = contiguous(inputs[4]), contiguous(inputs[5])
        parameters = tuple(given.contiguous() for given in inputs[7:])
        batch, d = q0.shape
        outcome = Outcome(
            q0.new_empty(batch, settings.steps + 2, d),
            torch.empty(batch, settings.steps, dtype=torch.bool),
            torch.empty(batch, settings.steps, dtype=torch.int64),
            q0.new_empty(batch, settings.steps),
            q0.new_empty(batch, settings.steps),
        )
        tensors = (q0, damping, condition, mass, *parameters)
        _C.del_forward(
            _describe(settings, kind, tensors),
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
        ctx.settings, ctx.kind = settings, kind
        ctx.save_for_backward(outcome.trajectory, outcome.converged, *tensors)
        ctx.mark_non_differentiable(*outcome[1:])
        return tuple(outcome)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
        trajectory, converged, *tensors = ctx.saved_tensors
        q0, damping, condition, mass, *parameters = tensors
        steps, threads = ctx.settings.steps, torch.get_num_threads()
        batch, d = q0.shape
        description = _describe(ctx.settings, ctx.kind, tuple(tensors))
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
        needed = ctx.needs_input_grad[2:]
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
