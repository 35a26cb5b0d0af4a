"""Functions that tests start in another process; they must be importable there."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hamiltorch_ext import HamiltonianMLP, leapfrog_rollout


class Model(nn.Module):
    """What a user trains: an energy and a learned time step."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.H = HamiltonianMLP(6, (16, 8), "softplus")
        self.dt = nn.Parameter(torch.tensor(0.1))
        with torch.no_grad():
            for parameter in self.H.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)

    def forward(self, z0: Tensor) -> tuple[Tensor, Tensor]:
        return leapfrog_rollout(self.H, z0, self.dt, 3, return_energy=True)


def loss(model: nn.Module, z0: Tensor) -> Tensor:
    trajectory, energies = model(z0)
    return trajectory.square().mean() + (energies - energies[:, :1]).abs().mean()


def data() -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


def train_in_parallel(rank: int, folder: str) -> None:
    """One of two DDP workers: each its half of the batch; gradients go to a file."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        model = Model()
        parallel = nn.parallel.DistributedDataParallel(model)
        loss(parallel, data()[4 * rank : 4 * rank + 4]).backward()
        torch.save({name: p.grad for name, p in model.named_parameters()}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()
    # Now and then gloo's threads abort the interpreter's own ending, with any model; the gradients are on disk.
    os._exit(0)
