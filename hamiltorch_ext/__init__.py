"""Fused rollouts of learned Hamiltonian mechanics: one native call runs the whole trajectory, adjoint included.

>>> from hamiltorch_ext import HamiltonianMLP, leapfrog_rollout
>>> H = HamiltonianMLP(dim=8, hidden=(64, 64))
>>> trajectory, energies = leapfrog_rollout(H, torch.randn(32, 8), dt=0.1, steps=100, return_energy=True)
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path


def _hand_over_to_installed() -> None:
    """In the repository's root Python finds this source folder before the installed package; load that one instead."""
    if find_spec(f"{__name__}._C") is not None:
        return
    root = Path(__file__).resolve().parent.parent
    spec = PathFinder.find_spec(__name__, [entry for entry in sys.path if Path(entry or ".").resolve() != root])
    if spec is None or spec.loader is None:
        raise ImportError(f"hamiltorch_ext is not installed, {root} only holds its source: run `pip install {root}`")
    sys.modules[__name__] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])


_hand_over_to_installed()

from . import cuda_plans, diagnostics, integrators, reference
from .activations import Sin
from .build import build_info
from .canonical import CanonicalTransform
from .lagrangians import DiscreteLagrangianMLP, MechanicalLagrangian
from .mlp import HamiltonianMLP
from .port import PortHamiltonian, port_rollout
from .rollouts import euler_rollout, leapfrog_rollout, rollout
from .separable import SeparableHamiltonian
from .variational import del_rollout

__all__ = [
    "CanonicalTransform",
    "DiscreteLagrangianMLP",
    "HamiltonianMLP",
    "MechanicalLagrangian",
    "PortHamiltonian",
    "SeparableHamiltonian",
    "Sin",
    "build_info",
    "cuda_plans",
    "del_rollout",
    "diagnostics",
    "euler_rollout",
    "integrators",
    "leapfrog_rollout",
    "port_rollout",
    "reference",
    "rollout",
]
__version__ = "0.1.0"
