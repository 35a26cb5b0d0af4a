"""The plans of the CUDA kernels: which there are for a case, and how to force one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

from cases import Case

MODULE = "hamiltorch_ext.cuda_plans"


def candidates(case: Case, precision: str) -> list[Any]:
    """Every plan that could run the case: its rollout, or the adjoint where the case is a training step."""
    plans: list[Any] = import_module(MODULE).candidate_plans(case.widths[1:-1], case.batch, **_which(case, precision))
    return plans


def chosen(case: Case, precision: str) -> Any:
    """The one that runs if none is forced."""
    return import_module(MODULE).choose_plan(case.widths[1:-1], case.batch, **_which(case, precision))


def forced(plan: Any) -> AbstractContextManager[Any]:
    """A context in which ``plan`` runs; None stands for the library's choice."""
    context: AbstractContextManager[Any] = nullcontext() if plan is None else import_module(MODULE).use_plan(plan)
    return context


def _which(case: Case, precision: str) -> dict[str, Any]:
    return {"precision": precision, "adjoint": case.kind == "training"}
