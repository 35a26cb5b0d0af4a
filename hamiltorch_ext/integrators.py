"""The table of integrators: what each method is made of and what it keeps.

Most methods are lists of *stages* applied in order within one step of size dt. A stage takes z = (q, p) to

    z' = z + c dt M J dH/dz(w),    J dH/dz = (dH/dp, -dH/dq),

where M picks the halves that it moves ("q", "p", or "qp" for both) and w is the point where the gradient is taken: of
each half that moves it lies ``at_q`` or ``at_p`` of the way from its old value to its new one. With both zero the stage
is explicit; else w is the solution of w = z + c dt Theta M J dH/dz(w). "extended" and "discrete_gradient" are schemes
of their own.

The native kernels, the torch reference, the checks and the documentation all read this table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["INTEGRATORS", "Integrator", "Keeps", "Stage", "integrator"]

# Of which H a property holds: every H, H = T(p) + V(q), none; or of every H in the doubled phase space alone.
Keeps = Literal["always", "separable", "never", "extended"]


@dataclass(frozen=True)
class Stage:
    """One gradient and the update it makes: what ``moves`` ("p", "q" or "qp"), c, and where the gradient is taken."""

    moves: str
    coefficient: float
    at_q: float = 0.0
    at_p: float = 0.0

    @property
    def mask(self) -> int:
        """Bit 0: p moves; bit 1: q moves (the native kernels' encoding)."""
        return ("p" in self.moves) | ("q" in self.moves) << 1

    @property
    def implicit(self) -> bool:
        """Whether the point of its gradient depends on its own update."""
        return self.at_q != 0 or self.at_p != 0

    def if_separable(self) -> tuple[Stage, ...]:
        """The same for H = T(p) + V(q), where the half that the other's gradient needs can be moved first."""
        kick, drift = Stage("p", self.coefficient), Stage("q", self.coefficient)
        ends = {(0.0, 1.0): (kick, drift), (1.0, 0.0): (drift, kick)}
        return ends.get((self.at_q, self.at_p), (self,)) if self.moves == "qp" else (self,)


@dataclass(frozen=True)
class Integrator:
    """One method: its stages, and what it keeps for a general H and for separable H = T(p) + V(q)."""

    name: str
    stages: tuple[Stage, ...]
    order: int
    order_if_separable: int
    symplectic: Keeps
    symmetric: Keeps
    source: str
    conserves_energy: bool = False
    own_evaluations: int = 0

    @property
    def explicit(self) -> bool:
        """Whether a step needs no equations solved."""
        return self.name != "discrete_gradient" and not any(stage.implicit for stage in self.stages)

    @property
    def explicit_if_separable(self) -> bool:
        """The same for separable H."""
        return self.explicit or (bool(self.stages) and not any(stage.implicit for stage in self.separable_stages))

    @property
    def separable_stages(self) -> tuple[Stage, ...]:
        """The stages for separable H, explicit where they can be; neighbours that move the same half are one."""
        merged: list[Stage] = []
        for stage in (part for whole in self.stages for part in whole.if_separable()):
            if merged and not stage.implicit and merged[-1].moves == stage.moves:
                merged[-1] = replace(stage, coefficient=merged[-1].coefficient + stage.coefficient)
            else:
                merged.append(stage)
        return tuple(merged)

    @property
    def gradient_evaluations(self) -> int:
        """Gradient evaluations per step; of an implicit method, at each iteration of its solves."""
        return self.own_evaluations or len(self.stages)

    def keeps(self, structure: str, separable: bool) -> bool:
        """Whether it keeps "symplectic", "symmetric" or "energy" structure for a general or a separable H."""
        if structure == "energy":
            return self.conserves_energy
        known: dict[str, Keeps] = {"symplectic": self.symplectic, "symmetric": self.symmetric}
        if structure not in known:
            raise ValueError(f"require must be 'symplectic', 'symmetric' or 'energy', got {structure!r}")
        return known[structure] == "always" or (separable and known[structure] == "separable")


def _stormer_verlet(coefficient: float) -> tuple[Stage, ...]:
    """One step of ``coefficient`` dt: the symplectic Euler method for one half, its adjoint for the other."""
    half = coefficient / 2
    return Stage("qp", half, at_p=1.0), Stage("qp", half, at_q=1.0)


# Triple jump: g = 1 / (2 - 2^(1/3)) forward, 1 - 2 g back, g forward.
_JUMP = 1 / (2 - 2 ** (1 / 3))


def _composed(coefficients: Iterable[float]) -> tuple[Stage, ...]:
    return tuple(stage for coefficient in coefficients for stage in _stormer_verlet(coefficient))


INTEGRATORS: dict[str, Integrator] = {
    method.name: method
    for method in (
        Integrator("euler", (Stage("qp", 1.0),), 1, 1, "never", "never", "explicit Euler"),
        Integrator(
            "symplectic_euler",
            (Stage("qp", 1.0, at_p=1.0),),
            1,
            1,
            "always",
            "never",
            "Hairer, Lubich, Wanner, Geometric Numerical Integration, VI.3.1",
        ),
        Integrator(
            "leapfrog",
            (Stage("p", 0.5), Stage("q", 1.0), Stage("p", 0.5)),
            1,
            2,
            "separable",
            "separable",
            "H-JEPA, Algorithm 1 (for separable H: Stoermer-Verlet, kick-drift-kick)",
        ),
        Integrator(
            "stormer_verlet",
            _stormer_verlet(1.0),
            2,
            2,
            "always",
            "always",
            "generalised Stoermer-Verlet: Hairer, Lubich, Wanner, VI.3.3",
        ),
        Integrator(
            "implicit_midpoint",
            (Stage("qp", 1.0, at_q=0.5, at_p=0.5),),
            2,
            2,
            "always",
            "always",
            "Hairer, Lubich, Wanner, VI.4.1",
        ),
        Integrator(
            "yoshida4",
            _composed((_JUMP, 1 - 2 * _JUMP, _JUMP)),
            4,
            4,
            "always",
            "always",
            "Yoshida 1990, triple jump of stormer_verlet",
        ),
        Integrator("extended", (), 2, 2, "extended", "extended", "Tao 2016, eq. 2", own_evaluations=4),
        Integrator(
            "discrete_gradient",
            (),
            2,
            2,
            "never",
            "always",
            "Gonzalez 1996, midpoint discrete gradient",
            conserves_energy=True,
            own_evaluations=1,
        ),
    )
}


def integrator(method: str) -> Integrator:
    """Return the table's entry for ``method``; ValueError names the methods there are."""
    try:
        return INTEGRATORS[method]
    except (KeyError, TypeError):
        raise ValueError(f"method must be one of {', '.join(map(repr, INTEGRATORS))}, got {method!r}") from None
