"""Discrete Lagrangians with all arguments of a rollout, and what the tests of its kernels ask of one."""

from __future__ import annotations

import torch

from hamiltorch_ext import DiscreteLagrangianMLP, MechanicalLagrangian, del_rollout
from hamiltorch_ext.variational import del_residual

F64 = torch.float64
ACTIVATIONS = ["softplus", "tanh", "silu", "gelu", "sin"]


def scaled(L, gain):
    """With weights larger than torch begins with, and masses that differ."""
    with torch.no_grad():
        for p in L.parameters():
            if p.ndim == 2:
                p *= gain
        L.raw_mass += 0.5 * torch.randn_like(L.raw_mass)
    return L


def problem(d, hidden=(20, 9), batch=5, steps=4, *, gain=2.0, kind="discrete", activation="silu", condition_dim=0):
    """A Lagrangian and every argument of a rollout, in float64."""
    options = {"condition_dim": condition_dim, "dtype": F64}
    if kind == "discrete":
        L = DiscreteLagrangianMLP(d, hidden, activation, **options)
    else:
        L = MechanicalLagrangian(d, hidden, activation, rule=kind, **options)
    q0 = torch.randn(batch, d, dtype=F64)
    arguments = {
        "q0": q0,
        "q1": q0 + 0.1 * torch.randn(batch, d, dtype=F64),
        "dt": torch.tensor(0.1, dtype=F64),
        "forces": 0.01 * torch.randn(batch, steps, d, dtype=F64),
        "damping": torch.rand(d, dtype=F64),
        "condition": torch.randn(batch, condition_dim, dtype=F64) if condition_dim else None,
    }
    return scaled(L, gain), arguments


def roll(L, arguments, steps, backend, **options):
    return del_rollout(L, arguments["q0"], arguments["q1"], steps, backend=backend, return_info=True, **{
        **{name: value for name, value in arguments.items() if name not in ("q0", "q1")}, **options,
    })  # fmt: skip


def values_and_gradients(L, arguments, steps, backend, **options):
    """Trajectory, status, and the gradients of a random weighting of the trajectory, by name."""
    leaves = {name: v.detach().clone().requires_grad_() for name, v in arguments.items() if v is not None}
    q, info = roll(L, {**arguments, **leaves}, steps, backend, **options)
    weights = torch.randn(q.shape, generator=torch.Generator().manual_seed(1), dtype=F64).to(q)
    wanted = {**leaves, **dict(L.named_parameters())}
    found = torch.autograd.grad((q * weights).sum(), list(wanted.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(leaf) if g is None else g for (name, leaf), g in zip(wanted.items(), found, strict=True)
    }
    return q.detach(), info, gradients


def left_of(L, q, arguments):
    """The equations' left side by autograd through the module, not by its description."""
    return del_residual(
        lambda a, b, dt: L(a, b, dt), q, dt=arguments["dt"], forces=arguments["forces"], damping=arguments["damping"]
    )[:, 0]


def bound_of_hessian(L):
    """Of N's second derivatives: products of the layers' norms (|s'| and |s''| are at most 1 here)."""
    norms = [torch.linalg.matrix_norm(layer.weight, ord=2) for layer in L.network.layers]
    first, second, head = norms
    return head * (second * first**2 + (second * first) ** 2)
