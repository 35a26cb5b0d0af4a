"""The peers, one file each.

A peer's module has ``rollout(problem)`` and ``training(problem)``, which do all set-up and return a call without
arguments, and ``unavailable(device)``, which returns None or one line that says why the peer cannot run. A call
computes everything anew and returns its results by name: ``trajectory``, or ``loss`` and the gradient of it by every
weight, every bias and dt. On a GPU it may return before its results are there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from types import ModuleType
from typing import Any

from cases import Case, Problem

from . import analytic, compiled, eager, graph, jax_jit, ours, plain_mlp

Prepare = Callable[[Problem], Callable[[], dict[str, Any]]]


@dataclass(frozen=True)
class Peer:
    """One column of the results. It takes part in cases of its ``model`` whose name matches one of ``cases``."""

    rollout: Prepare
    training: Prepare
    unavailable: Callable[[str], str | None]
    model: str = "hamiltonian"
    precision: str = "float32"
    cases: tuple[str, ...] = ("*",)

    def takes(self, case: Case) -> bool:
        return case.model == self.model and any(fnmatch(case.name, pattern) for pattern in self.cases)


def _peer(module: ModuleType, options: dict[str, str] | None = None, replayed: bool = False, **fields: Any) -> Peer:
    """The module's functions with ``options``; ``replayed`` as a CUDA graph of its call."""
    rollout, training, unavailable = (
        partial(function, **options or {}) for function in (module.rollout, module.training, module.unavailable)
    )
    if replayed:
        return Peer(graph.replayed(rollout), graph.replayed(training), unavailable, **fields)
    return Peer(rollout, training, unavailable, **fields)


# By device. To compile a whole rollout takes tens of seconds: on a GPU, where cases are many and short, few have it.
PEERS = {
    "cpu": {
        "ours": _peer(ours),
        "ours bf16": _peer(ours, {"precision": "bfloat16"}, precision="bfloat16", cases=("rollout/paper/*",)),
        "torch eager": _peer(eager),
        "torch analytic": _peer(analytic),
        "torch.compile": _peer(compiled),
        "jax jit": _peer(jax_jit),
        "plain MLP": _peer(plain_mlp, model="baseline"),
    },
    "cuda": {
        "ours": _peer(ours),
        "ours graph": _peer(ours, replayed=True),
        "ours tf32": _peer(ours, {"precision": "tf32"}, precision="tf32"),
        "ours bf16": _peer(ours, {"precision": "bfloat16"}, precision="bfloat16"),
        "torch eager": _peer(eager),
        "torch analytic": _peer(analytic),
        "torch analytic graph": _peer(analytic, replayed=True),
        "torch.compile reduce-overhead": _peer(
            compiled, {"mode": "reduce-overhead"}, cases=("rollout/paper/*", "training/paper/b32")
        ),
        "torch.compile max-autotune": _peer(
            compiled, {"mode": "max-autotune"}, cases=("rollout/paper/b1", "rollout/paper/b65536")
        ),
        "jax jit": _peer(jax_jit),
        "plain MLP": _peer(plain_mlp, model="baseline"),
        "plain MLP graph": _peer(plain_mlp, model="baseline", replayed=True),
    },
}
