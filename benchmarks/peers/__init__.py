"""The peers, one file each.

A peer is a module with ``NAME``, ``MODEL`` ("hamiltonian" or "baseline"), ``unavailable(device)``, which returns None
or one line that says why it cannot run, and ``rollout(problem)`` and ``training(problem)``, which do all set-up and
return a call without arguments. A call computes everything anew and returns its results by name: ``trajectory``, or
``loss`` and the gradient of it by every weight, every bias and dt.
"""

from types import ModuleType

from . import analytic, compiled, eager, jax_jit, ours, plain_mlp

PEERS: dict[str, ModuleType] = {peer.NAME: peer for peer in (ours, eager, analytic, compiled, jax_jit, plain_mlp)}
OURS = ours.NAME
