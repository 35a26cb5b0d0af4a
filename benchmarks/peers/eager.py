"""Torch eager autograd: what a user has today, one autograd pass per gradient of H. In float64 it is the oracle."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import Problem, loss
from torch import Tensor

from hamiltorch_ext import HamiltonianMLP, reference


def unavailable(device: str) -> str | None:
    return None


def network(problem: Problem) -> HamiltonianMLP:
    """The problem's H as a module."""
    dim, *hidden, _ = problem.case.widths
    H = HamiltonianMLP(dim, hidden, "softplus", dtype=problem.z0.dtype, device=problem.z0.device)
    with torch.no_grad():
        for layer, weight, bias in zip(H.layers, problem.weights, problem.biases, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return H


def parameters(H: torch.nn.Module, dt: Tensor) -> tuple[list[str], list[Tensor]]:
    """Names and tensors that training differentiates by."""
    named = [*H.named_parameters(), ("dt", dt)]
    return [name for name, _ in named], [tensor for _, tensor in named]


def rollout(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    H = network(problem)

    def call() -> dict[str, Tensor]:
        with torch.no_grad():  # the reference builds only the graph of each gradient, none of the rollout
            return {"trajectory": reference.leapfrog_rollout(H, problem.z0, problem.dt, problem.case.steps)}

    return call


def training(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    H = network(problem)
    dt = problem.dt.clone().requires_grad_()
    names, leaves = parameters(H, dt)

    def call() -> dict[str, Tensor]:
        trajectory, energies = reference.leapfrog_rollout(H, problem.z0, dt, problem.case.steps, return_energy=True)
        value = loss(trajectory, energies, problem.targets)
        return {"loss": value, **dict(zip(names, torch.autograd.grad(value, leaves), strict=True))}

    return call
