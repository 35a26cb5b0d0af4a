"""Energies H = T(p) + V(q): explicit methods keep structure on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .mlp import ScalarMLP, check_condition

__all__ = ["SeparableHamiltonian"]

KINETIC = ("mass", "identity", "mlp")


class SeparableHamiltonian(nn.Module):
    """H(q, p) = T(p) + V(q): leapfrog on it is symplectic, symmetric and of second order, and explicit.

    Args:
        dim: size of the state z = (q, p), that is 2d; even and positive.
        hidden: widths of the networks' hidden layers.
        activation: of the networks: "softplus", "tanh", "silu", "gelu" (exact) or "sin".
        kinetic: "mass", T = sum_i p_i^2 / (2 m_i) with learned positive masses that begin at one; "identity",
            T = |p|^2 / 2; "mlp", a network.
        condition_dim: size of a per-trajectory condition of V and of a network T; 0 for none.
        device: as for ``nn.Linear``.
        dtype: as for ``nn.Linear``.

    ``rollout`` takes it with every method, and evaluates half a gradient where half of the state moves; the methods
    that are explicit for it, Euler's aside, run in one native call. Source: Hairer, Lubich, Wanner,
    Geometric Numerical Integration, I.1.4 and VI.3.
    """

    separable = True

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (128, 128),
        activation: str = "softplus",
        *,
        kinetic: str = "mass",
        condition_dim: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dim <= 0 or dim % 2:
            raise ValueError(f"dim must be even and positive (z = (q, p)), got {dim}")
        if kinetic not in KINETIC:
            raise ValueError(f"kinetic must be one of {', '.join(map(repr, KINETIC))}, got {kinetic!r}")
        self.dim, self.condition_dim, self.kinetic = int(dim), int(condition_dim), kinetic

        def network() -> ScalarMLP:
            return ScalarMLP(dim // 2, hidden, activation, condition_dim=condition_dim, device=device, dtype=dtype)

        self.potential = network()
        self.kinetic_network = network() if kinetic == "mlp" else None
        # Of masses the logarithm is learned: they stay positive, and a step changes them by a ratio.
        log_mass = torch.zeros(dim // 2, device=device, dtype=dtype) if kinetic == "mass" else None
        self.log_mass = None if log_mass is None else nn.Parameter(log_mass)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """H(z), shape (...). ``z``: (..., 2d); ``condition``: (..., condition_dim)."""
        q, p = self._checked(z, condition)
        potential: Tensor = self.potential(q, condition)
        return self.kinetic_energy(p, condition) + potential

    def kinetic_energy(self, p: Tensor, condition: Tensor | None = None) -> Tensor:
        """T(p), shape (...); p is (..., d)."""
        if self.kinetic_network is not None:
            value: Tensor = self.kinetic_network(p, condition)
            return value
        return (p * self.kinetic_gradient(p)).sum(-1) / 2

    def kinetic_gradient(self, p: Tensor, condition: Tensor | None = None) -> Tensor:
        """dT/dp, the velocity, shape (..., d)."""
        if self.kinetic_network is not None:
            return self.kinetic_network.gradient(p, condition)
        return p if self.log_mass is None else p * torch.exp(-self.log_mass)

    def potential_gradient(self, q: Tensor, condition: Tensor | None = None) -> Tensor:
        """dV/dq, minus the force, shape (..., d)."""
        return self.potential.gradient(q, condition)

    def gradient(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Analytic dH/dz = (dV/dq, dT/dp), shape (..., 2d), differentiable in z, the condition and every parameter."""
        q, p = self._checked(z, condition)
        return torch.cat((self.potential_gradient(q, condition), self.kinetic_gradient(p, condition)), dim=-1)

    def vector_field(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Hamilton's equations dz/dt = J dH/dz = (dT/dp, -dV/dq), shape (..., 2d)."""
        dq, dp = self.gradient(z, condition).chunk(2, dim=-1)
        return torch.cat((dp, -dq), dim=-1)

    def extra_repr(self) -> str:
        """What ``print`` shows beside the networks."""
        return f"dim={self.dim}, kinetic={self.kinetic!r}"

    def _checked(self, z: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        if z.shape[-1:] != (self.dim,):
            raise ValueError(f"z must have shape (..., {self.dim}), got {tuple(z.shape)}")
        check_condition(condition, self.condition_dim)
        q, p = z.chunk(2, dim=-1)
        return q, p
