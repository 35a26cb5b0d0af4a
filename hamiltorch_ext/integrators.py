"""The table of integrators: what each method is made of and what it keeps.

A method is a list of *stages* applied in order within one step of size dt. A stage evaluates dH/dz once, at the state
it finds, and moves the halves of z = (q, p) that it names:

* ``"p"``   (kick):   p <- p - c dt dH/dq(q, p)
* ``"q"``   (drift):  q <- q + c dt dH/dp(q, p)
* ``"qp"``  (both at once, explicit Euler)

The native kernels, the torch reference and the documentation all read this table. Every method's first stage evaluates
at the state that the step starts from; the energy along a rollout is read off there at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["INTEGRATORS", "Integrator", "Stage", "integrator"]


@dataclass(frozen=True)
class Stage:
    """One gradient evaluation and the update it makes: ``moves`` is "p", "q" or "qp", ``coefficient`` is c above."""

    moves: str
    coefficient: float

    @property
    def mask(self) -> int:
        """Bit 0: p moves; bit 1: q moves (the native kernels' encoding)."""
        return ("p" in self.moves) | ("q" in self.moves) << 1


@dataclass(frozen=True)
class Integrator:
    """One method: its stages, and what it keeps for a general H and for separable H = T(p) + V(q)."""

    name: str
    stages: tuple[Stage, ...]
    order: int
    order_if_separable: int
    symplectic_if_separable: bool
    symmetric_if_separable: bool
    source: str

    @property
    def gradient_evaluations(self) -> int:
        """Gradient evaluations per step."""
        return len(self.stages)


INTEGRATORS: dict[str, Integrator] = {
    method.name: method
    for method in (
        Integrator("euler", (Stage("qp", 1.0),), 1, 1, False, False, "explicit Euler"),
        Integrator(
            "leapfrog",
            (Stage("p", 0.5), Stage("q", 1.0), Stage("p", 0.5)),
            1,
            2,
            True,
            True,
            "H-JEPA, Algorithm 1 (for separable H: Stoermer-Verlet, kick-drift-kick)",
        ),
    )
}


def integrator(method: str) -> Integrator:
    """Return the table's entry for ``method``; ValueError names the methods there are."""
    try:
        return INTEGRATORS[method]
    except (KeyError, TypeError):
        raise ValueError(f"method must be one of {', '.join(map(repr, INTEGRATORS))}, got {method!r}") from None
