"""H = T(p) + V(q): its derivatives, and rollouts that evaluate the half that they need."""

from __future__ import annotations

import math
import pickle
from copy import deepcopy

import pytest
import torch

from hamiltorch_ext import (
    HamiltonianMLP,
    SeparableHamiltonian,
    _separable_ops,
    diagnostics,
    integrators,
    reference,
    rollout,
)

METHODS = list(integrators.INTEGRATORS)
KINETIC = ["mass", "identity", "mlp"]
EXPLICIT = ["symplectic_euler", "leapfrog", "stormer_verlet", "yoshida4"]


def problem(kinetic="mlp", d=3, condition_dim=0, hidden=(20, 9), gain=2.0, dtype=torch.float64):
    """An energy with weights of a visible size, and states."""
    torch.manual_seed(0)
    H = SeparableHamiltonian(
        2 * d, hidden, "tanh", kinetic=kinetic, condition_dim=condition_dim, dtype=torch.float64
    ).to(dtype)
    with torch.no_grad():
        for parameter in H.parameters():
            parameter.mul_(gain) if parameter.ndim == 2 else parameter.add_(0.3 * torch.randn_like(parameter))
    condition = torch.randn(4, condition_dim, dtype=dtype) if condition_dim else None
    return H, torch.randn(4, 2 * d, dtype=dtype), condition


@pytest.fixture
def in_torch(monkeypatch):
    """Rollouts by the analytic gradients, as where there is no kernel."""
    monkeypatch.setattr(_separable_ops, "why_not_native", lambda *_: "the test asks for torch")


@pytest.mark.parametrize("condition_dim", [0, 2])
@pytest.mark.parametrize("kinetic", KINETIC)
def test_derivatives(kinetic, condition_dim):
    H, z, condition = problem(kinetic, condition_dim=condition_dim)
    more = () if condition is None else (condition,)
    q, p = z.chunk(2, dim=-1)
    by_autograd = reference.gradient(H, z, condition)
    torch.testing.assert_close(H.gradient(z, condition), by_autograd, rtol=0, atol=1e-14)
    torch.testing.assert_close(H.potential_gradient(q, *more), by_autograd[:, :3], rtol=0, atol=1e-14)
    torch.testing.assert_close(H.kinetic_gradient(p, *more), by_autograd[:, 3:], rtol=0, atol=1e-14)
    torch.testing.assert_close(H.vector_field(z, condition), reference.rotate(by_autograd), rtol=0, atol=1e-14)
    torch.testing.assert_close(H(z, condition), H.kinetic_energy(p, *more) + H.potential(q, *more))


def test_masses_begin_at_one_and_stay_positive():
    H = SeparableHamiltonian(4, (5,))
    p = torch.tensor([3.0, -4.0])
    assert H.kinetic_energy(p).item() == SeparableHamiltonian(4, (5,), kinetic="identity").kinetic_energy(p).item()
    assert H.kinetic_energy(p).item() == 12.5
    with torch.no_grad():
        H.log_mass.copy_(torch.tensor([math.log(2.0), -50.0]))
    assert H.kinetic_energy(torch.tensor([2.0, 0.0])).item() == pytest.approx(1.0)
    assert H.kinetic_gradient(torch.tensor([0.0, 1.0]))[1] > 0


@pytest.mark.parametrize("kinetic", KINETIC)
@pytest.mark.parametrize("method", METHODS)
def test_rollouts_agree_with_autograd(method, kinetic, in_torch):
    H, z, condition = problem(kinetic, condition_dim=2)
    calls = {"method": method, "condition": condition, "return_energy": True}
    got = rollout(H, z, 0.3, 4, **calls)
    want = reference.rollout(H, z, 0.3, 4, **calls)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", EXPLICIT)
