"""JAX with the kinetic term in the place of Newton's matrix: less work a step, as long as that term outweighs the rest.

Not the method that the cases ask about, but the cheapest that solves their equations.
"""

from __future__ import annotations

from functools import partial

from . import del_jax
from .jax_jit import unavailable

__all__ = ["del_rollout", "unavailable"]

del_rollout = partial(del_jax.del_rollout, chord=True)
