"""Port-Hamiltonian rollouts: passive by the discrete gradient, and what they were where nothing is added."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from helpers import make_problem, sequential
from passivity import M, excess_and_slack, problem, random_system
from torch import nn

from hamiltorch_ext import (
    HamiltonianMLP,
    PortHamiltonian,
    SeparableHamiltonian,
    diagnostics,
    integrators,
    port_rollout,
    reference,
    rollout,
)
from hamiltorch_ext.port import MatrixMLP

METHODS = list(integrators.INTEGRATORS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("d", range(1, 7))
def test_random_systems_gain_no_more_than_the_controls_supply(d, dtype):
    """840 systems each, 10,080 in all: a network, an R and a G of its own for every sample, in part of the state."""
    *system, dt = problem(d, dtype)
    excess, slack, info = excess_and_slack(*system, dt)
    assert (excess <= slack)[info.converged].all()
    # Few are not solved, none of them at the smallest step; and what is flagged is not solved.
    unsolved = (~info.converged).sum().item()
    print(f"d={d}, {dtype}, dt={dt}: {unsolved} of {info.converged.numel()} steps not solved")
    assert unsolved <= {0.05: 0, 0.2: 0.01, 0.5: 0.04}[dt] * info.converged.numel()
    first = ~info.converged & torch.cat((torch.ones_like(info.converged[:, :1]), info.converged[:, :-1]), -1)
    assert (info.residual[first] > (1e-13 if dtype == torch.float64 else 1e-6)).all()


@pytest.mark.parametrize("method", [method for method in METHODS if method != "discrete_gradient"])
def test_random_systems_gain_more_by_other_methods(method):
    """The negative control of the test above."""
    system, z0, controls = random_system(280, 3, torch.float64, seed=0)
    excess, slack, info = excess_and_slack(system, z0, controls, 0.5, method)
    assert ((excess > slack) & info.converged).double().mean() > 0.01


def energy(d=2, condition_dim=0, dtype=torch.float64, seed=0):
    problem = make_problem(d=d, hidden=(9, 7), activation="tanh", gain=1.5, condition_dim=condition_dim, seed=seed)
    return HamiltonianMLP.from_sequential(sequential(problem, dtype), condition_dim=condition_dim)


def normal(*shape, dtype=torch.float64, seed=5):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def constant(dtype=torch.float64, **energy_options):
    """A system of d = 2 with two controls that has every part, each constant."""
    torch.manual_seed(1)
    return PortHamiltonian(
        energy(dtype=dtype, **energy_options),
        dissipation=0.5 * normal(4, 3, dtype=dtype, seed=1),
        inputs=normal(4, M, dtype=dtype, seed=2),
        residual=nn.Linear(4, 4, dtype=dtype),
        damping=torch.tensor([0.3, 0.8], dtype=dtype),
    )


def varying(dtype=torch.float64, **energy_options):
    """The same with parts that are functions of the state."""
    torch.manual_seed(2)
    return PortHamiltonian(
        energy(dtype=dtype, **energy_options),
        dissipation=MatrixMLP(4, 3, (5,), dtype=dtype),
        inputs=MatrixMLP(4, M, (5,), dtype=dtype),
        residual=nn.Sequential(nn.Linear(4, 5, dtype=dtype), nn.Tanh(), nn.Linear(5, 4, dtype=dtype)),
        damping=torch.tensor(0.4, dtype=dtype),
    )


def diagonal(dtype=torch.float64, **energy_options):
    torch.manual_seed(3)
    return PortHamiltonian(energy(dtype=dtype, **energy_options), dissipation=MatrixMLP(4, None, (5,), dtype=dtype))


SYSTEMS = [constant, varying, diagonal]


def controls_for(system, *shape, seed=6):
    m = 0 if system.inputs is None else M
    return normal(*shape, m, seed=seed)


@pytest.mark.parametrize("make", SYSTEMS)
def test_vector_field_by_its_matrices(make):
    system, z = make(), normal(3, 4)
    u = controls_for(system, 3)
    dH = system.H.gradient(z)
    J = torch.tensor([[0, 0, 1, 0], [0, 0, 0, 1], [-1, 0, 0, 0], [0, -1, 0, 0]], dtype=torch.float64)
    want = ((J - system.R(z)) @ dH.unsqueeze(-1) + system.G(z) @ u.unsqueeze(-1)).squeeze(-1)
    if system.residual is not None:
        want = want + system.residual(z)
    if system.damping is not None:
        want = want - torch.cat((torch.zeros(3, 2), system.damping * z[:, 2:]), -1)
    torch.testing.assert_close(system(z, u), want)
    torch.testing.assert_close(system.output(z, dH), (system.G(z).mT @ dH.unsqueeze(-1)).squeeze(-1))
    assert system.R(z).shape == (3, 4, 4)
    assert system.G(z).shape == (3, 4, u.shape[-1])


def test_a_bare_system_is_conservative():
    H, z = energy(), normal(3, 4)
    system = PortHamiltonian(H)
    torch.testing.assert_close(system(z), H.vector_field(z))
    assert not system.R(z).any()
    assert system.G(z).shape == (3, 4, 0)


@pytest.mark.parametrize(
    "dissipation", [normal(6, 2), normal(6, 9), normal(6), MatrixMLP(6, 4).double(), MatrixMLP(6, None).double()]
)
def test_dissipation_has_no_negative_eigenvalue(dissipation):
    R = PortHamiltonian(energy(3), dissipation=dissipation).R(normal(50, 6))
    assert torch.linalg.eigvalsh(R).min() > -1e-14 * R.abs().max()
    torch.testing.assert_close(R, R.mT, rtol=0, atol=1e-14)
    assert R.abs().max() > 0.1


@pytest.mark.parametrize("make", SYSTEMS)
def test_energy_balance(make):
    """H(y) - H(z) = work - dt D . R D, with the residual and the damping away, whatever the step."""
    system, z, dt = make(), normal(6, 4), 0.7
    system.residual = system.raw_damping = None
    u = controls_for(system, 6, 1)
    with torch.no_grad():
        trajectory, energies = port_rollout(system, z, u, dt, return_energy=True)
        y = trajectory[:, 1]
        D, m = reference.discrete_gradient(reference.field(system.H), z, y), (z + y) / 2
        lost = dt * torch.einsum("ni,nij,nj->n", D, system.R(m), D)
        work = diagnostics.supplied_energy(system, trajectory, u, dt)[:, 0]
    torch.testing.assert_close(work, dt * ((system.G(m) @ u[:, 0].unsqueeze(-1)).squeeze(-1) * D).sum(-1))
    torch.testing.assert_close(energies.diff()[:, 0], work - lost, rtol=0, atol=1e-12)
    assert lost.min() > 1e-4


@pytest.mark.parametrize("make", [constant, varying])
@pytest.mark.parametrize("method", integrators.INTEGRATORS.values(), ids=lambda method: method.name)
def test_order(method, make):
    """Against Runge's fourth order on the vector field: splitting leaves the second order at most."""
    system, z, time = make(), normal(4, 4), 1.0
    u = normal(4, M, seed=8)
    with torch.no_grad():
        exact = z
        for _ in range(100):
            h = time / 100
            k1 = system(exact, u)
            k2 = system(exact + h / 2 * k1, u)
            k3 = system(exact + h / 2 * k2, u)
            exact = exact + h / 6 * (k1 + 2 * k2 + 2 * k3 + system(exact + h * k3, u))
        errors = []
        for steps in (20, 40):
            held = u.unsqueeze(1).expand(4, steps, M)
            errors.append((port_rollout(system, z, held, time / steps, method=method.name)[:, -1] - exact).norm())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(min(method.order, 2), abs=0.15)


