"""Discrete Lagrangians: the modules that learn one, and what mechanics makes of its derivatives.

A discrete Lagrangian L_d(q0, q1, dt) is the action along the motion from q0 to q1 in time dt. It is any callable of
configurations (..., d) and a time step that returns (...), given ``condition`` as its last argument where one is used.
D1 and D2 are its derivatives by q0 and q1. Source: Marsden and West, Discrete mechanics and variational integrators
(2001), sections 1.3 and 1.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import ACTIVATIONS
from .mlp import MLP, ScalarMLP, first_hooked

__all__ = [
    "D1",
    "D1D2",
    "D2",
    "ActionMLP",
    "DiscreteLagrangianMLP",
    "MechanicalLagrangian",
    "describe_action",
    "discrete_lagrangian",
    "momenta",
    "slot_derivatives",
]

Action = Callable[..., Tensor]
RULES = ("midpoint", "trapezoid")

# Of learned masses: softplus of this is one.
_UNIT_MASS = 0.5413248546129181
_LEAST_MASS = 1e-3


def discrete_lagrangian(L: Action, rule: str = "midpoint") -> Action:
    """The discrete Lagrangian of a Lagrangian L(q, v) by a quadrature rule; both rules are of second order.

    Args:
        L: any callable of q and v, each (..., d), [and the condition] that returns (...).
        rule: "midpoint", dt L((q0 + q1) / 2, v), or "trapezoid", dt (L(q0, v) + L(q1, v)) / 2; v = (q1 - q0) / dt.
    """
    _check_rule(rule)

    def action(q0: Tensor, q1: Tensor, dt: float | Tensor, condition: Tensor | None = None) -> Tensor:
        more = () if condition is None else (condition,)
        velocity = (q1 - q0) / dt
        if rule == "midpoint":
            return dt * L((q0 + q1) / 2, velocity, *more)
        return dt * (L(q0, velocity, *more) + L(q1, velocity, *more)) / 2

    return action


class ActionMLP(NamedTuple):
    """L_d(q0, q1) = 1/2 sum_i m_i (q1 - q0)_i^2 / dt + dt N(q0, q1, c) as plain tensors: what the native kernels read.

    ``mass`` has shape (d,); N is ``network``, whose input is (q0, q1), 2d numbers.
    """

    mass: Tensor
    network: MLP

    def slot_derivatives(
        self, q0: Tensor, q1: Tensor, dt: float | Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """D1 and D2 of L_d, each (..., d), by the chain rule written out: differentiable without a second pass."""
        momentum = self.mass * (q1 - q0) / dt
        first, second = self.network.gradient(torch.cat((q0, q1), dim=-1), condition).chunk(2, dim=-1)
        return dt * first - momentum, dt * second + momentum


def describe_action(L: object) -> ActionMLP | str:
    """Return the ``ActionMLP`` that L is, or one line that says why it is none."""
    if type(L) not in (MechanicalLagrangian, DiscreteLagrangianMLP):
        return f"L is a {type(L).__name__}, not a MechanicalLagrangian or a DiscreteLagrangianMLP"
    assert isinstance(L, MechanicalLagrangian | DiscreteLagrangianMLP)
    inner = L.potential if isinstance(L, MechanicalLagrangian) else L.network
    if type(inner) is not ScalarMLP:
        return f"its network is a {type(inner).__name__}, not a ScalarMLP"
    if (hooked := first_hooked((L,))) is not None:
        return f"{type(hooked).__name__} has forward hooks"
    return L.description


class MechanicalLagrangian(nn.Module):
    """L(q, v) = 1/2 sum_i m_i(q, c) v_i^2 - V(q, c) with learned V and masses, and its discrete Lagrangian.

    Args:
        dim: number d of configuration coordinates.
        hidden: widths of the networks' hidden layers.
        activation: of the networks: "softplus", "tanh", "silu", "gelu" or "sin".
        mass: "constant" (learned), or "network" (of q and the condition). Masses are positive and begin near one.
        rule: quadrature of the action, as for ``discrete_lagrangian``.
        condition_dim: size of a per-trajectory condition; 0 for none.
        device: as for ``nn.Linear``.
        dtype: as for ``nn.Linear``.

    Source: LaWM, section on latent variational dynamics.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (128, 128),
        activation: str = "silu",
        *,
        mass: str = "constant",
        rule: str = "midpoint",
        condition_dim: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_rule(rule)
        if mass not in ("constant", "network"):
            raise ValueError(f"mass must be 'constant' or 'network', got {mass!r}")
        self.dim, self.rule, self.condition_dim = int(dim), rule, int(condition_dim)
        self.potential = ScalarMLP(dim, hidden, activation, condition_dim=condition_dim, device=device, dtype=dtype)
        self.raw_mass = nn.Parameter(torch.full((self.dim,), _UNIT_MASS, device=device, dtype=dtype))
        self.mass_network: nn.Sequential | None = None
        if mass == "network":
            widths = (self.dim + self.condition_dim, *self.potential.hidden)
            modules: list[nn.Module] = []
            for n_in, n_out in pairwise(widths):
                modules += [nn.Linear(n_in, n_out, device=device, dtype=dtype), ACTIVATIONS[activation].module()]
            last = nn.Linear(widths[-1], self.dim, bias=False, device=device, dtype=dtype)
            nn.init.zeros_(last.weight)
            self.mass_network = nn.Sequential(*modules, last)

    def mass(self, q: Tensor, condition: Tensor | None = None) -> Tensor:
        """Masses m(q, c), shape (..., d), all above 0.001."""
        raw = self.raw_mass
        if self.mass_network is not None:
            raw = raw + self.mass_network(q if condition is None else torch.cat((q, condition), dim=-1))
        return (F.softplus(raw) + _LEAST_MASS).expand(q.shape)

    def lagrangian(self, q: Tensor, v: Tensor, condition: Tensor | None = None) -> Tensor:
        """L(q, v), shape (...); q and v are (..., d)."""
        potential: Tensor = self.potential(q, condition)
        return self._kinetic(q, v, condition) - potential

    def energy(self, q: Tensor, v: Tensor, condition: Tensor | None = None) -> Tensor:
        """Kinetic plus potential energy, shape (...)."""
        potential: Tensor = self.potential(q, condition)
        return self._kinetic(q, v, condition) + potential

    def forward(self, q0: Tensor, q1: Tensor, dt: float | Tensor, condition: Tensor | None = None) -> Tensor:
        """Discrete Lagrangian L_d(q0, q1), shape (...)."""
        return discrete_lagrangian(self.lagrangian, self.rule)(q0, q1, dt, condition)

    @property
    def description(self) -> ActionMLP | str:
        """The same as plain tensors, or why it cannot be: both rules make of V a network of both points."""
        if self.mass_network is not None:
            return "its mass is a network"
        V, d = self.potential.description, self.dim
        at_q, of_condition = V.weights[0].split((d, self.condition_dim), dim=1)
        if self.rule == "midpoint":
            first = torch.cat((at_q / 2, at_q / 2, of_condition), dim=1)
            weights, biases, head = V.weights[1:-1], V.biases[:-1], -V.weights[-1]
        else:  # V at q0 and V at q1, side by side
            nothing = torch.zeros_like(at_q)
            first = torch.cat(
                (torch.cat((at_q, nothing, of_condition), dim=1), torch.cat((nothing, at_q, of_condition), dim=1))
            )
            weights = tuple(torch.block_diag(weight, weight) for weight in V.weights[1:-1])
            biases = tuple(None if bias is None else torch.cat((bias, bias)) for bias in V.biases[:-1])
            head = torch.cat((V.weights[-1], V.weights[-1]), dim=1) / -2
        # No derivative of L_d depends on the last bias.
        network = MLP((first, *weights, head), (*biases, None), V.activation, V.condition_dim)
        return ActionMLP(F.softplus(self.raw_mass) + _LEAST_MASS, network)

    def _kinetic(self, q: Tensor, v: Tensor, condition: Tensor | None) -> Tensor:
        return 0.5 * (self.mass(q, condition) * v.square()).sum(-1)


