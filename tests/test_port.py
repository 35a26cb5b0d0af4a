"""Port-Hamiltonian rollouts: passive by the discrete gradient, and what they were where nothing is added."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import make_problem, sequential
from torch import nn

from hamiltorch_ext import HamiltonianMLP, PortHamiltonian, diagnostics, integrators, port_rollout, reference, rollout
from hamiltorch_ext.activations import ACTIVATIONS
from hamiltorch_ext.port import MatrixMLP

METHODS = list(integrators.INTEGRATORS)
D, M = 2, 2


# Ten thousand systems at once ---------------------------------------------------------------------------------------


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
    """A matrix of its own for every sample: constant for the even ones, a function of the state for the odd ones."""

    def __init__(self, batch, d, columns, scale, generator, dtype):
        super().__init__()
        self.constant = (scale * torch.randn(batch, 2 * d, columns, generator=generator)).to(dtype)
        self.slope = torch.randn(batch, 2 * d, columns, 2 * d, generator=generator).to(dtype) / math.sqrt(d)
        self.slope[::2] = 0

    def forward(self, z):
        return self.constant + torch.tanh(torch.einsum("nijk,nk->nij", self.slope, z))


def random_system(batch, d, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    system = PortHamiltonian(
        RandomEnergies(batch, d, 12, generator, dtype),
        dissipation=RandomMatrices(batch, d, d, 0.5, generator, dtype),
        inputs=RandomMatrices(batch, d, M, 1.0, generator, dtype),
    )
    z0 = torch.randn(batch, 2 * d, generator=generator).to(dtype)
    # Every other sample of a pair without controls, the rest of all scales up to 10.
    scale = 10 * torch.rand(batch, 1, 1, generator=generator) * (torch.arange(batch) % 4 > 1)[:, None, None]
    return system, z0, (scale * torch.randn(batch, 3, M, generator=generator)).to(dtype)


SYSTEMS = [(d, dtype) for d in range(1, 7) for dtype in (torch.float64, torch.float32)]
