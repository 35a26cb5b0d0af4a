"""No result is timed before it is right: every peer's error against a float64 oracle.

The yardstick is what float32 torch autograd reaches on the same inputs. A peer may be ``SLACK`` times as far off: wide
enough for another order of summation, far too narrow for another algorithm (the tests hold the library to 2).
TF32 and bfloat16 are allowed as many times more as their rounding is coarser than float32's.

A discrete Euler-Lagrange rollout is held to float32's own error in the same way, and may be off by what its tolerance
allows besides: by as much as the exact motion moves where every equation keeps a residual at the bound, in one
direction at all steps. A residual is an impulse, so n steps of a free mass m are off by tol (1 + |p|) dt/m n(n + 1)/2.

A rollout by an implicit method likewise, by as much as it moves where every solve keeps a residual at the bound. A
residual displaces what is solved for: p in the first half of a step of generalised Stoermer-Verlet and q in the second;
the midpoint in the midpoint rule, and the next state by twice as much; the next state by the discrete gradient. Where
there is no force n steps are off by n tol (1 + |p|), by 2 n tol (1 + |z|), or by n tol (1 + |z|), |.| being the largest
entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import del_oracle
import implicit_oracle
import numpy as np
import torch
from cases import IMPLICIT, TOLERANCE, Case, Problem
from peers import eager, jax_jit, plain_mlp

SLACK = 8.0
ROUNDING = 32 * float(np.finfo(np.float32).eps)
ROWS = 64  # rows of a batch do not interact: these stand for all
COARSER = {"float32": 1, "tf32": 2**13, "bfloat16": 2**16}  # significands of 24, 11 and 8 bits
MOST = 0.5  # of a result's largest entry: who is further off has computed nothing


class Checker:
    """The oracle's results for one problem, and the error that is allowed, by precision."""

    def __init__(self, problem: Problem) -> None:
        self.summed = problem.case.gradient
        self.rows = len(problem.z0) if self.summed else min(ROWS, len(problem.z0))
        few = problem.first(self.rows)
        exact = few.to(torch.float64)
        self.oracle = self._results(_solved(exact))
        allowed = SLACK * self.error(_solved(few)) + ROUNDING
        if (solution := _solution(problem.case)) is not None:
            allowed += self.error(solution(exact, push=TOLERANCE))
        self.allowed = {precision: min(MOST, coarser * allowed) for precision, coarser in COARSER.items()}

    def error(self, results: dict[str, Any]) -> float:
        """Largest error over all results, each relative to its largest entry.

        A gradient far below the others (that of the last bias is zero, by cancellation) is measured against a
        thousandth of the largest.
        """
        got = self._results(results)
        if got.keys() != self.oracle.keys():
            return float("inf")
        largest = max(np.abs(exact).max() for exact in self.oracle.values())
        errors = [
            np.abs(got[name] - exact).max() / max(np.abs(exact).max(), 1e-3 * largest)
            for name, exact in self.oracle.items()
        ]
        return float(np.max(errors))  # keeps a nan, which no bound admits

    def _results(self, results: dict[str, Any]) -> dict[str, np.ndarray]:
        # A rollout of a large batch is gigabytes: only the rows that count leave the device.
        few = results if self.summed else {name: value[: self.rows] for name, value in results.items()}
        return {name: _to_numpy(value).astype(np.float64) for name, value in few.items()}


def _solution(case: Case) -> Callable[..., dict[str, Any]] | None:
    """The oracle of what is solved to a tolerance."""
    if case.kind in IMPLICIT:
        return implicit_oracle.solution
    return del_oracle.solution if case.model == "lagrangian" else None


def _solved(problem: Problem) -> dict[str, Any]:
    """By torch autograd and the plainest method, in the problem's own precision."""
    if (solution := _solution(problem.case)) is not None:
        return solution(problem)
    peer = {"hamiltonian": eager, "baseline": plain_mlp}[problem.case.model]
    results: dict[str, Any] = getattr(peer, problem.case.kind)(problem)()
    return results


def _to_numpy(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else jax_jit.to_numpy(value)
