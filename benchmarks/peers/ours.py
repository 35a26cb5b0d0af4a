"""The fused native kernels: one call for the rollout, one for its adjoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from cases import Problem, loss
from torch import Tensor

from hamiltorch_ext import leapfrog_rollout

from .eager import network, parameters


def unavailable(device: str, precision: str = "float32") -> str | None:
    H = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Tanh(), torch.nn.Linear(1, 1)).to(device)
    try:
        leapfrog_rollout(H, torch.zeros(1, 2, device=device), 0.1, 1, backend="native", precision=precision)
    except ValueError as error:
        return str(error)
    return None


def rollout(problem: Problem, precision: str = "float32") -> Callable[[], dict[str, Tensor]]:
    H = network(problem).requires_grad_(False)  # no_grad() in every call would take a tenth of the smallest rollout
    native = partial(
        leapfrog_rollout, H, problem.z0, problem.dt, problem.case.steps, backend="native", precision=precision
    )
    return lambda: {"trajectory": native()}


def training(problem: Problem, precision: str = "float32") -> Callable[[], dict[str, Tensor]]:
    H = network(problem)
    dt = problem.dt.clone().requires_grad_()
    names, leaves = parameters(H, dt)
    native = partial(
        leapfrog_rollout, H, problem.z0, dt, problem.case.steps,
        return_energy=True, backend="native", precision=precision,
    )  # fmt: skip

    def call() -> dict[str, Tensor]:
        trajectory, energies = native()
        value = loss(trajectory, energies, problem.targets)
        return {"loss": value, **dict(zip(names, torch.autograd.grad(value, leaves), strict=True))}

    return call
