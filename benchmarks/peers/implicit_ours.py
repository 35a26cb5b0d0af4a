"""``rollout`` by implicit methods."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cases import MOST_STAGE_ITERATIONS, TOLERANCE, Problem
from torch import Tensor

import hamiltorch_ext

from .eager import network


def _rollout(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    H = network(problem).requires_grad_(False)
    native = partial(
        hamiltorch_ext.rollout, H, problem.z0, problem.dt, problem.case.steps,
        method=problem.case.kind, tol=TOLERANCE, max_iterations=MOST_STAGE_ITERATIONS, backend="native",
    )  # fmt: skip
    return lambda: {"trajectory": native()}


stormer_verlet = implicit_midpoint = discrete_gradient = _rollout
