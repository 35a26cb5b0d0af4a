"""JAX: implicit methods by fixed-point iteration in ``lax.while_loop``, steps in ``lax.scan``, all under ``jit``.

The solves are those of the hand-written torch version, their starts and ends included. Measured and no faster at any
batch: ``jax.grad`` for the half-gradients, starts from the old state (half as many iterations more), and weights that
lie as (out, in).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from cases import MOST_STAGE_ITERATIONS, TOLERANCE, Problem

from .jax_jit import _configured, _inputs, _inputs_first


def _energy_and_delta(params: Any, a: Any) -> tuple[Any, Any]:
    """H (batch,) less the last bias, and dH/da, of layer 1's a (batch, width); softplus and its slope have one
    exponential. What is not asked for is not computed."""
    import jax.numpy as jnp

    def activated(a: Any) -> tuple[Any, Any]:
        e = jnp.exp(-jnp.abs(a))
        return jnp.maximum(a, 0) + jnp.log1p(e), jnp.where(a > 0, 1, e) / (1 + e)

    _, *middle, (w, _) = params
    h, slope = activated(a)
    slopes = [slope]
    for weight, bias in middle:
        h, slope = activated(h @ weight + bias)
        slopes.append(slope)
    delta = w[:, 0] * slopes[-1]
    for (weight, _), slope in zip(reversed(middle), reversed(slopes[:-1]), strict=True):
        delta = (delta @ weight.T) * slope
    return h @ w[:, 0], delta


def _delta(params: Any, a: Any) -> Any:
    return _energy_and_delta(params, a)[1]


def _solved(delta_of: Callable[[Any], Any], guess: Any, base: Any, rest: Any, W: Any, V: Any, h: float) -> Any:
    """w = base + h delta(rest + w W) V from base + guess on, and delta there."""
    import jax
    import jax.numpy as jnp

    def iterate(state: Any) -> Any:
        w, _, _, iterations = state
        delta = delta_of(rest + w @ W)
        image = base + h * (delta @ V)
        solved = jnp.abs(image - w).max(-1) <= TOLERANCE * (1 + jnp.abs(w).max(-1))
        return image, delta, ~solved.all(), iterations + 1

    state = (base + guess, jnp.zeros((len(base), W.shape[1]), base.dtype), True, 0)
    return jax.lax.while_loop(lambda state: state[2] & (state[3] < MOST_STAGE_ITERATIONS), iterate, state)[:2]


# What a method makes of the weights it makes once, ahead of the steps: XLA would do it anew in each.
Step = Callable[[Any, Any], Any]  # from z, and what the solves are expected to add to it: the next z, what they added


def _stormer_verlet(params: Any, delta_of: Callable[[Any], Any], h: float) -> Step:
    import jax.numpy as jnp

    W_q, W_p, b = params[0]

    def step(z: Any, guess: Any) -> Any:
        (q, p), (guess_q, guess_p) = jnp.split(z, 2, -1), jnp.split(guess, 2, -1)
        half_p, delta = _solved(delta_of, guess_p, p, q @ W_q + b, W_p, W_q.T, -h)
        half_q = q + h * (delta @ W_p.T)
        new_q, delta = _solved(delta_of, guess_q, half_q, half_p @ W_p + b, W_q, W_p.T, h)
        new_p = half_p - h * (delta @ W_q.T)
        return jnp.concatenate((new_q, new_p), -1), jnp.concatenate((new_q - half_q, half_p - p), -1)

    return step


def _implicit_midpoint(params: Any, delta_of: Callable[[Any], Any], h: float) -> Step:
    import jax.numpy as jnp

    W_q, W_p, b = params[0]
    W, turned = jnp.concatenate((W_q, W_p)), jnp.concatenate((W_p, -W_q)).T  # J dH/dz = delta turned

    def step(z: Any, guess: Any) -> Any:
        middle, _ = _solved(delta_of, guess, z, b, W, turned, h)
        return 2 * middle - z, middle - z

    return step


def _discrete_gradient(params: Any, delta_of: Callable[[Any], Any], h: float) -> Step:
    import jax
    import jax.numpy as jnp

    W_q, W_p, b = params[0]
    W, turned = jnp.concatenate((W_q, W_p)), jnp.concatenate((W_p, -W_q)).T  # J dH/dz = delta turned

    def step(z: Any, guess: Any) -> Any:
        a = z @ W + b
        before, _ = _energy_and_delta(params, a)

        def iterate(state: Any) -> Any:
            change, _, iterations = state
            moved = change @ W
            delta = delta_of(a + moved / 2)
            after, _ = _energy_and_delta(params, a + moved)
            square = (change**2).sum(-1)
            factor = (after - before - (delta * moved).sum(-1)) / jnp.where(square > 0, square, 1)
            q, p = jnp.split(change, 2, -1)
            image = 2 * h * (delta @ turned + factor[:, None] * jnp.concatenate((p, -q), -1))
            solved = jnp.abs(image - change).max(-1) <= TOLERANCE * (1 + jnp.abs(z + change).max(-1))
            return image, ~solved.all(), iterations + 1

        going = lambda state: state[1] & (state[2] < MOST_STAGE_ITERATIONS)  # noqa: E731
        change, _, _ = jax.lax.while_loop(going, iterate, (guess, True, 0))
        return z + change, change

    return step


def _rollout(problem: Problem, method: Callable[..., Step]) -> Callable[[], dict[str, Any]]:
    import jax
    import jax.numpy as jnp

    finished = _configured(problem)
    params, q0, p0, _ = _inputs(problem)
    params, z0, h = _inputs_first(params), jnp.concatenate((q0, p0), -1), 0.5 * float(problem.dt)

    @jax.jit
    def run(params: Any, z0: Any) -> Any:
        step = method(params, partial(_delta, params), h)

        def advance(state: Any, n: Any) -> Any:
            z, before, last = state
            z, added = step(z, 2 * last - before)
            return (z, jnp.where(n == 0, added, last), added), z  # the second step expects what the first added

        none = jnp.zeros_like(z0)
        _, path = jax.lax.scan(advance, (z0, none, none), jnp.arange(problem.case.steps))
        return jnp.concatenate((z0[None], path)).swapaxes(0, 1)

    return lambda: {"trajectory": finished(run(params, z0))}


def stormer_verlet(problem: Problem) -> Callable[[], dict[str, Any]]:
    return _rollout(problem, _stormer_verlet)


def implicit_midpoint(problem: Problem) -> Callable[[], dict[str, Any]]:
    return _rollout(problem, _implicit_midpoint)


def discrete_gradient(problem: Problem) -> Callable[[], dict[str, Any]]:
    return _rollout(problem, _discrete_gradient)
