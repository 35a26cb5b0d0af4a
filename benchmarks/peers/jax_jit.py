"""JAX: the rollout as ``lax.scan`` under ``jit``, half-gradients by ``jax.grad``, training by ``value_and_grad``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from cases import ENERGY_WEIGHT, Problem
from torch import Tensor


def unavailable(device: str) -> str | None:
    if importlib.util.find_spec("jax") is None:
        return "jax is not installed (pip install jax)"
    import jax

    if jax.default_backend() != {"cpu": "cpu", "cuda": "gpu"}[device]:
        return f"this jax runs on {jax.default_backend()}, not on {device}"
    return None


def _energy(q: Any, p: Any, params: Any) -> Any:
    """H (batch,); weights (in, out), layer 1 by halves, so that a half-gradient leaves the other half out."""
    import jax
    import jax.numpy as jnp

    (by_q, by_p, b1), *middle, (w, b) = params
    h = jax.nn.softplus(q @ by_q + p @ by_p + b1)
    for weight, bias in middle:
        h = jax.nn.softplus(h @ weight + bias)
    return jnp.squeeze(h @ w, -1) + b[0]


def _trajectory(params: Any, q0: Any, p0: Any, dt: Any, steps: int) -> Any:
    """States after 0, 1, ..., steps steps: (q, p), each (steps + 1, batch, d)."""
    import jax
    import jax.numpy as jnp

    gradient_q = jax.grad(lambda q, p: _energy(q, p, params).sum(), argnums=0)
    gradient_p = jax.grad(lambda q, p: _energy(q, p, params).sum(), argnums=1)

    def step(state: Any, _: None) -> Any:
        q, p = state
        p = p - 0.5 * dt * gradient_q(q, p)
        q = q + dt * gradient_p(q, p)
        p = p - 0.5 * dt * gradient_q(q, p)
        return (q, p), (q, p)

    _, (q, p) = jax.lax.scan(step, (q0, p0), None, length=steps)
    return jnp.concatenate((q0[None], q)), jnp.concatenate((p0[None], p))


def _inputs_first(params: Any) -> Any:
    """Weights turned from torch's (out, in) to (in, out); within ``jit`` this is free, the products read them as is."""
    import jax

    return jax.tree.map(lambda leaf: leaf.T, params)


def _inputs(problem: Problem) -> tuple[Any, Any, Any, Any]:
    import jax.numpy as jnp

    def array(tensor: Tensor) -> Any:
        return jnp.asarray(tensor.cpu().numpy())

    d = problem.z0.shape[1] // 2
    w1 = problem.weights[0]
    params: list[Any] = [(array(w1[:, :d]), array(w1[:, d:]), array(problem.biases[0]))]
    params += [(array(w), array(b)) for w, b in zip(problem.weights[1:], problem.biases[1:], strict=True)]
    return params, array(problem.z0[:, :d]), array(problem.z0[:, d:]), array(problem.dt)


def _configured(problem: Problem) -> Callable[[Any], Any]:
    """jax set to full float32; what a call passes its results through.

    On a CPU, where jax may run calls side by side, each waits for its own. A GPU runs them in their order.
    """
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")  # on a GPU the default is TF32
    return jax.block_until_ready if problem.z0.device.type == "cpu" else lambda results: results


def rollout(problem: Problem) -> Callable[[], dict[str, Any]]:
    import jax
    import jax.numpy as jnp

    finished = _configured(problem)
    params, *state = _inputs(problem)
    # XLA multiplies one sample many times faster with weights that lie as (in, out), several samples the other way.
    single = len(problem.z0) == 1
    inputs = (_inputs_first(params) if single else params, *state)

    @jax.jit
    def run(params: Any, q0: Any, p0: Any, dt: Any) -> Any:
        params = params if single else _inputs_first(params)
        q, p = _trajectory(params, q0, p0, dt, problem.case.steps)
        return jnp.concatenate((q, p), -1).swapaxes(0, 1)

    def call() -> dict[str, Any]:
        return {"trajectory": finished(run(*inputs))}

    return call


def training(problem: Problem) -> Callable[[], dict[str, Any]]:
    import jax
    import jax.numpy as jnp

    finished = _configured(problem)
    params, q0, p0, dt = _inputs(problem)
    targets = jnp.asarray(problem.targets.cpu().numpy()).swapaxes(0, 1)

    def loss(learned: Any, q0: Any, p0: Any, targets: Any) -> Any:
        params, dt = _inputs_first(learned[0]), learned[1]
        q, p = _trajectory(params, q0, p0, dt, problem.case.steps)
        energies = _energy(q, p, params)
        prediction = ((jnp.concatenate((q, p), -1) - targets)[1:] ** 2).sum(-1).mean()
        return prediction + ENERGY_WEIGHT * jnp.abs(energies - energies[:1]).mean()

    run = jax.jit(jax.value_and_grad(loss))

    def call() -> dict[str, Any]:
        value, (grads, grad_dt) = finished(run((params, dt), q0, p0, targets))
        (by_q, by_p, b1), *others = grads
        results = {"loss": value, "dt": grad_dt, "layers.0.weight": (by_q, by_p), "layers.0.bias": b1}
        for i, (weight, bias) in enumerate(others, start=1):
            results |= {f"layers.{i}.weight": weight, f"layers.{i}.bias": bias}
        return results

    return call


def to_numpy(value: Any) -> np.ndarray:
    """A result as the checker wants it; layer 1's gradient comes in two halves."""
    return np.concatenate([np.asarray(half) for half in value], 1) if isinstance(value, tuple) else np.asarray(value)
