"""Fused rollouts of learned Hamiltonian mechanics: one native call runs the whole trajectory, adjoint included.

>>> from hamiltorch_ext import HamiltonianMLP, leapfrog_rollout
>>> H = HamiltonianMLP(dim=8, hidden=(64, 64))
>>> trajectory, energies = leapfrog_rollout(H, torch.randn(32, 8), dt=0.1, steps=100, return_energy=True)
"""

from . import diagnostics, integrators, reference
from .activations import Sin
from .build import build_info
from .mlp import HamiltonianMLP
from .rollouts import euler_rollout, leapfrog_rollout, rollout

__all__ = [
    "HamiltonianMLP",
    "Sin",
    "build_info",
    "diagnostics",
    "euler_rollout",
    "integrators",
    "leapfrog_rollout",
    "reference",
    "rollout",
]
__version__ = "0.1.0"
