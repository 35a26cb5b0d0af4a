"""``torch.compile`` of what the torch.func version does between two looks at whether it has finished."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import Problem
from torch import Tensor

from . import del_func


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, dynamic=False)


def del_rollout(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    torch.compiler.reset()  # one case's kernels are no use to the next, and fill the cache
    return del_func.del_rollout(problem, _compiled)


def del_gradient(problem: Problem) -> Callable[[], dict[str, Tensor]]:
    torch.compiler.reset()
    return del_func.del_gradient(problem, _compiled)