@pytest.mark.parametrize(
    "method", [name for name, row in integrators.INTEGRATORS.items() if row.symplectic == "always"]
)
def test_linear_damping_is_conformally_symplectic(method):
    gamma, dt, z = 0.6, 0.4, normal(5, 4)
    system = PortHamiltonian(energy(), damping=torch.tensor(gamma, dtype=torch.float64))

    def step(z):
        return port_rollout(system, z, normal(1, 0), dt, method=method)[:, 1].sum(0)

    A = torch.autograd.functional.jacobian(step, z).movedim(0, 1)
    one, zero = torch.eye(2).double(), torch.zeros(2, 2).double()
    J = torch.cat((torch.cat((zero, one), 1), torch.cat((-one, zero), 1)))
    torch.testing.assert_close(A.mT @ J @ A, (math.exp(-gamma * dt) * J).expand(5, 4, 4), rtol=0, atol=1e-12)


def oscillator(z):
    return z.square().sum(-1) / 2


@pytest.mark.parametrize("kind", ["damping", "dissipation"])
@pytest.mark.parametrize("method", ["stormer_verlet", "implicit_midpoint", "discrete_gradient", "leapfrog"])
def test_damped_oscillator(method, kind):
    """q'' = -q - gamma q', from (1, 0), against its solution: as a linear damping and as an R."""
    gamma, dt, steps = 0.2, 0.05, 200
    matrix = torch.tensor([0.0, gamma**0.5], dtype=torch.float64)
    parts = {"damping": torch.tensor(gamma, dtype=torch.float64)} if kind == "damping" else {"dissipation": matrix}
    system = PortHamiltonian(oscillator, **parts)
    z = torch.tensor([1.0, 0.0], dtype=torch.float64)
    with torch.no_grad():
        path, energies = port_rollout(system, z, torch.zeros(steps, 0).double(), dt, method=method, return_energy=True)
    t = dt * torch.arange(steps + 1, dtype=torch.float64)
    w, decay = math.sqrt(1 - gamma**2 / 4), torch.exp(-gamma * t / 2)
    q = decay * (torch.cos(w * t) + gamma / 2 / w * torch.sin(w * t))
    p = -decay * torch.sin(w * t) / w
    torch.testing.assert_close(path, torch.stack((q, p), -1), rtol=0, atol=1e-3)
    torch.testing.assert_close(energies, (q.square() + p.square()) / 2, rtol=0, atol=1e-3)
    if kind == "dissipation" and method == "discrete_gradient":
        assert (energies.diff() <= 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("parts", ["none", "zero"])
@pytest.mark.parametrize("method", METHODS)
def test_conservative_limit_bit_for_bit(method, parts, dtype):
    """Every part away, or there and zero."""
    z = normal(4, 4, dtype=dtype)
    if parts == "none":
        system, u = PortHamiltonian(energy(dtype=dtype)), torch.zeros(4, 5, 0, dtype=dtype)
    else:
        system, u = constant(dtype), torch.zeros(4, 5, M, dtype=dtype)
        with torch.no_grad():
            for parameter in (system.dissipation, system.residual.weight, system.residual.bias):
                parameter.zero_()
            system.raw_damping.fill_(-1e4)
    options = {"method": method, "return_energy": True, "return_info": True}
    got = port_rollout(system, z, u, 0.5, backend="reference", **options)
    want = rollout(system.H, z, 0.5, 5, backend="reference", **options)
    for ours, theirs in zip((*got[:2], *got[2]), (*want[:2], *want[2]), strict=True):
        assert torch.equal(ours, theirs)


def separable(dtype=torch.float64):
    torch.manual_seed(4)
    return PortHamiltonian(
        SeparableHamiltonian(4, (7,), dtype=dtype),
        inputs=normal(4, M, dtype=dtype, seed=2),
        damping=torch.tensor(0.4, dtype=dtype),
    )


def everything(system, z0, controls, dt, condition, **options):
    """What a rollout returns and every gradient of a weighted sum of it, by name."""
    z0, controls = z0.clone().requires_grad_(), controls.clone().requires_grad_()
    dt = torch.tensor(dt, dtype=z0.dtype, requires_grad=True)
    inputs = {"z0": z0, "controls": controls, "dt": dt, **dict(system.named_parameters())}
    path, energies, info = port_rollout(
        system, z0, controls, dt, condition=condition, return_energy=True, return_info=True, **options
    )
    weights = normal(*path.shape, dtype=z0.dtype, seed=7)
    grads = torch.autograd.grad((path * weights).sum() + energies.sum(), inputs.values(), allow_unused=True)
    return {"path": path.detach(), "energies": energies.detach()} | dict(zip(inputs, grads, strict=True)), info


@pytest.mark.parametrize("batch", [(), (3,), (2, 0)], ids=str)
@pytest.mark.parametrize("make", [*SYSTEMS, separable])
@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("discrete_gradient", "extended")])
def test_native_steps_between_what_is_added(method, make, batch):
    """H's steps by the kernels, the rest in torch: the values, status and gradients of torch alone."""
    system = make() if make is separable else make(condition_dim=1)
    if make is separable and method in ("euler", "implicit_midpoint"):
        with pytest.raises(ValueError, match="has no kernel for a SeparableHamiltonian"):
            port_rollout(system, normal(4), normal(2, M), 0.1, method=method, backend="native")
        return
    condition = None if make is separable else normal(*batch, 1, seed=9)
    given = normal(*batch, 4), controls_for(system, *batch, 4), 0.3, condition
    got, info = everything(system, *given, method=method, backend="native")
    want, expected = everything(system, *given, method=method, backend="reference")
    assert got.keys() == want.keys()
    for name, value in want.items():
        if value is None:
            assert got[name] is None, name
        else:
            torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-10, msg=name)
    assert torch.equal(info.converged, expected.converged)
    assert (info.residual <= 1e-13).all()