def test_explicit_methods_are_what_they_are_for_a_general_energy(method):
    """The implicit equations, solved as if nobody knew that H separates, have the same solution."""
    H, z, _ = problem()
    blind = rollout(lambda z: H(z), z, 0.3, 4, method=method, backend="reference")
    torch.testing.assert_close(rollout(H, z, 0.3, 4, method=method), blind, rtol=0, atol=1e-11)


@pytest.mark.parametrize("method", EXPLICIT)
@pytest.mark.parametrize("kinetic", KINETIC)
def test_structure(method, kinetic):
    H, z, _ = problem(kinetic)
    assert diagnostics.symplectic_defect(H, z, 0.5, method).max() <= 1e-12
    if method != "symplectic_euler":
        assert diagnostics.reversibility_error(H, z, 0.5, 20, method).max() <= 1e-11
    assert rollout(H, z, 0.5, 1, method=method, require="symplectic").shape == (4, 2, 6)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_in_every_input(method, in_torch):
    H, z, condition = problem("mlp", d=1, condition_dim=1, hidden=(3,))
    dt = torch.tensor(0.3, dtype=torch.float64)
    leaves = [x.detach().requires_grad_() for x in (z[:1], dt, condition[:1])]

    def roll(z0, dt, condition, *_):
        return rollout(H, z0, dt, 2, method=method, condition=condition, return_energy=True)

    assert torch.autograd.gradcheck(roll, (*leaves, *H.parameters()), atol=1e-7, rtol=1e-6)


def test_gradients_of_masses(in_torch):
    H, z, _ = problem("mass", d=2, hidden=(3,))

    def roll(z0, *_):
        return rollout(H, z0, 0.3, 3, method="leapfrog", return_energy=True)

    assert torch.autograd.gradcheck(roll, (z.requires_grad_(), *H.parameters()), atol=1e-7, rtol=1e-6)


class Counting:
    """A field of H that counts evaluations of V's gradient, of T's and of both at once."""

    def __init__(self, H):
        self.counts = {"V": 0, "T": 0, "both": 0}
        self.field = reference.Field(
            H,
            self.counted("both", H.gradient),
            separable=True,
            halves=reference.Halves(self.counted("V", H.potential_gradient), self.counted("T", H.kinetic_gradient)),
        )

    def counted(self, name, function):
        def call(x):
            self.counts[name] += 1
            return function(x)

        return call


@pytest.mark.parametrize(
    ("method", "forces", "velocities"),
    [("euler", 10, 10), ("symplectic_euler", 10, 10), ("leapfrog", 11, 10), ("stormer_verlet", 11, 10),
     ("yoshida4", 31, 30)],
)  # fmt: skip
def test_evaluations(method, forces, velocities):
    """A kick takes V alone, a drift T alone, and the last kick of a step shares its force with the next one's first."""
    H, z, _ = problem()
    counting = Counting(H)
    trajectory, info = reference.integrate(counting.field, z, 0.1, 10, method)
    assert counting.counts == {"V": forces, "T": velocities, "both": 0}
    assert info.converged.all()
    torch.testing.assert_close(trajectory, reference.rollout(H, z, 0.1, 10, method=method), rtol=0, atol=1e-13)


def test_no_pass_of_autograd_and_no_warning(monkeypatch, in_torch):
    H, z, _ = problem()
    monkeypatch.setattr(torch.autograd, "grad", None)
    for method in ("euler", "extended", *EXPLICIT):
        rollout(H, z, 0.1, 2, method=method, return_energy=True)
    monkeypatch.undo()
    with torch.no_grad():
        rollout(H, z, 0.1, 2, method="implicit_midpoint")


