"""``torch.compile`` of the hand-written version: the whole rollout as one graph, in torch's default mode or another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch
from cases import Case, Problem
from torch import Tensor

from . import analytic

_compiled_for: Case | None = None


def unavailable(device: str, mode: str | None = None) -> str | None:
    if device == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "torch.compile needs a C++ compiler on the CPU, found none"
    return None


def _compiled(problem: Problem, mode: str | None) -> analytic.Leapfrog:
    global _compiled_for
    if problem.case != _compiled_for:
        # A cache shared by the cases would fall back to eager after a few recompilations of one function.
        torch.compiler.reset()
        _compiled_for = problem.case
    compiled = torch.compile(analytic.leapfrog, fullgraph=True, dynamic=False, mode=mode)
    return compiled if mode is None else _with_graphs(compiled)


def _with_graphs(compiled: analytic.Leapfrog) -> analytic.Leapfrog:
    """For the modes that replay CUDA graphs: say when a new call begins, and that its inputs stay where they are."""
    marked = False

    def leapfrog(weights: Any, biases: Any, z0: Tensor, dt: Tensor, steps: int, with_energy: bool) -> Any:
        nonlocal marked
        if not marked:
            for tensor in (*weights, *biases, z0, dt):
                torch._dynamo.mark_static_address(tensor)
            marked = True
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(weights, biases, z0, dt, steps, with_energy)

    return leapfrog


def rollout(problem: Problem, mode: str | None = None) -> Callable[[], dict[str, Tensor]]:
    return analytic.rollout(problem, _compiled(problem, mode))


def training(problem: Problem, mode: str | None = None) -> Callable[[], dict[str, Tensor]]:
    return analytic.training(problem, _compiled(problem, mode))