def test_unsolved_native_steps_are_constants():
    system, z, u = constant(), 3 * normal(20, 4), normal(20, 3, M)
    z.requires_grad_()
    options = {"method": "implicit_midpoint", "max_iterations": 8, "backend": "native"}
    path, info = port_rollout(system, z, u, 2.0, return_info=True, **options)
    failed = ~info.converged[:, 0]
    assert 0 < failed.sum() < 20
    (grad,) = torch.autograd.grad(path[:, 1].sum(), z)
    assert not grad[failed].any()
    assert grad[~failed].any(dim=-1).all()
    with pytest.warns(RuntimeWarning, match="were not solved"):
        port_rollout(system, z, u, 2.0, **options)


def test_what_no_kernel_runs_says_why():
    system, z, u = constant(), normal(4), normal(2, M)
    with pytest.raises(ValueError, match="method 'extended' of a port-Hamiltonian system has no kernel"):
        port_rollout(system, z, u, 0.1, method="extended", backend="native")
    unknown = PortHamiltonian(lambda z: z.square().sum(-1))
    with pytest.raises(ValueError, match="backend='native' cannot run this rollout"):
        port_rollout(unknown, z, u[:, :0], 0.1, method="leapfrog", backend="native")


@pytest.mark.parametrize("make", SYSTEMS)
@pytest.mark.parametrize("method", METHODS)
def test_gradients(method, make):
    system = make(condition_dim=1)
    names = [name for name, _ in system.named_parameters()]
    dt = torch.tensor(0.3, dtype=torch.float64)
    inputs = (normal(2, 4), controls_for(system, 2, 1), normal(2, 1, seed=9), dt)
    inputs = [x.clone().requires_grad_() for x in (*inputs, *(p.detach() for p in system.parameters()))]

    class Rollout(nn.Module):
        """What ``functional_call`` can hand parameters to."""

        def __init__(self):
            super().__init__()
            self.system = system

        def forward(self, z, u, c, dt):
            return port_rollout(self.system, z, u, dt, method=method, condition=c, return_energy=True)

    module = Rollout()

    def run(z, u, c, dt, *parameters):
        given = {f"system.{name}": parameter for name, parameter in zip(names, parameters, strict=True)}
        return torch.func.functional_call(module, given, (z, u, c, dt))

    assert torch.autograd.gradcheck(run, inputs, atol=1e-7, rtol=1e-6, fast_mode=True)


