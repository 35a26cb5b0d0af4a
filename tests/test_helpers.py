"""The tests' own tools: an oracle checked by hand, comparisons that reject what they should."""

from __future__ import annotations

import math

import oracle
import pytest
import torch
from helpers import assert_exact, assert_within, exact, float32_allowance, library, make_problem, norm, sequential


def linear_in_tanh(w: float, v: float) -> tuple[list[torch.Tensor], list[None]]:
    """H = v tanh(w q), a potential; then p moves and q does not."""
    return [torch.tensor([[w, 0.0]], dtype=torch.float64), torch.tensor([[v]], dtype=torch.float64)], [None, None]


@pytest.mark.parametrize("method", ["leapfrog", "euler"])
def test_oracle_on_a_potential(method):
    weights, biases = linear_in_tanh(0.7, 2.0)
    q, p, dt, steps = 0.3, -0.2, 0.5, 4
    trajectory, energies = oracle.rollout(
        weights, biases, "tanh", torch.tensor([q, p], dtype=torch.float64), torch.tensor(dt), steps, method
    )
    force = -2.0 * 0.7 / math.cosh(0.7 * q) ** 2
    expected = torch.tensor([[q, p + n * dt * force] for n in range(steps + 1)], dtype=torch.float64)
    torch.testing.assert_close(trajectory, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(energies, torch.full((steps + 1,), 2 * math.tanh(0.7 * q), dtype=torch.float64))


def test_oracle_on_a_coupled_energy_by_hand():
    # H = sin(q + 2 p): H_q = cos(q + 2 p), H_p = 2 cos(q + 2 p); non-separable, so the order of updates matters, and
    # from the second step on a total derivative in place of the partial one would show.
    weights = [torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)]
    z0, dt = torch.tensor([0.4, -0.3], dtype=torch.float64), 0.2
    for method, step in (("leapfrog", leapfrog_by_hand), ("euler", euler_by_hand)):
        states = [tuple(z0.tolist())]
        for _ in range(3):
            states.append(step(*states[-1], dt))
        expected = torch.tensor(states, dtype=torch.float64)
        trajectory, energies = oracle.rollout(
            weights, [None, None], "sin", z0, torch.tensor(dt, dtype=torch.float64), 3, method
        )
        torch.testing.assert_close(trajectory, expected, rtol=1e-14, atol=0)
        torch.testing.assert_close(energies, torch.sin(expected @ weights[0][0]), rtol=1e-14, atol=0)


def leapfrog_by_hand(q: float, p: float, dt: float) -> tuple[float, float]:
    half = p - dt / 2 * math.cos(q + 2 * p)
    q += dt * 2 * math.cos(q + 2 * half)
    return q, half - dt / 2 * math.cos(q + 2 * half)


def euler_by_hand(q: float, p: float, dt: float) -> tuple[float, float]:
    slope = math.cos(q + 2 * p)
    return q + dt * 2 * slope, p - dt * slope


@pytest.mark.parametrize("activation", oracle.ACTIVATION)
def test_oracle_energy_is_the_network(activation):
    problem = make_problem(activation=activation)
    values = oracle.energy(problem.weights, problem.biases, activation, problem.z0)
    torch.testing.assert_close(values, sequential(problem)(problem.z0)[..., 0], rtol=1e-12, atol=1e-12)


def test_oracle_gradients_match_finite_differences():
    problem = make_problem(d=1, hidden=(4,), batch=(2,), steps=2, condition_dim=1)
    results = exact(problem)

    def loss(dt: float) -> float:
        trajectory, energies = oracle.rollout(
            problem.weights, problem.biases, "softplus", problem.z0, problem.dt + dt, 2, "leapfrog", problem.condition
        )
        return ((trajectory * problem.on_trajectory).sum() + (energies * problem.on_energies).sum()).item()

    assert float(results["gradient of dt"]) == pytest.approx((loss(1e-5) - loss(-1e-5)) / 2e-5, rel=1e-7)


def test_problems_are_exact_in_float32():
    problem = make_problem(condition_dim=2)
    for tensor in (*problem.weights, *problem.biases, problem.z0, problem.dt, problem.condition):
        assert torch.equal(tensor.float().double(), tensor)


def test_assert_exact_rejects():
    want = exact(make_problem())
    assert_exact(want, want)
    for name in want:
        with pytest.raises(AssertionError, match=name):
            assert_exact({**want, name: want[name] * (1 + 3e-10)}, want)
        with pytest.raises(AssertionError, match=name):
            assert_exact({**want, name: want[name] * math.nan}, want)
    with pytest.raises(AssertionError):
        assert_exact({**want, "trajectory": want["trajectory"][:1]}, want)
    with pytest.raises(AssertionError):
        assert_exact({"trajectory": want["trajectory"]}, want)
    with pytest.raises(AssertionError, match="zero"):
        assert_exact({"zero": torch.full((2,), 1e-30)}, {"zero": torch.zeros(2)})


def test_float32_allowance_is_about_rounding():
    problem = make_problem()
    want = exact(problem)
    allowance = float32_allowance(problem, want)
    for name, value in want.items():
        assert 1e-7 * norm(value) < allowance[name] < 2e-5 * norm(value), name


def test_assert_within_rejects_what_float32_does_not_explain():
    problem = make_problem()
    want = exact(problem)
    allowance = float32_allowance(problem, want)
    assert_within(want, want, allowance)
    assert_within(library(problem, torch.float32, backend="reference"), want, allowance)
    for name, value in want.items():
        with pytest.raises(AssertionError, match=name):
            assert_within({**want, name: value * (1 + 1e-4)}, want, allowance)
        with pytest.raises(AssertionError, match=name):
            assert_within({**want, name: value * math.nan}, want, allowance)
