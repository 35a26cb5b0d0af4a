"""``del_rollout``, and autograd through it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from cases import TOLERANCE, Problem, weighted_sum
from torch import Tensor

import hamiltorch_ext
from hamiltorch_ext import DiscreteLagrangianMLP


def network(problem: Problem) -> DiscreteLagrangianMLP:
    """The problem's L_d as a module."""
    inputs, *hidden, _ = problem.case.widths
    L = DiscreteLagrangianMLP(inputs // 2, hidden, "silu", dtype=problem.z0.dtype, device=problem.z0.device)
    with torch.no_grad():
        L.raw_mass.copy_(problem.raw_mass)
        for layer, weight, bias in zip(L.network.layers, problem.weights, problem.biases, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return L


def del_rollout(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    L, (q0, q1) = network(problem).requires_grad_(False), problem.points
    solve = partial(hamiltorch_ext.del_rollout, dt=float(problem.dt), tol=TOLERANCE)
    return lambda: {"trajectory": solve(L, q0, q1, problem.case.steps)}


def del_gradient(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    L = network(problem)
    q0, q1 = (q.requires_grad_() for q in problem.points)
    solve = partial(hamiltorch_ext.del_rollout, dt=float(problem.dt), tol=TOLERANCE)
    leaves = {**dict(L.named_parameters()), "q0": q0, "q1": q1}

    def call() -> dict[str, Tensor]:
        trajectory = solve(L, q0, q1, problem.case.steps)
        grads = torch.autograd.grad(
            weighted_sum(trajectory, problem.targets), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        return {"trajectory": trajectory, **dict(zip(leaves, grads, strict=True))}

    return call
