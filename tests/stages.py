"""Networks, systems and their rollouts, and what the tests of their kernels ask of one."""

from __future__ import annotations

import torch

from hamiltorch_ext import HamiltonianMLP, PortHamiltonian, SeparableHamiltonian, port_rollout, rollout

F64 = torch.float64
METHODS = ["symplectic_euler", "stormer_verlet", "implicit_midpoint", "yoshida4"]
ACTIVATIONS = ["softplus", "tanh", "silu", "gelu", "sin"]


def network(d, hidden=(33, 7), activation="tanh", condition_dim=0, gain=1.5, dtype=F64):
    """Weights large enough for the equations to need iterations."""
    H = HamiltonianMLP(2 * d, hidden, activation, condition_dim=condition_dim, dtype=dtype)
    with torch.no_grad():
        for layer in H.layers:
            torch.nn.init.normal_(layer.weight, std=gain * layer.in_features**-0.5)
            torch.nn.init.normal_(layer.bias, std=0.3)
    return H


def separable(d, hidden=(33, 7), activation="tanh", kinetic="mass", condition_dim=0, dtype=F64):
    """The same of T(p) + V(q)."""
    H = SeparableHamiltonian(2 * d, hidden, activation, kinetic=kinetic, condition_dim=condition_dim, dtype=dtype)
    with torch.no_grad():
        for parameter in H.parameters():
            std = 1.5 * parameter.shape[1] ** -0.5 if parameter.ndim == 2 else 0.3
            torch.nn.init.normal_(parameter, std=std)
    return H


def states(*shape, dtype=F64):
    return torch.randn(*shape, dtype=dtype)


def everything(H, z0, steps, backend, method, dt=0.3, condition=None, **options):
    """Trajectory, energies, info, and the gradients of a random weighting of both by all that they depend on."""
    H.zero_grad(set_to_none=True)
    z0 = z0.detach().clone().requires_grad_()
    dt = torch.tensor(dt, dtype=z0.dtype, device=z0.device, requires_grad=True)
    leaves = {"z0": z0, "dt": dt, **dict(H.named_parameters())}
    if condition is not None:
        leaves["condition"] = condition = condition.detach().clone().requires_grad_()
    trajectory, energies, info = rollout(
        H, z0, dt, steps, method=method, condition=condition, return_energy=True, return_info=True, backend=backend,
        **options,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(x.shape, generator=generator, dtype=F64).to(x) for x in (trajectory, energies)]
    loss = (trajectory * weights[0]).sum() + (energies * weights[1]).sum()
    found = torch.autograd.grad(loss, leaves.values(), materialize_grads=True, allow_unused=True)
    grads = dict(zip(leaves, found, strict=True))
    return {"trajectory": trajectory.detach(), "energies": energies.detach(), **grads}, info


def values(H, z0, steps, backend, method, dt=0.3, **options):
    """Trajectory and info, no gradient being recorded."""
    with torch.no_grad():
        return rollout(H, z0, dt, steps, method=method, return_info=True, backend=backend, **options)


def system(d=3, r=2, m=2, damped=True, dtype=F64, **energy):
    """A port-Hamiltonian system of constants. r = None: L is diagonal; 0: there is none."""
    dissipation = None if r == 0 else 0.3 * states(2 * d, *(() if r is None else (r,)), dtype=dtype)
    return PortHamiltonian(
        network(d, (12, 9), dtype=dtype, **energy),
        dissipation=dissipation,
        inputs=states(2 * d, m, dtype=dtype) if m else None,
        damping=0.2 + torch.rand(d, dtype=dtype) if damped else None,
    )


def everything_ported(port, z0, u, dt, backend, condition=None):
    """Trajectory, energies and the gradients of a random weighting by all that they depend on."""
    leaves = {"z0": z0.clone(), "u": u.clone(), "dt": torch.tensor(dt, dtype=z0.dtype)}
    if condition is not None:
        leaves["condition"] = condition.clone()
    for leaf in leaves.values():
        leaf.requires_grad_()
    trajectory, energies, info = port_rollout(
        port, leaves["z0"], leaves["u"], leaves["dt"], condition=leaves.get("condition"), backend=backend,
        return_energy=True, return_info=True,
    )  # fmt: skip
    assert info.converged.all()
    generator = torch.Generator().manual_seed(5)
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=F64).to(x)).sum() for x in (trajectory, energies))
    leaves |= dict(port.named_parameters())
    grads = torch.autograd.grad(loss, leaves.values(), allow_unused=True, materialize_grads=True)
    return {"trajectory": trajectory, "energies": energies, **dict(zip(leaves, grads, strict=True))}