def test_gradients_reach_back_over_steps():
    system = constant()
    inputs = normal(1, 4).requires_grad_(), normal(1, 3, M).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, u: port_rollout(system, z, u, 0.3), inputs, fast_mode=True)


@pytest.mark.parametrize("method", ["discrete_gradient", "leapfrog", "extended"])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_shapes(steps, batch, method):
    system, z, u = varying(), normal(*batch, 4), normal(*batch, steps, M)
    trajectory, energies, info = port_rollout(system, z, u, 0.1, method=method, return_energy=True, return_info=True)
    assert trajectory.shape == (*batch, steps + 1, 4)
    assert energies.shape == (*batch, steps + 1)
    assert all(entry.shape == (*batch, steps) for entry in info)
    assert torch.equal(trajectory[..., 0, :], z)
    assert trajectory.data_ptr() != z.data_ptr() or not z.numel()
    assert diagnostics.supplied_energy(system, trajectory, u, 0.1).shape == (*batch, steps)
    for sample in range(len(z)) if len(batch) == 1 else ():
        alone = port_rollout(system, z[sample], u[sample], 0.1, method=method)
        torch.testing.assert_close(alone, trajectory[sample])


def test_controls_are_shared_by_a_batch():
    system, z, u = constant(), normal(2, 3, 4), normal(4, M)
    assert torch.equal(port_rollout(system, z, u, 0.1), port_rollout(system, z, u.expand(2, 3, 4, M), 0.1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_grad_mode_changes_no_value(mode, method):
    # With steps this long plain iteration does not contract everywhere.
    system, z, u, c = varying(condition_dim=1), normal(3, 4), normal(3, 2, M), normal(3, 1, seed=9)
    options = {"method": method, "return_energy": True, "backend": "reference"}
    recorded = port_rollout(system, z, u, 0.6, condition=c, **options)
    with mode():
        dt = torch.tensor(0.6, dtype=torch.float64)
        plain = port_rollout(system, z, u, 0.6, condition=c, **options)
        born = port_rollout(system, z.clone(), u.clone(), dt, condition=c.clone(), **options)
    for results in (plain, born):
        for got, want in zip(results, recorded, strict=True):
            assert not got.requires_grad
            assert got.is_inference() == (mode is torch.inference_mode)
            assert torch.equal(got, want)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_grad_mode_changes_native_values_by_rounding(mode, method):
    system, z, u, c = constant(condition_dim=1), normal(3, 4), normal(3, 4, M), normal(3, 1, seed=9)
    recorded = port_rollout(system, z, u, 0.3, method=method, condition=c, return_energy=True)
    with mode():
        plain = port_rollout(system, z, u, 0.3, method=method, condition=c, return_energy=True)
    for got, want in zip(plain, recorded, strict=True):
        torch.testing.assert_close(got, want.detach(), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("method", ["leapfrog", "implicit_midpoint", "discrete_gradient"])
def test_a_subclass_may_add_what_it_likes(method, backend):
    """A ``rest`` of its own is called with the gradient, also where no part is there that would need one."""

    class Rubbed(PortHamiltonian):
        def rest(self, z, gradient, u=None):
            return -0.3 * gradient

    H, z = energy(), normal(5, 4)
    ours = port_rollout(Rubbed(H), z, z.new_zeros(5, 20, 0), 0.01, method=method, backend=backend)
    scaled = PortHamiltonian(H, dissipation=math.sqrt(0.3) * torch.eye(4, dtype=torch.float64))
    theirs = port_rollout(scaled, z, z.new_zeros(5, 20, 0), 0.01, method=method)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_a_condition_reaches_the_energy():
    system, z, u = constant(condition_dim=1), normal(3, 4), normal(3, 2, M)
    one, other = (port_rollout(system, z, u, 0.1, condition=torch.full((1,), c).double()) for c in (0.0, 1.0))
    assert (one - other)[:, 1:].abs().min() > 1e-6


@pytest.mark.parametrize("method", ["discrete_gradient", "stormer_verlet"])
def test_unsolved_steps_are_told(method):
    system, z, u = constant(), normal(3, 4).requires_grad_(), normal(3, 4, M)
    with pytest.warns(RuntimeWarning, match="3 of 3 trajectories were not solved"):
        port_rollout(system, z, u, 0.5, method=method, max_iterations=1)
    trajectory, info = port_rollout(system, z, u, 0.5, method=method, max_iterations=1, return_info=True)
    assert not info.converged.any()
    trajectory[:, 1:].sum().backward()
    assert not z.grad.any()
    assert all(not parameter.grad.any() for parameter in system.parameters() if parameter.grad is not None)


def test_modules_move_copy_and_save():
    system = constant(torch.float32)
    wide = copy.deepcopy(system).double()
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float64}
    other = constant(torch.float32)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(system.state_dict())
    z, u = normal(3, 4, dtype=torch.float32), normal(3, 2, M, dtype=torch.float32)
    assert torch.equal(port_rollout(other, z, u, 0.1), port_rollout(system, z, u, 0.1))
    assert "dissipation=(4, 3), inputs=(4, 2), damping=(2,)" in repr(system)


def test_a_parameter_is_shared():
    L = nn.Parameter(normal(4, 2))
    assert PortHamiltonian(energy(), dissipation=L).dissipation is L


@pytest.mark.parametrize("gamma", [1e-6, 0.3, 50.0])
def test_damping_starts_where_it_is_told(gamma):
    assert PortHamiltonian(energy(), damping=gamma).damping.item() == pytest.approx(gamma, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"H": 3}, TypeError, "H must be a HamiltonianMLP or another callable, got int"),
        ({"dissipation": 0.1}, TypeError, r"dissipation must be a tensor \(2d,\) or \(2d, r\), .*, got float"),
        ({"dissipation": torch.ones(1, 4, 2)}, ValueError, r"dissipation must be .* got shape \(1, 4, 2\)"),
        ({"dissipation": torch.ones(4, 2).long()}, TypeError, "dissipation must be a floating-point tensor, got"),
        ({"dissipation": torch.ones(6, 2)}, ValueError, "dissipation must be for one even size 2d of the state"),
        ({"inputs": torch.ones(4)}, ValueError, r"inputs must be a tensor \(2d, m\), .*, got shape \(4,\)"),
        ({"inputs": torch.ones(4, 0)}, ValueError, r"inputs must be .* got shape \(4, 0\)"),
        ({"inputs": torch.ones(2, 4)}, ValueError, "inputs must be for one even size 2d of the state"),
        ({"residual": torch.zeros_like}, TypeError, "residual must be an nn.Module or None, got builtin"),
        ({"damping": "0.1"}, TypeError, "damping must be a float, a tensor or None, got str"),
        ({"damping": True}, TypeError, "damping must be a float, a tensor or None, got bool"),
        ({"damping": 0.0}, ValueError, "damping must be positive and finite, got 0.0"),
        ({"damping": math.inf}, ValueError, "damping must be positive and finite, got inf"),
        ({"damping": torch.tensor([0.1, -0.1])}, ValueError, "damping must be positive and finite, got tensor"),
        ({"damping": torch.ones(2, 2)}, ValueError, r"damping must have shape \(\) or \(d,\), got \(2, 2\)"),
        ({"damping": torch.ones(2).long()}, TypeError, "damping must be a floating-point tensor, got torch.int64"),
        ({"damping": torch.ones(3)}, ValueError, "damping must be for one even size 2d of the state"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value),  # without a function's address
)
def test_bad_systems(arguments, error, message):
    with pytest.raises(error, match=message):
        PortHamiltonian(**{"H": energy(), **arguments})


