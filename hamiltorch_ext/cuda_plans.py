"""How a rollout runs on a GPU: the plans there are, the one that is chosen, and a way to force another.

A *plan* says which blocks share samples and where the weights are. ``"solo"``: a block on its own. ``"cluster"``: a
thread-block cluster whose blocks each keep some rows of every layer and exchange through each other's shared memory.
``"grid"``: the same through global memory, for devices without clusters. Small batches want the weights on chip and
several blocks for one sample; large ones want every block to own its samples and the weights to stream by. The choice
is made by a cost model of the device (``csrc/cuda/plan.cpp``); what runs is the same function in every case.

    from hamiltorch_ext import cuda_plans

    for plan in cuda_plans.candidate_plans((512, 512, 256), batch=32):
        with cuda_plans.use_plan(plan):
            leapfrog_rollout(H, z0, dt, steps)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from . import _C
from .integrators import integrator

__all__ = ["Plan", "candidate_plans", "choose_plan", "use_plan"]

PRECISIONS = {"float64": 0, "float32": 1, "tf32": 2, "bfloat16": 3}
PRECISION_NAMES = tuple(PRECISIONS)
TEAMS = ("solo", "cluster", "grid")
WEIGHTS = ("shared", "packed in shared", "packed in global")


@dataclass(frozen=True)
class Plan:
    """One way to run a rollout, or with ``adjoint`` its backward pass.

    ``members`` blocks form each of ``teams`` teams, and a team holds ``columns`` columns at once: one for each sample,
    two in the adjoint. ``precision`` is that of the products: finer than what was asked for where coarser products of
    a few samples would not be faster. ``weights`` says where they are read from. ``predicted_us`` is the cost model's
    estimate for one step, in microseconds: a basis for the choice, not a measurement.
    """

    team: str
    members: int
    columns: int
    weights: str
    in_place: bool
    vectors_global: bool
    teams: int
    shared_bytes: int
    workspace_bytes: int
    predicted_us: float
    precision: str
    adjoint: bool

    def __str__(self) -> str:
        """What tells plans apart, in a few words."""
        members = f" of {self.members}" if self.members > 1 else ""
        direction = "backward" if self.adjoint else "forward"
        return f"{direction} {self.precision} {self.team}{members} x{self.columns}, weights {self.weights}"

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return dataclasses.asdict(self)

    @property
    def kind(self) -> tuple[str, str, int, int, str]:
        """What ``use_plan`` forces: the rest follows from the rollout's size."""
        return self.precision, self.team, self.members, self.columns, self.weights


def candidate_plans(
    hidden: Sequence[int],
    batch: int,
    *,
    precision: str = "float32",
    adjoint: bool = False,
    method: str = "leapfrog",
    device: int = 0,
) -> list[Plan]:
    """Every plan that can run such a rollout on the device, the best by prediction first.

    Args:
        hidden: widths of the hidden layers.
        batch: number of samples.
        precision: "float32", "tf32" or "bfloat16"; "float64" for float64 tensors.
        adjoint: plans of the backward pass.
        method: a name of the table of integrators.
        device: index of the CUDA device.

    Raises:
        ValueError: no plan fits; the message says what is missing.
    """
    plans = native_plans(_C, tuple(hidden), batch, method, precision, adjoint, device)
    return [_described(plan, adjoint) for plan in plans]


def choose_plan(
    hidden: Sequence[int],
    batch: int,
    *,
    precision: str = "float32",
    adjoint: bool = False,
    method: str = "leapfrog",
    device: int = 0,
) -> Plan:
    """Return the plan that a rollout of this size runs by; arguments as in ``candidate_plans``."""
    return _described(native_plan(_C, tuple(hidden), batch, method, precision, adjoint, device), adjoint)


@contextmanager
def use_plan(plan: Plan) -> Iterator[None]:
    """Run all rollouts within the block (or with ``plan.adjoint`` all backward passes) by a plan of this kind.

    A rollout that the plan cannot run raises ValueError. Backward passes of ``torch.autograd`` run on threads of its
    own on CUDA devices, which see the plan as well.
    """
    before = dict(_FORCED)
    _FORCED[plan.adjoint] = plan
    try:
        yield
    finally:
        _FORCED.clear()
        _FORCED.update(before)


# Of the process, not of a thread or context: autograd's backward pass runs on threads of its own.
_FORCED: dict[bool, Plan] = {}


def native_plan(
    native: Any, hidden: tuple[int, ...], batch: int, method: str, precision: str, adjoint: bool, device: int
) -> Any:
    """The native plan of a call: the forced one, or the best by prediction."""
    plans = native_plans(native, hidden, batch, method, precision, adjoint, device)
    forced = _FORCED.get(adjoint)
    if forced is None:
        return plans[0]
    for plan in plans:
        if _described(plan, adjoint).kind == forced.kind:
            return plan
    raise ValueError(f"the plan in use, {forced}, cannot run hidden={hidden}, batch={batch}, precision={precision!r}")


@lru_cache(maxsize=256)
def native_plans(
    native: Any, hidden: tuple[int, ...], batch: int, method: str, precision: str, adjoint: bool, device: int
) -> list[Any]:
    """Every plan of a call, the best by prediction first; ValueError says why there is none."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    gpu = native.gpu_description(device)
    moves = [stage.mask for stage in integrator(method).stages]
    plans: list[Any] = native.cuda_plans(list(hidden), batch, moves, PRECISIONS[precision], adjoint, gpu)
    return plans


@lru_cache(maxsize=256)
def implicit_plan(
    native: Any, dim: int, hidden: tuple[int, ...], batch: int, method: str, is_double: bool, device: int
) -> Any:
    """Where a rollout by implicit stages of q and p, ``dim`` numbers each, finds things; ValueError says why it cannot
    be run."""
    stages = len(integrator(method).stages)
    return native.cuda_implicit_plan(dim, hidden, batch, stages, is_double, native.gpu_description(device))


@lru_cache(maxsize=256)
def extended_plan(native: Any, dim: int, hidden: tuple[int, ...], batch: int, is_double: bool, device: int) -> Any:
    """The same of a rollout in Tao's extended phase space."""
    return native.cuda_extended_plan(dim, hidden, batch, is_double, native.gpu_description(device))


@lru_cache(maxsize=256)
def discrete_plan(native: Any, dim: int, hidden: tuple[int, ...], batch: int, is_double: bool, device: int) -> Any:
    """The same of a rollout by the discrete gradient."""
    return native.cuda_discrete_plan(dim, hidden, batch, is_double, native.gpu_description(device))


@lru_cache(maxsize=256)
def separable_plan(
    native: Any, dim: int, hidden: tuple[tuple[int, ...], ...], batch: int, is_double: bool, device: int
) -> Any:
    """The same of a rollout of T(p) + V(q), with V's hidden layers and those of T, unless it has masses."""
    potential, kinetic = (*hidden, ())[:2]
    return native.cuda_separable_plan(dim, potential, kinetic, batch, is_double, native.gpu_description(device))


def _described(plan: Any, adjoint: bool) -> Plan:
    return Plan(
        team=TEAMS[plan.team],
        members=plan.members,
        columns=8 * plan.right,
        weights=WEIGHTS[plan.weights],
        in_place=plan.in_place,
        vectors_global=plan.vectors_global,
        teams=plan.teams,
        shared_bytes=plan.shared_bytes,
        workspace_bytes=plan.workspace_bytes,
        predicted_us=plan.predicted_us,
        precision=PRECISION_NAMES[plan.precision],
        adjoint=adjoint,
    )