def test_backends():
    H, z, _ = problem()
    want = rollout(H, z, 0.1, 2, method="leapfrog")
    torch.testing.assert_close(rollout(H, z, 0.1, 2, method="leapfrog", backend="reference"), want)
    assert torch.equal(rollout(H, z, 0.1, 2, method="leapfrog", backend="native"), want)
    with pytest.raises(ValueError, match="backend='native' cannot run this rollout: method 'implicit_midpoint' has no"):
        rollout(H, z, 0.1, 2, method="implicit_midpoint", backend="native")
    H.potential.register_forward_hook(lambda module, args, value: 2 * value)
    with pytest.warns(UserWarning, match="many times slower"):
        hooked = rollout(H, z, 0.1, 2, method="leapfrog")
    assert not torch.allclose(hooked, want)


def test_transforms_and_modes():
    H, z, condition = problem(condition_dim=2)

    def roll(z, condition, method="stormer_verlet"):
        return rollout(H, z, 0.1, 3, method=method, condition=condition)

    want = roll(z, condition)
    torch.testing.assert_close(torch.func.vmap(roll)(z, condition), want)
    jacobian = torch.func.jacrev(lambda z: roll(z, condition[0])[1])(z[0])
    torch.testing.assert_close(jacobian, diagnostics.step_jacobian(lambda z: H(z, condition[0]), z[0], 0.1))
    compiled = torch.compile(roll, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z, condition), want)
    with pytest.raises(ValueError, match="method='implicit_midpoint' solves equations"):
        torch.func.vmap(lambda z, c: roll(z, c, "implicit_midpoint"))(z, condition)
    for method in ("stormer_verlet", "implicit_midpoint"):
        want = roll(z, condition, method)
        with torch.inference_mode():
            torch.testing.assert_close(roll(z.clone(), condition.clone(), method), want)


def test_copies_and_files(tmp_path):
    H, z, _ = problem("mass")
    torch.save(H.state_dict(), tmp_path / "H.pt")
    loaded = SeparableHamiltonian(6, (20, 9), "tanh", dtype=torch.float64)
    loaded.load_state_dict(torch.load(tmp_path / "H.pt"))
    for copy in (deepcopy(H), pickle.loads(pickle.dumps(H)), loaded):
        assert torch.equal(copy(z), H(z))
    assert "kinetic='mass'" in repr(H)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 5}, "dim must be even and positive .*, got 5"),
        ({"dim": 0}, "dim must be even and positive .*, got 0"),
        ({"kinetic": "newton"}, "kinetic must be one of 'mass', 'identity', 'mlp', got 'newton'"),
        ({"hidden": ()}, "hidden must be"),
        ({"activation": "relu"}, "activation must be one of"),
        ({"condition_dim": -1}, "condition_dim must be zero or positive, got -1"),
    ],
)
def test_bad_architecture(arguments, message):
    with pytest.raises(ValueError, match=message):
        SeparableHamiltonian(**{"dim": 4, "hidden": (5,), **arguments})


def test_bad_input():
    H, z, condition = problem(condition_dim=2)
    with pytest.raises(ValueError, match=r"z must have shape \(\.\.\., 6\), got \(4, 5\)"):
        H(z[:, :5], condition)
    with pytest.raises(ValueError, match=r"condition must have shape \(\.\.\., 2\) for this network, got None"):
        H(z)
    roll = {"method": "leapfrog", "condition": condition}
    with pytest.raises(ValueError, match=r"z0 must have shape \(\.\.\., 6\) for this H, got \(4, 4\)"):
        rollout(H, z[:, :4], 0.1, 2, **roll)
    with pytest.raises(TypeError, match="z0 must have the dtype of H's parameters"):
        rollout(H, z.float(), 0.1, 2, **roll)
    with pytest.raises(ValueError, match="condition must have shape"):
        rollout(H, z, 0.1, 2, method="leapfrog")
    with pytest.raises(ValueError, match="method='euler' does not keep 'symmetric' structure for a separable H"):
        rollout(H, z, 0.1, 2, method="euler", condition=condition, require="symmetric")
    general = HamiltonianMLP(6, (5,), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"for separable H = T\(p\) \+ V\(q\) it does"):
        rollout(general, z, 0.1, 2, method="leapfrog", require="symmetric")
