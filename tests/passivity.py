"""Random port-Hamiltonian systems and control sequences: what a step gains beyond the work of its controls.

    python tests/passivity.py

prints the share of steps that gain, by method, in a few minutes. The test of the discrete gradient's passivity runs on
the same systems.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from hamiltorch_ext import PortHamiltonian, diagnostics, integrators, port_rollout, reference
from hamiltorch_ext.activations import ACTIVATIONS

DTYPES = (torch.float64, torch.float32)
DIMENSIONS = range(1, 7)
SYSTEMS = 840  # of a dimension and a dtype: 10,080 in all
STEPS = (0.05, 0.2, 0.5)  # dt
M = 2  # controls


class RandomEnergies(nn.Module):
    """A network w . act(W z + b) of its own for every sample of a batch, each with one of the activations."""

    def __init__(self, batch, d, hidden, generator, dtype):
        super().__init__()

        def normal(*shape):
            return torch.randn(*shape, generator=generator).to(dtype)

        self.W, self.b = normal(batch, hidden, 2 * d) * 1.5 / math.sqrt(2 * d), normal(batch, hidden)
        self.w = normal(batch, hidden) * 2 / math.sqrt(hidden)
        share = batch // len(ACTIVATIONS)
        self.parts = [(name, slice(k * share, (k + 1) * share)) for k, name in enumerate(ACTIVATIONS)]

    def terms(self, z):
        a = torch.einsum("nij,nj->ni", self.W, z) + self.b
        return self.w * torch.cat([ACTIVATIONS[name].value(a[part]) for name, part in self.parts])

    def forward(self, z):
        return self.terms(z).sum(-1)


class RandomMatrices(nn.Module):
    """A matrix of order one for every sample: constant for the even ones, a function of the state for the odd ones."""

    def __init__(self, batch, d, columns, generator, dtype):
        super().__init__()
        self.constant = torch.randn(batch, 2 * d, columns, generator=generator).to(dtype)
        self.slope = torch.randn(batch, 2 * d, columns, 2 * d, generator=generator).to(dtype) / math.sqrt(d)
        self.slope[::2] = 0
        self.norm = math.sqrt(2 * d * columns)

    def forward(self, z):
        return (self.constant + torch.tanh(torch.einsum("nijk,nk->nij", self.slope, z))) / self.norm


def random_system(batch, d, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    system = PortHamiltonian(
        RandomEnergies(batch, d, 8, generator, dtype),
        dissipation=RandomMatrices(batch, d, d, generator, dtype),
        inputs=RandomMatrices(batch, d, M, generator, dtype),
    )
    z0 = torch.randn(batch, 2 * d, generator=generator).to(dtype)
    # Half of the samples run without controls, the others under some of any scale up to 10.
    scale = 10 * torch.rand(batch, 1, 1, generator=generator) * (torch.arange(batch) % 4 > 1)[:, None, None]
    return system, z0, (scale * torch.randn(batch, 2, M, generator=generator)).to(dtype)


def excess_and_slack(system, z0, controls, dt, method="discrete_gradient"):
    """What each step gains beyond the work of the controls, what rounding and unsolved rests account for, and the info.

    A step's equations are solved up to a vector r, which changes H by D . r; and H is a sum of rounded terms.
    """
    with torch.no_grad():
        trajectory, energies, info = port_rollout(
            system, z0, controls, dt, method=method, return_energy=True, return_info=True
        )
        excess = energies.diff(dim=-1) - diagnostics.supplied_energy(system, trajectory, controls, dt)
        states = trajectory.unbind(-2)
        slope = torch.stack([reference.gradient(system.H, z).abs().sum(-1) for z in states], -1)
        terms = torch.stack([system.H.terms(z).abs().sum(-1) for z in states], -1)
        left = info.residual * (1 + trajectory[:, 1:].abs().amax(-1))
        slack = 2 * left * slope.unfold(-1, 2, 1).amax(-1) + 4 * torch.finfo(z0.dtype).eps * terms.unfold(-1, 2, 1).sum(
            -1
        )
    return excess, slack, info


def problem(d, dtype):
    """Systems, states, controls and the time step of one dimension and dtype."""
    return *random_system(SYSTEMS, d, dtype, seed=d), STEPS[(d + (dtype == torch.float32)) % len(STEPS)]


def main():
    print("| method | violate at dt 0.05 / 0.2 / 0.5 | without controls | largest gain | unsolved at these dt |")
    print("|---|---:|---:|---:|---:|")
    for method in integrators.INTEGRATORS:
        steps, violations, unsolved, largest = {}, {}, {}, 0.0
        for dtype in DTYPES:
            for d in DIMENSIONS:
                system, z0, controls, dt = problem(d, dtype)
                excess, slack, info = excess_and_slack(system, z0, controls, dt, method)
                solved, free = info.converged, (controls == 0).all((1, 2))
                gains = (excess > slack) & solved
                for key, rows in ((dt, slice(None)), ("free", free)):
                    steps[key] = steps.get(key, 0) + solved[rows].sum().item()
                    violations[key] = violations.get(key, 0) + gains[rows].sum().item()
                spread = system.H(z0).detach().std().item()
                largest = max(largest, torch.where(gains, excess, 0).max().item() / spread)
                unsolved[dt] = unsolved.get(dt, 0) + (~solved).sum().item()
        share = {key: f"{violations[key] / steps[key]:.1%}" for key in steps}
        by_dt, lost = (" / ".join(str(of[dt]) for dt in STEPS) for of in (share, unsolved))
        print(f'| `"{method}"` | {by_dt} | {share["free"]} | {largest:.1f} | {lost} |', flush=True)


if __name__ == "__main__":
    main()
