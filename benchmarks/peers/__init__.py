"""The peers, one file each.

A peer's module has a function for every kind of case that it takes, ``rollout(problem)``, say, which does all set-up
and returns a call without arguments, and ``unavailable(device)``, which returns None or one line that says why the peer
cannot run. Those of a Lagrangian stand in a module of their own, ``del_*``, those of implicit methods in
``implicit_*``. A call computes everything anew and returns its results by name: ``trajectory``; of a training step
``loss`` and the gradient of it by every weight, every bias and dt; of ``del_gradient`` ``trajectory`` and the gradients
by ``cases.named_leaves``. On a GPU it may return before its results are there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from types import ModuleType
from typing import Any

from cases import IMPLICIT, Case, Problem

from . import (
    analytic,
    compiled,
    del_compiled,
    del_func,
    del_jax,
    del_jax_chord,
    del_ours,
    eager,
    graph,
    implicit_analytic,
    implicit_compiled,
    implicit_jax,
    implicit_ours,
    jax_jit,
    ours,
    plain_mlp,
)

KINDS = ("rollout", "training", *IMPLICIT, "del_rollout", "del_gradient")
Prepare = Callable[[Problem], Callable[[], dict[str, Any]]]


@dataclass(frozen=True)
class Peer:
    """One column of the results. It takes part in the kinds of cases that it has a function for.

    Their names match one of ``cases``; rollouts and training steps are those of its ``model``.
    """

    unavailable: Callable[[str], str | None]
    rollout: Prepare | None = None
    training: Prepare | None = None
    stormer_verlet: Prepare | None = None
    implicit_midpoint: Prepare | None = None
    discrete_gradient: Prepare | None = None
    del_rollout: Prepare | None = None
    del_gradient: Prepare | None = None
    model: str = "hamiltonian"
    precision: str = "float32"
    cases: tuple[str, ...] = ("*",)

    def takes(self, case: Case) -> bool:
        known = getattr(self, case.kind) is not None and case.model in (self.model, "lagrangian")
        return known and any(fnmatch(case.name, pattern) for pattern in self.cases)


def _peer(*modules: ModuleType, options: dict[str, str] | None = None, replayed: bool = False, **fields: Any) -> Peer:
    """The modules' functions with ``options``; ``replayed`` as a CUDA graph of its call."""
    functions: dict[str, Any] = {
        name: partial(getattr(module, name), **options or {})
        for module in modules
        for name in ("unavailable", *KINDS)
        if hasattr(module, name)
    }
    unavailable = functions.pop("unavailable")
    if replayed:
        functions = {kind: graph.replayed(prepare) for kind, prepare in functions.items()}
    return Peer(unavailable, **functions, **fields)


# By device. To compile takes tens of seconds a case: on a GPU, where cases are many and short, few have it, and of what
# is solved those of one batch.
PEERS = {
    "cpu": {
        "ours": _peer(ours, implicit_ours, del_ours),
        "ours bf16": _peer(ours, options={"precision": "bfloat16"}, precision="bfloat16", cases=("rollout/paper/*",)),
        "torch eager": _peer(eager),
        "torch analytic": _peer(analytic, implicit_analytic),
        "torch.func": _peer(del_func, cases=("del*/b1", "del*/b64", "del*/d8/b512")),  # else seconds a call
        "torch.compile": _peer(
            compiled,
            implicit_compiled,
            del_compiled,
            cases=("rollout/*", "training/*", *(f"{method}/*/b32" for method in IMPLICIT), "del*/b64"),
        ),
        "jax jit": _peer(jax_jit, implicit_jax, del_jax),
        "jax chord": _peer(del_jax_chord),
        "plain MLP": _peer(plain_mlp, model="baseline"),
    },
    "cuda": {
        "ours": _peer(ours, implicit_ours, del_ours),
        "ours graph": _peer(ours, replayed=True),
        "ours tf32": _peer(ours, options={"precision": "tf32"}, precision="tf32"),
        "ours bf16": _peer(ours, options={"precision": "bfloat16"}, precision="bfloat16"),
        "torch eager": _peer(eager),
        "torch analytic": _peer(analytic, implicit_analytic),
        "torch analytic graph": _peer(analytic, replayed=True),
        "torch.func": _peer(del_func),
        "torch.compile reduce-overhead": _peer(
            compiled, options={"mode": "reduce-overhead"}, cases=("rollout/paper/*", "training/paper/b32")
        ),
        "torch.compile max-autotune": _peer(
            compiled, options={"mode": "max-autotune"}, cases=("rollout/paper/b1", "rollout/paper/b65536")
        ),
        "jax jit": _peer(jax_jit, implicit_jax, del_jax),
        "plain MLP": _peer(plain_mlp, model="baseline"),
        "plain MLP graph": _peer(plain_mlp, model="baseline", replayed=True),
    },
}