class DiscreteLagrangianMLP(nn.Module):
    """L_d(q0, q1) = 1/2 sum_i m_i (q1 - q0)_i^2 / dt + dt N(q0, q1, c) with learned masses and a learned N.

    The first term keeps the mixed Hessian regular: that of a network alone has no more than its first layer's rank.

    Args:
        dim: number d of configuration coordinates; the network's input is (q0, q1), 2d numbers.
        hidden: widths of the network's hidden layers.
        activation: "softplus", "tanh", "silu", "gelu" or "sin".
        condition_dim: size of a per-trajectory condition; 0 for none.
        device: as for ``nn.Linear``.
        dtype: as for ``nn.Linear``.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (128, 128),
        activation: str = "silu",
        *,
        condition_dim: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dim <= 0:
            raise ValueError(f"dim must be positive, got {dim}")
        self.dim, self.condition_dim = int(dim), int(condition_dim)
        self.raw_mass = nn.Parameter(torch.full((self.dim,), _UNIT_MASS, device=device, dtype=dtype))
        self.network = ScalarMLP(
            2 * self.dim, hidden, activation, condition_dim=condition_dim, device=device, dtype=dtype
        )

    @property
    def mass(self) -> Tensor:
        """Masses of the kinetic term, shape (d,), all above 0.001."""
        return F.softplus(self.raw_mass) + _LEAST_MASS

    @property
    def description(self) -> ActionMLP:
        """The same as plain tensors."""
        return ActionMLP(self.mass, self.network.description)

    def forward(self, q0: Tensor, q1: Tensor, dt: float | Tensor, condition: Tensor | None = None) -> Tensor:
        """Discrete Lagrangian L_d(q0, q1), shape (...)."""
        kinetic = 0.5 * (self.mass * (q1 - q0).square()).sum(-1) / dt
        learned: Tensor = self.network(torch.cat((q0, q1), dim=-1), condition)
        return kinetic + dt * learned


def slot_derivatives(
    L: Action, q0: Tensor, q1: Tensor, dt: float | Tensor, condition: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """D1 and D2 of L_d at (q0, q1), each (..., d); differentiable where grad mode is on. Works in inference mode."""
    differentiable = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        # At aliases that know nothing of one another: a q1 computed from q0 is no part of the derivative by q0.
        slots = [_own(q) for q in (q0, q1)]
        more = () if condition is None else (condition.clone() if condition.is_inference() else condition,)
        value = L(*slots, dt, *more)
        if value.shape != q0.shape[:-1]:
            raise ValueError(f"L must return actions of shape {tuple(q0.shape[:-1])} here, got {tuple(value.shape)}")
        if not value.requires_grad:
            return torch.zeros_like(q0), torch.zeros_like(q1)
        found = torch.autograd.grad(value.sum(), slots, create_graph=differentiable, allow_unused=True)
    first, second = (torch.zeros_like(q) if g is None else g for g, q in zip(found, slots, strict=True))
    return first, second


def _own(q: Tensor) -> Tensor:
    if q.is_inference():
        q = q.clone()
    return q.view_as(q) if q.requires_grad else q.detach().requires_grad_()


def D1(  # noqa: N802
    L: Action, q0: Tensor, q1: Tensor, dt: float | Tensor, condition: Tensor | None = None
) -> Tensor:
    """Derivative of L_d by q0, shape (..., d)."""
    return slot_derivatives(L, q0, q1, dt, condition)[0]


def D2(  # noqa: N802
    L: Action, q0: Tensor, q1: Tensor, dt: float | Tensor, condition: Tensor | None = None
) -> Tensor:
    """Derivative of L_d by q1, shape (..., d)."""
    return slot_derivatives(L, q0, q1, dt, condition)[1]


def D1D2(  # noqa: N802
    L: Action, q0: Tensor, q1: Tensor, dt: float | Tensor, condition: Tensor | None = None
) -> Tensor:
    """Mixed Hessian, shape (..., d, d): entry (i, j) is the second derivative by q0_i and q1_j. One pass a row."""
    differentiable = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        end = _own(q1)
        first = D1(L, q0, end, dt, condition)
        return jacobian(first, end, differentiable)


def jacobian(values: Tensor, by: Tensor, create_graph: bool) -> Tensor:
    """Jacobians (..., m, n) of ``values`` (..., m), each of which depends on its own ``by`` (..., n) alone."""
    rows = []
    for i in range(values.shape[-1]):
        row = None
        if values.requires_grad:
            (row,) = torch.autograd.grad(
                values[..., i].sum(), by, retain_graph=True, create_graph=create_graph, allow_unused=True
            )
        rows.append(torch.zeros_like(by) if row is None else row)
    return torch.stack(rows, dim=-2)


def momenta(
    L: Action, q0: Tensor, q1: Tensor, dt: float | Tensor, condition: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Momenta p0 = -D1 L_d and p1 = D2 L_d at both ends, each (..., d): the two discrete Legendre transforms."""
    first, second = slot_derivatives(L, q0, q1, dt, condition)
    return -first, second


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
