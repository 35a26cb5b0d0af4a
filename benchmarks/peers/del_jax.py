"""JAX: discrete Euler-Lagrange rollouts as ``lax.scan`` of Newton's method in ``lax.while_loop``, all under ``jit``.

Gradients by the implicit function theorem: an adjoint of its own, which holds no iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases import LEAST_MASS, MOST_ITERATIONS, TOLERANCE, Problem, weighted_sum
from torch import Tensor

from .jax_jit import _configured, _inputs_first

ROUNDINGS = 4  # of the largest entry: a smaller Newton step is none, as in del_rollout


def _action(params: Any, q0: Any, q1: Any, dt: Any) -> Any:
    """L_d (...); weights (in, out), layer 1 by halves, so that a derivative by one slot leaves the other out."""
    import jax
    import jax.numpy as jnp

    raw_mass, (by_q0, by_q1, b1), *middle, (w, b) = params
    h = jax.nn.silu(q0 @ by_q0 + q1 @ by_q1 + b1)
    for weight, bias in middle:
        h = jax.nn.silu(h @ weight + bias)
    mass = jax.nn.softplus(raw_mass) + LEAST_MASS
    return 0.5 * (mass * (q1 - q0) ** 2).sum(-1) / dt + dt * (jnp.squeeze(h @ w, -1) + b[0])


def _slot(params: Any, q0: Any, q1: Any, dt: Any, slot: int) -> Any:
    """D1 (slot 0) or D2 (slot 1) of L_d."""
    import jax

    return jax.grad(lambda *q: _action(params, *q, dt).sum(), argnums=slot)(q0, q1)


def _matrix(params: Any, q: Any, y: Any, dt: Any) -> Any:
    """Derivative of D1 L_d(q, y) by y, (batch, d, d)."""
    import jax

    return jax.vmap(jax.jacfwd(lambda q, y: _slot(params, q, y, dt, 0), argnums=1))(q, y)


def _solved(params: Any, before: Any, q: Any, dt: Any, chord: bool) -> Any:
    """The configuration after q, by Newton's matrix or, with ``chord``, its kinetic part alone.

    The batch is left when every sample is solved; who is solved stays where it is.
    """
    import jax
    import jax.numpy as jnp

    carried = _slot(params, before, q, dt, 1)
    bound = TOLERANCE * (1 + jnp.abs(carried).max(-1))

    def residual(y: Any) -> Any:
        return carried + _slot(params, q, y, dt, 0)

    def unsolved(r: Any) -> Any:
        return jnp.abs(r).max(-1) > bound

    def iterate(state: Any) -> Any:
        y, r, open_, iterations = state
        if chord:
            change = -dt / (jax.nn.softplus(params[0]) + LEAST_MASS) * r
        else:
            change = jnp.linalg.solve(_matrix(params, q, y, dt), r[..., None])[..., 0]
        y = jnp.where(open_[:, None], y - change, y)
        lost = jnp.abs(change).max(-1) <= ROUNDINGS * jnp.finfo(y.dtype).eps * jnp.abs(y).max(-1)
        r = residual(y)
        return y, r, open_ & ~lost & unsolved(r), iterations + 1

    start = 2 * q - before
    r = residual(start)
    state = (start, r, unsolved(r), 0)
    return jax.lax.while_loop(lambda state: state[2].any() & (state[3] < MOST_ITERATIONS), iterate, state)[0]


def _path(params: Any, q0: Any, q1: Any, dt: Any, steps: int, chord: bool = False) -> Any:
    """All configurations, (steps + 2, batch, d)."""
    import jax
    import jax.numpy as jnp

    def step(state: Any, _: None) -> Any:
        before, q = state
        after = _solved(params, before, q, dt, chord)
        return (q, after), after

    _, path = jax.lax.scan(step, (q0, q1), None, length=steps)
    return jnp.concatenate((q0[None], q1[None], path))


def _path_adjoint(params: Any, path: Any, cotangents: Any, dt: Any) -> Any:
    """Gradients by params, q0 and q1: the transposed equations, solved from the last step to the first."""
    import jax
    import jax.numpy as jnp

    def residual(params: Any, before: Any, q: Any, after: Any) -> Any:
        return _slot(params, before, q, dt, 1) + _slot(params, q, after, dt, 0)

    def step(state: Any, given: Any) -> Any:
        by_q, by_after = state
        before, q, after, cotangent = given
        matrix = _matrix(params, q, after, dt)
        multiplier = -jnp.linalg.solve(matrix.swapaxes(-1, -2), by_after[..., None])[..., 0]
        _, pull = jax.vjp(lambda before, q: residual(params, before, q, after), before, q)
        to_before, to_q = pull(multiplier)
        return (cotangent + to_before, by_q + to_q), multiplier

    steps = (path[:-2], path[1:-1], path[2:])
    (by_q0, by_q1), multipliers = jax.lax.scan(
        step, (cotangents[-2], cotangents[-1]), (*steps, cotangents[:-2]), reverse=True
    )
    # By the parameters all steps at once: no sum of gradients is carried from step to step.
    _, pull = jax.vjp(lambda params: residual(params, *steps), params)
    return pull(multipliers)[0], by_q0, by_q1


def _inputs(problem: Problem) -> tuple[Any, Any, Any]:
    import jax.numpy as jnp

    def array(tensor: Tensor) -> Any:
        return jnp.asarray(tensor.numpy())

    q0, q1 = problem.points
    by_q0, by_q1 = problem.weights[0].chunk(2, dim=-1)
    params: list[Any] = [array(problem.raw_mass), (array(by_q0), array(by_q1), array(problem.biases[0]))]
    params += [(array(w), array(b)) for w, b in zip(problem.weights[1:], problem.biases[1:], strict=True)]
    return params, array(q0), array(q1)


def del_rollout(problem: Problem, chord: bool = False) -> Callable[[], dict[str, Any]]:
    import jax

    finished = _configured(problem)
    params, q0, q1 = _inputs(problem)
    # As in the other rollouts: one sample with weights that lie as (in, out), several the other way.
    single = len(q0) == 1
    params = _inputs_first(params) if single else params

    @jax.jit
    def run(params: Any, q0: Any, q1: Any) -> Any:
        params = params if single else _inputs_first(params)
        return _path(params, q0, q1, float(problem.dt), problem.case.steps, chord).swapaxes(0, 1)

    return lambda: {"trajectory": finished(run(params, q0, q1))}


def del_gradient(problem: Problem) -> Callable[[], dict[str, Any]]:
    import jax
    import jax.numpy as jnp

    finished = _configured(problem)
    params, q0, q1 = _inputs(problem)
    single = len(q0) == 1
    params = _inputs_first(params) if single else params
    weights = jnp.asarray(problem.targets.numpy().swapaxes(0, 1))
    dt, steps = float(problem.dt), problem.case.steps

    @jax.custom_vjp
    def path(params: Any, q0: Any, q1: Any) -> Any:
        return _path(params, q0, q1, dt, steps)

    def forward(params: Any, q0: Any, q1: Any) -> Any:
        found = _path(params, q0, q1, dt, steps)
        return found, (params, found)

    path.defvjp(forward, lambda kept, cotangents: _path_adjoint(*kept, cotangents, dt))

    def loss(params: Any, q0: Any, q1: Any, weights: Any) -> Any:
        found = path(params if single else _inputs_first(params), q0, q1)
        return weighted_sum(found, weights), found.swapaxes(0, 1)

    @jax.jit
    def run(*inputs: Any) -> Any:
        (_, trajectory), (grads, *by_points) = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*inputs)
        return trajectory, _inputs_first(grads) if single else grads, *by_points

    def call() -> dict[str, Any]:
        trajectory, (raw_mass, *layers), by_q0, by_q1 = finished(run(params, q0, q1, weights))
        results = {"trajectory": trajectory, "raw_mass": raw_mass, "q0": by_q0, "q1": by_q1}
        results["network.layers.0.weight"], results["network.layers.0.bias"] = layers[0][:2], layers[0][2]
        for i, (weight, bias) in enumerate(layers[1:], start=1):
            results |= {f"network.layers.{i}.weight": weight, f"network.layers.{i}.bias": bias}
        return results

    return call