def test_odd_sizes_without_a_network_that_says_so():
    with pytest.raises(ValueError, match="dissipation must be for one even size 2d of the state"):
        PortHamiltonian(oscillator, dissipation=torch.ones(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": 0}, "columns must be positive or None, got 0"),
        ({"dim": 0}, "dim must be positive, got 0"),
        ({"hidden": ()}, "hidden must be one or more positive widths"),
        ({"activation": "relu"}, "activation must be one of"),
    ],
    ids=str,
)
def test_bad_matrices(arguments, message):
    with pytest.raises(ValueError, match=message):
        MatrixMLP(**{"dim": 4, "columns": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"system": oscillator}, TypeError, "system must be a PortHamiltonian, got function"),
        ({"z0": normal(3, 5)}, ValueError, r"z0 must have shape \(\.\.\., 2d\) with an even last dimension"),
        ({"z0": normal(3, 6)}, ValueError, r"z0 must have shape \(\.\.\., 4\) for this H, got \(3, 6\)"),
        ({"z0": normal(3, 4).float()}, TypeError, "z0 must have the dtype of H's parameters, torch.float64, got"),
        ({"z0": normal(3, 4).to("meta")}, ValueError, "z0 must be on the device of H's parameters, cpu, got meta"),
        ({"dt": math.nan}, ValueError, "dt must be finite, got nan"),
        ({"dt": torch.tensor(math.inf)}, ValueError, "dt must be finite, got inf"),
        ({"dt": torch.ones(2)}, ValueError, r"dt must be a float or a 0-d tensor, got shape \(2,\)"),
        ({"method": "verlet"}, ValueError, "method must be one of"),
        ({"tol": 0.0}, ValueError, "tol must be a positive number or None, got 0.0"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be one or more, got 0"),
        ({"controls": None}, TypeError, r"controls must be a torch\.Tensor, got NoneType"),
        ({"controls": normal(3, 2, M).float()}, TypeError, "controls must have z0's dtype, torch.float64, got"),
        ({"controls": normal(3, 2, M).to("meta")}, ValueError, "controls must be on z0's device, cpu, got meta"),
        ({"controls": normal(M)}, ValueError, r"controls must have shape \(\.\.\., steps, 2\) .*, got \(2,\)"),
        ({"controls": normal(3, 2, 3)}, ValueError, r"controls must have shape \(\.\.\., steps, 2\) .*, got"),
        ({"controls": normal(5, 2, M)}, ValueError, r"controls must have shape \(3, 2, 2\) \(z0's batch\), got"),
        ({"condition": normal(3, 1)}, ValueError, "condition must be None for a network built with condition_dim=0"),
        ({"condition": 1.0}, TypeError, r"condition must be a torch\.Tensor, got float"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value),  # without a function's address
)
@pytest.mark.parametrize("make", [constant, varying])
def test_bad_rollouts(make, arguments, error, message):
    given = {"system": make(), "z0": normal(3, 4), "controls": normal(3, 2, M), "dt": 0.1, **arguments}
    with pytest.raises(error, match=message):
        port_rollout(**given)


