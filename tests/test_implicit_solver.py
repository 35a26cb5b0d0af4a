"""The solver of implicit steps: samples of a batch leave each other alone, in every grad mode."""

from __future__ import annotations

import pytest
import torch

from hamiltorch_ext import _implicit, reference, rollout

pytestmark = pytest.mark.filterwarnings("ignore:running on the torch reference path")
STIFF = torch.tensor([1.0, 30.0, 3.0, 2.0], dtype=torch.float64)
METHODS = ["implicit_midpoint", "discrete_gradient"]


def stiff(z):
    """With steps of one half plain iteration diverges and Newton's method has to take over."""
    return (STIFF * z.square()).sum(-1) / 2 + torch.cos(z).sum(-1)


def states(n=5):
    return torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def run(method, z, steps=5):
    return rollout(stiff, z, 0.5, steps, method=method, return_info=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_is_solved_in_a_batch_as_it_is_alone(method):
    """One that arrived early waited for the others in rounding noise, until that noise moved it."""
    together, info = run(method, states())
    assert info.converged.all()
    for sample, z in enumerate(states()):
        alone, info_alone = run(method, z)
        assert info_alone.converged.all()
        torch.testing.assert_close(together[sample], alone, rtol=1e-9, atol=1e-9)


def test_directions_end_with_the_space_that_they_span():
    """Eigenvalues of the first sample are few, of the second many; asked for more than rounding allows."""
    few, many = torch.tensor([1.0] * 5 + [3.0] * 5), torch.arange(1.0, 11.0)
    A = torch.stack((few.diag(), many.diag())).double()
    right = torch.ones(2, 10, dtype=torch.float64)
    x, left = _implicit.conjugate_residuals(lambda v: (A @ v.unsqueeze(-1)).squeeze(-1), right, 0.0)
    torch.testing.assert_close(x, right / torch.stack((few, many)), rtol=1e-14, atol=0)
    assert left.max() < 1e-14


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_changes_no_value(method, mode):
    z = states().requires_grad_()
    trajectory, info = run(method, z)
    with mode():
        same, its_info = run(method, states())
    assert info.converged.all()
    assert torch.equal(same, trajectory)
    assert same.is_inference() == (mode is torch.inference_mode)
    assert all(torch.equal(mine, its) for mine, its in zip(info, its_info, strict=True))


def test_inputs_born_in_inference_mode():
    def of_condition(z, c):
        return stiff(z) + (c * z).sum(-1)

    z, c, dt = states(), torch.ones(5, 4, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    want = reference.rollout(of_condition, z, dt, 3, method="discrete_gradient", condition=c)
    with torch.inference_mode():
        got, info = reference.rollout(
            of_condition, z.clone(), dt.clone(), 3, method="discrete_gradient", condition=c.clone(), return_info=True
        )
    assert info.converged.all()
    assert torch.equal(got, want)
