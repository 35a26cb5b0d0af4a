"""``torch.compile`` of the hand-written version: the whole rollout as one graph, default mode."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
from cases import Problem
from torch import Tensor

from . import analytic

NAME = "torch.compile"
MODEL = "hamiltonian"


def unavailable(device: str) -> str | None:
    if device == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "torch.compile needs a C++ compiler on the CPU, found none"
    return None


def _compiled() -> analytic.Leapfrog:
    # A cache shared by the cases would fall back to eager after a few recompilations of one function.
    torch.compiler.reset()
    return torch.compile(analytic.leapfrog, fullgraph=True, dynamic=False)


def rollout(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    return analytic.rollout(problem, _compiled())


def training(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    return analytic.training(problem, _compiled())