def test_parts_of_another_kind_than_the_state():
    z, u = normal(3, 4), normal(3, 2, 0)
    with pytest.raises(TypeError, match=r"z0 must have the dtype of the system's raw_damping, torch.float32, got"):
        port_rollout(PortHamiltonian(energy(), damping=0.1), z, u, 0.1)
    with pytest.raises(ValueError, match=r"z0 must be on the device of the system's dissipation, meta, got cpu"):
        port_rollout(PortHamiltonian(oscillator, dissipation=normal(4).to("meta")), z, u, 0.1)
    with pytest.raises(ValueError, match=r"z0 must have shape \(\.\.\., 6\) for this system, got \(3, 4\)"):
        port_rollout(PortHamiltonian(oscillator, dissipation=normal(6)), z, u, 0.1)
    with pytest.raises(ValueError, match=r"controls must have shape \(\.\.\., steps, 0\) for this system, got"):
        port_rollout(PortHamiltonian(energy()), z, normal(3, 2, M), 0.1)


@pytest.mark.parametrize("name", ["dissipation", "inputs", "residual"])
def test_modules_that_return_the_wrong_shape(name):
    system = PortHamiltonian(energy(), **{name: nn.Linear(4, 3, dtype=torch.float64)})
    m = 3 if name == "inputs" else 0
    with pytest.raises(ValueError, match=rf"{name} must return \(\.\.\., 2d.* for z of shape \(3, 4\), got \(3, 3\)"):
        port_rollout(system, normal(3, 4), normal(3, 2, m), 0.1)


