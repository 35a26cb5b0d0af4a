"""Rollouts that return, and keep, fewer states than steps."""

from __future__ import annotations

import pytest
import torch
from stages import network, separable, states

from hamiltorch_ext import leapfrog_rollout, rollout
from hamiltorch_ext._separable_ops import METHODS
from hamiltorch_ext.integrators import INTEGRATORS


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def results(H, z0, condition, save_every, thinned, method):
    """Trajectory, energies, info and gradients of a weighting of what is left of them."""
    leaves = [x.clone().requires_grad_() for x in (z0, condition, torch.tensor(0.2, dtype=z0.dtype))]
    trajectory, energies, info = rollout(
        H, leaves[0], leaves[2], 12, method=method, condition=leaves[1], return_energy=True, return_info=True,
        backend="native", save_every=save_every,
    )  # fmt: skip
    if thinned:
        trajectory, energies = trajectory[..., ::thinned, :], energies[..., ::thinned]
    weights = [torch.linspace(-1, 2, x.numel(), dtype=x.dtype).reshape(x.shape) for x in (trajectory, energies)]
    loss = (trajectory * weights[0]).sum() + (energies * weights[1]).sum()
    grads = torch.autograd.grad(loss, (*leaves, *H.parameters()), allow_unused=True, materialize_grads=True)
    return (trajectory, energies, *grads), info


@pytest.mark.parametrize(
    ("energy", "method"),
    [(network, method) for method in INTEGRATORS if method != "extended"]
    + [(separable, method) for method in sorted(METHODS)],
)
def test_what_is_saved_is_what_was_computed(energy, method):
    H, z0, condition = energy(2, (9, 5), condition_dim=1), states(2, 3, 4), states(2, 3, 1)
    got, info = results(H, z0, condition, 4, None, method)
    want, whole = results(H, z0, condition, 1, 4, method)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    assert info.converged.shape == whole.converged.shape == (2, 3, 12)
    assert torch.equal(info.converged, whole.converged)


def test_the_graph_keeps_the_saved_states_alone():
    """By the numbers that autograd holds: without it they grow with the steps."""
    H = network(8, (32, 32))
    held = {}
    for save_every in (1, 20):
        count = 0

        def pack(x):
            nonlocal count
            count += x.numel()
            return x

        z0 = states(64, 16).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            trajectory = leapfrog_rollout(H, z0, 0.1, 400, save_every=save_every, recompute=True)
        held[save_every] = count + trajectory.numel()
        (grad,) = torch.autograd.grad(trajectory[:, -1].sum(), z0)
        assert grad.abs().sum() > 0
    assert held[20] < held[1] / 8


def test_failures_are_constants_from_there_on():
    H, z0 = network(2, (24, 16)), states(20, 4).requires_grad_()
    z0.data[3] = float("nan")
    options = {"method": "implicit_midpoint", "save_every": 2}
    trajectory, info = rollout(H, z0, 0.3, 6, return_info=True, **options)
    assert not info.converged[3].any()
    assert info.converged[:3].all()
    grads = torch.autograd.grad(trajectory[torch.arange(20) != 3].sum(), (z0, *H.parameters()), allow_unused=True)
    assert all(grad is None or torch.isfinite(grad).all() for grad in grads)
    with pytest.warns(RuntimeWarning, match="1 of 20 trajectories"):
        rollout(H, z0, 0.3, 6, **options)
    trajectory, info = rollout(H, z0[:3], 0.3, 6, return_info=True, max_iterations=1, **options)
    assert not info.converged.any()
    grads = torch.autograd.grad(trajectory[:, 1:].sum(), (z0, *H.parameters()), allow_unused=True)
    assert not any(grad is not None and grad.any() for grad in grads)


@pytest.mark.parametrize("energy", [network, separable])
def test_other_modes(energy):
    H, z0 = energy(2, (9,)), states(3, 4)
    want = leapfrog_rollout(H, z0, 0.1, 6)[:, ::3].detach()
    with torch.inference_mode():
        assert torch.equal(leapfrog_rollout(H, z0, 0.1, 6, save_every=3), want)
    torch.compiler.reset()
    compiled = torch.compile(lambda z: leapfrog_rollout(H, z, 0.1, 6, save_every=3), backend="aot_eager")
    torch.testing.assert_close(compiled(z0).detach(), want)
    assert leapfrog_rollout(H, z0, 0.1, 0, save_every=3).shape == (3, 1, 4)
    assert leapfrog_rollout(H, z0[:0], 0.1, 6, save_every=3).shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("wrong", "error"), [(0, ValueError), (-1, ValueError), (4, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_bad_values(wrong, error):
    with pytest.raises(error, match="save_every must be"):
        leapfrog_rollout(network(2, (9,)), states(3, 4), 0.1, 6, save_every=wrong)


def test_what_cannot_be_cut_into_stretches():
    H, z0 = network(2, (9,)), states(3, 4)
    with pytest.raises(ValueError, match="save_every must be 1 with method='extended', got 3"):
        rollout(H, z0, 0.1, 6, method="extended", save_every=3)
    for energy, method, options, why in (
        (H, "leapfrog", {"backend": "reference"}, ""),
        (separable(2, (9,)), "implicit_midpoint", {}, ": method 'implicit_midpoint' has no kernel"),
    ):
        with pytest.raises(ValueError, match="save_every must be 1 where no kernel runs the rollout, got 3" + why):
            rollout(energy, z0, 0.1, 6, method=method, save_every=3, **options)


@pytest.mark.parametrize("energy", [network, separable])
def test_parameters_that_are_lent_for_a_call(energy):
    """The backward pass runs on those that the rollout had."""
    H, z0 = energy(2, (9,)), states(3, 4)
    lent = {name: (2 * p.detach()).requires_grad_() for name, p in H.named_parameters()}
    grads = []
    for save_every in (1, 3):
        options = {"z0": z0, "dt": 0.1, "steps": 6, "save_every": save_every}
        module = torch.nn.Module()
        module.H = H
        module.forward = lambda **given: leapfrog_rollout(H, **given)
        given = {f"H.{name}": p for name, p in lent.items()}
        end = torch.func.functional_call(module, given, (), options)[:, -1]
        grads.append(torch.autograd.grad(end.sum(), list(lent.values()), allow_unused=True, materialize_grads=True))
    torch.testing.assert_close(*grads)
