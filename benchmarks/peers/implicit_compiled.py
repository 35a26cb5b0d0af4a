"""``torch.compile`` of what the hand-written version does between two looks at whether it has finished."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import Problem
from torch import Tensor

from . import implicit_analytic
from .del_compiled import _compiled


def stormer_verlet(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    torch.compiler.reset()  # one case's kernels are no use to the next, and fill the cache
    return implicit_analytic.stormer_verlet(problem, _compiled)


def implicit_midpoint(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    torch.compiler.reset()
    return implicit_analytic.implicit_midpoint(problem, _compiled)


def discrete_gradient(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    torch.compiler.reset()
    return implicit_analytic.discrete_gradient(problem, _compiled)