def test_function_transforms_are_declined():
    system, u = PortHamiltonian(energy()), normal(2, 0)
    with pytest.raises(ValueError, match=r"torch\.func transforms"):
        torch.func.vmap(lambda z: port_rollout(system, z, u, 0.1))(normal(3, 4))


def test_violation_by_hand():
    """A residual that feeds the momentum: dt f . D is what the energy gains."""
    residual = nn.Linear(2, 2, bias=True).double()
    with torch.no_grad():
        residual.weight.zero_()
        residual.bias.copy_(torch.tensor([0.0, 1.0]))
    system = PortHamiltonian(oscillator, residual=residual)
    z, u, dt = torch.tensor([[0.0, 1.0], [0.0, -2.0]]).double(), torch.zeros(2, 1, 0).double(), 0.1
    violation = diagnostics.passivity_violation(system, z, u, dt)
    # q' = p, p' = 1 - q by the midpoint rule, which the discrete gradient of a quadratic energy is.
    middle = (z[:, 1] + dt / 2) / (1 + dt**2 / 4)
    torch.testing.assert_close(violation.absolute[:, 0], (dt * middle).clamp(min=0))
    assert violation.absolute[1] == 0
    torch.testing.assert_close(violation.relative, violation.absolute / torch.tensor([0.5, 2.0]).double().std())
    assert torch.equal(diagnostics.passivity_violation(system, z, u, dt, scale=2.0).relative, violation.absolute / 2)
    assert violation.converged.all()


def test_violation_of_passive_and_other_steps():
    system, z, u = constant(), normal(8, 4), 3 * normal(8, 8, M)
    system.residual = system.raw_damping = None
    assert diagnostics.passivity_violation(system, z, u, 0.5).relative.max() < 1e-12
    assert diagnostics.passivity_violation(system, z, u, 0.5, method="euler").relative.max() > 1e-3
    with pytest.raises(ValueError, match="scale must be given"):
        diagnostics.passivity_violation(system, z[:1], u[:1], 0.5)
    with pytest.raises(ValueError, match="trajectory must have one state more"):
        diagnostics.supplied_energy(system, normal(8, 8, 4), u, 0.5)


def test_supplied_energy_sees_through_the_damping():
    """By the damping alone the energy of the oscillator falls, and what the controls supply is beside it."""
    system = PortHamiltonian(oscillator, inputs=normal(2, 1), damping=torch.tensor(0.7, dtype=torch.float64))
    z, u, dt = normal(5, 2), normal(5, 1, 1), 0.4
    with torch.no_grad():
        trajectory = port_rollout(system, z, u, dt)
        work = diagnostics.supplied_energy(system, trajectory, u, dt)[:, 0]
        before, after = system.damped(z, dt / 2), system.damped(trajectory[:, 1], -dt / 2)
    torch.testing.assert_close(work, oscillator(after) - oscillator(before))


def test_plot():
    pytest.importorskip("matplotlib")
    system, z, u = constant(), normal(3, 4), normal(3, 10, M)
    figure = diagnostics.plot_passivity(system, z, u, 0.3)
    balance, beyond = figure.axes
    _, energies = port_rollout(system, z, u, 0.3, return_energy=True)
    drawn = torch.tensor([line.get_ydata().tolist() for line in balance.lines[:3]])
    torch.testing.assert_close(drawn.double(), (energies - energies[:, :1]).detach())
    assert len(balance.lines) == 6
    assert beyond.get_yscale() == "log"
